"""Scores of phantoms that travel with a model: `expected_scores.csv`.

Anyone can draw the phantoms (`make-phantom --layout=cbis_ddsm --cases=4` with the
table's seed and height; row n is the first view of the n-th patient), score them, and
so find out if the model computes there what it computed where it was made.
"""

import dataclasses
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import UInt16

from mammo_jax.common.errors import UserError
from mammo_jax.common.tables import Column, read_table, text_column, write_table
from mammo_jax.images.grid import Grid, to_grid
from mammo_jax.models import variables
from mammo_jax.models.compiling import jit_network
from mammo_jax.phantom.catalogue import make_catalogue
from mammo_jax.phantom.cbis_layout import draw_view
from mammo_jax.phantom.mammogram import VERSION
from mammo_jax.phantom.output_folder import HEIGHTS
from mammo_jax.prediction.scorer import make_step
from mammo_jax.weights.model_directory import LoadedModel

EXPECTED_FILE = "expected_scores.csv"
TOLERANCE = 1e-4
_CASES, _SEED, _TEST_SHARE = 4, 0, 0.2
_REMEDY = "share-model writes it; copy it again from where the model was made"


class Phantom(NamedTuple):
    """Row of the table: a drawing, and the model's score of it.

    Attributes:
      phantom: number of the patient in the set, from 1.
      generator: version of the drawings.
      seed: the set's.
      height: rows of the film, about.
      pixels: SHA-256 of the pixels on the model's grid; it tells another drawing from
        another model.
      score: 0..1, in float32 at the highest precision of products.
    """

    phantom: int
    generator: int
    seed: int
    height: int
    pixels: str
    score: float


def expected_scores(model: LoadedModel) -> list[Phantom]:
    """Draws the phantoms at about the height of the model's grid, and scores them."""
    height = _height(model)
    plans = [(number, VERSION, _SEED, height) for number in range(1, _CASES + 1)]
    return list(_score(model, plans))


def _height(model: LoadedModel) -> int:
    return min(max(model.description.height, HEIGHTS[0]), HEIGHTS[1])


def write_expected(folder: Path, rows: Iterable[Phantom]) -> None:
    """Writes the table into a model's directory."""
    write_table(folder / EXPECTED_FILE, Phantom._fields, rows)


def score_again(model: LoadedModel, directory: Path) -> list[tuple[Phantom, Phantom]]:
    """Returns the rows of a directory's table, each as it comes out here.

    Raises:
      UserError: the table is missing, damaged, of another version of the drawings, or
        of another height than the model's.
    """
    path = directory / EXPECTED_FILE
    rows = read_expected(path)
    if others := sorted({row.generator for row in rows} - {VERSION}):
        raise UserError(
            f"{path} is of phantoms of version {others[0]}, and this mammo_jax draws "
            f"version {VERSION}: nothing can be said of the model; check it with the "
            "mammo_jax that made it, or share it again from its run"
        )
    # Large drawings, for which a hostile table may ask, take all memory.
    if others := sorted({row.height for row in rows} - {height := _height(model)}):
        raise UserError(
            f"{path} has phantoms of height {others[0]}, and the model's are of "
            f"{height}; {_REMEDY}"
        )
    found = _score(model, [row[:4] for row in rows])
    return list(zip(rows, found, strict=True))


def refuse_differences(pairs: Sequence[tuple[Phantom, Phantom]]) -> None:
    """Refuses phantoms that score here otherwise than where the model was made.

    Raises:
      UserError: a score differs by more than `TOLERANCE`.
    """
    far = [(a, b) for a, b in pairs if not abs(a.score - b.score) <= TOLERANCE]
    if not far:
        return
    largest = max(abs(there.score - here.score) for there, here in far)
    reason = (
        "the phantoms are drawn otherwise here (another NumPy or OpenCV?), so that "
        "nothing can be said of the model; check it with the packages of "
        "requirements.lock"
        if any(there.pixels != here.pixels for there, here in far)
        else "the model does not compute what it did where it was made; get the folder "
        "again, and look at the versions of jax and jaxlib"
    )
    raise UserError(
        f"{len(far)} of {len(pairs)} scores of phantoms differ by more than "
        f"{TOLERANCE:g} (by up to {largest:.2g}): {reason}"
    )


def _score(
    model: LoadedModel, plans: Iterable[tuple[int, int, int, int]]
) -> Iterator[Phantom]:
    network = variables.merge(model.graphdef, model.params, {})
    for _, module in nnx.iter_modules(network):
        if hasattr(module, "dtype"):
            module.dtype = jnp.dtype(jnp.float32)
    exact = dataclasses.replace(model, graphdef=variables.split(network)[0])
    step = jit_network(make_step(exact, tta=False, at_once=True))
    for number, generator, seed, height in plans:
        image = _draw(number, seed, height, model.description.grid)
        with jax.default_matmul_precision("highest"):
            scores = step(model.params, {}, image[None]).scores
        score = float(np.asarray(scores).item())
        if not np.isfinite(score):
            raise UserError(
                "the model's outputs are not finite; it was not trained to an end"
            )
        digest = hashlib.sha256(image.astype("<u2").tobytes()).hexdigest()
        yield Phantom(number, generator, seed, height, digest, score)


def _draw(
    number: int, seed: int, height: int, grid: Grid
) -> UInt16[np.ndarray, "height width"]:
    """Draws the first view of a patient of the set, on a model's grid."""
    catalogue = make_catalogue(seed, _CASES, _TEST_SHARE)
    patient = [*dict.fromkeys(breast.patient_id for breast in catalogue)][number - 1]
    breast = next(breast for breast in catalogue if breast.patient_id == patient)
    film = draw_view(seed, breast, breast.views[0], height)
    return to_grid(film.pixels, grid.height, grid.width, stretch=grid.stretch)


def read_expected(path: Path) -> list[Phantom]:
    """Reads the table.

    Raises:
      UserError: it is missing or damaged.
    """
    rows = [Phantom(**row) for _, row in read_table(path, _COLUMNS, remedy=_REMEDY)]
    if [row.phantom for row in rows] != [*range(1, _CASES + 1)]:
        raise UserError(
            f"{path}: its rows must be those of the phantoms 1 to {_CASES}, in order; "
            f"{_REMEDY}"
        )
    return rows


def _whole(lowest: int, highest: int) -> Column:
    """Makes the rule for whole numbers of a range."""

    def parse(cell: str) -> int:
        if not re.fullmatch("[0-9]{1,18}", cell) or not lowest <= int(cell) <= highest:
            raise ValueError
        return int(cell)

    return Column(parse, f"a whole number from {lowest} to {highest}")


def _share(cell: str) -> float:
    if not re.fullmatch(r"[01](\.[0-9]+)?|[0-9](\.[0-9]+)?e-[0-9]+", cell):
        raise ValueError
    if not 0 <= float(cell) <= 1:
        raise ValueError
    return float(cell)


_COLUMNS = {
    "phantom": _whole(1, _CASES),
    "generator": _whole(1, 10**6),
    "seed": _whole(0, 10**18 - 1),
    "height": _whole(*HEIGHTS),
    "pixels": text_column("[0-9a-f]{64}"),
    "score": Column(_share, "a number from 0 to 1"),
}
