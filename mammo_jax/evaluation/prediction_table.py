"""Reading prediction tables back, checked; and averaging those of several models."""

import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from mammo_jax.common import tables
from mammo_jax.common.errors import UserError
from mammo_jax.common.tables import Column, text_column
from mammo_jax.evaluation.predictions import COLUMNS

_MAX_ID = 256
# Python's own float would take 0.1_1, nan and the digits of other scripts as well.
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_SHOWN = 3


@dataclasses.dataclass(frozen=True)
class PredictionTable:
    """The rows of a prediction table, column by column, in the file's order.

    Attributes:
      name: the file, or the files whose scores were averaged.
      image_ids: all different.
      scores: 0..1, higher is more suspicious.
      labels: 1 where the truth is malignant, else 0.
      patient_ids: the patient of each image.
      lateralities: LEFT, RIGHT or empty.
      views: CC, MLO or empty.
      breast_densities: BI-RADS density 1 to 4; 0 where unknown.
      abnormality_types: see `DETAIL_COLUMNS`; empty where unknown or without.
      lesion_sizes: see `DETAIL_COLUMNS`; NaN where unknown or without.
    """

    name: str
    image_ids: tuple[str, ...]
    scores: Float[np.ndarray, " images"]
    labels: Int[np.ndarray, " images"]
    patient_ids: tuple[str, ...]
    lateralities: tuple[str, ...]
    views: tuple[str, ...]
    breast_densities: Int[np.ndarray, " images"]
    abnormality_types: tuple[str, ...]
    lesion_sizes: Float[np.ndarray, " images"]


def read_table(path: Path) -> PredictionTable:
    """Reads one prediction table.

    The columns may be in any order and others may stand beside them; those of
    `DETAIL_COLUMNS` may be missing.

    Raises:
      UserError: no such file, not CSV, a missing or repeated column, no rows, an id
        twice, a score that is no number from 0 to 1, any other value out of range, or
        too large; names the file, the row and the column.
    """
    rows = tables.read_table(
        path,
        _TABLE_COLUMNS,
        remedy=f"a prediction table starts with the line {','.join(COLUMNS)}",
    )
    if not rows:
        raise UserError(f"{path}: the table has no rows")
    row_of: dict[str, int] = {}
    for number, row in rows:
        first = row_of.setdefault(row["image_index"], number)
        if first != number:
            raise UserError(
                f"{path}: row {number}, column 'image_index': {row['image_index']!r} "
                f"is also in row {first}; every image has one row"
            )
    columns = [[row[name] for _, row in rows] for name in _TABLE_COLUMNS]
    fields: list[Any] = [
        tuple(cells) if isinstance(cells[0], str) else np.array(cells)
        for cells in columns
    ]
    return PredictionTable(str(path), *fields)


def _some_text(cell: str) -> str:
    if not 0 < len(cell) <= _MAX_ID:
        raise ValueError
    return cell


def _number(holds: Callable[[float], bool]) -> Callable[[str], float]:
    """Makes the rule for numbers; every other cell is refused, an empty one too."""

    def parse(cell: str) -> float:
        if not _NUMBER.fullmatch(cell) or not holds(float(cell)):
            raise ValueError
        return float(cell)

    return parse


_size = _number(lambda value: 0 < value < math.inf)
_ID = Column(_some_text, f"an id of 1 to {_MAX_ID} characters")
# In the order of the fields of `PredictionTable`.
_TABLE_COLUMNS = {
    "image_index": _ID,
    "malignant_pred": Column(
        _number(lambda value: 0 <= value <= 1), "a number from 0 to 1"
    ),
    "malignant_label": Column(
        tables.LABEL.parse,
        "0 or 1: without the truth there is nothing to evaluate",
    ),
    "patient_id": _ID,
    "laterality": Column(
        lambda cell: cell and tables.LATERALITY.parse(cell), "LEFT, RIGHT or empty"
    ),
    "view": text_column("CC|MLO|"),
    "breast_density": Column(
        {"": 0, "0": 0, "1": 1, "2": 2, "3": 3, "4": 4}.__getitem__,
        "1 to 4 or empty",
        needed=False,
    ),
    "abnormality_types": text_column("calc|mass|calc;mass", needed=False),
    "lesion_size": Column(
        lambda cell: _size(cell) if cell else math.nan,
        "a number above 0 or empty",
        needed=False,
    ),
}


def mean_table(tables: Sequence[PredictionTable]) -> PredictionTable:
    """Averages the scores of tables, each alike; all else is the first table's.

    Raises:
      UserError: as `align`.
    """
    first = tables[0]
    scores = [first.scores, *(align(table, first).scores for table in tables[1:])]
    return dataclasses.replace(
        first,
        name=", ".join(table.name for table in tables),
        scores=np.mean(scores, axis=0),
    )


def align(table: PredictionTable, like: PredictionTable) -> PredictionTable:
    """Returns the rows of `table` in the order of `like`, matched by image id.

    Raises:
      UserError: they are not of the same images, or differ in an image's label or
        patient.
    """
    if not {*like.image_ids} & {*table.image_ids}:
        raise UserError(
            f"{table.name} and {like.name} have no image in common "
            f"({table.image_ids[0]} is in the one, {like.image_ids[0]} in the other): "
            "they are of different splits or data sets"
        )
    for one, other in ((like, table), (table, like)):
        missing = sorted({*one.image_ids} - {*other.image_ids})
        if missing:
            raise UserError(
                f"{other.name} and {one.name} are not of the same images: "
                f"{len(missing)} of {len(one.image_ids)} images are in "
                f"{one.name} only ({few(missing)})"
            )
    row_of = {image: row for row, image in enumerate(table.image_ids)}
    order = [row_of[image] for image in like.image_ids]
    aligned = take(table, order)
    for field in ("labels", "patient_ids"):
        pairs = zip(getattr(aligned, field), getattr(like, field), strict=True)
        different = [
            image
            for image, (there, here) in zip(like.image_ids, pairs, strict=True)
            if there != here
        ]
        if different:
            raise UserError(
                f"{table.name} and {like.name} disagree on the "
                f"{field.removesuffix('s').replace('_', ' ')} of {few(different)}"
            )
    return aligned


def overlap(test: PredictionTable, validation: PredictionTable) -> str:
    """Says what the tables share; empty where nothing may be chosen wrongly.

    Images are compared by id, and patients likewise: the same image may have another
    id in another table, and another view of a patient is no new patient.
    """
    for what, ours, theirs in (
        ("images", test.image_ids, validation.image_ids),
        ("patients", test.patient_ids, validation.patient_ids),
    ):
        shared = {*ours} & {*theirs}
        if shared:
            return f"{len(shared)} {what}"  # Not which: a page is passed on.
    return ""


def take(table: PredictionTable, rows: Sequence[int]) -> PredictionTable:
    """Returns the table of the given rows, in that order."""
    columns: dict[str, Any] = {
        name: x[list(rows)] if isinstance(x, np.ndarray) else tuple(x[r] for r in rows)
        for name, x in vars(table).items()
        if name != "name"
    }
    return dataclasses.replace(table, **columns)


def few(ids: Sequence[str]) -> str:
    """Names the first few of many ids, and how many more there are."""
    more = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
    return ", ".join(ids[:_SHOWN]) + more
