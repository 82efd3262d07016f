"""Reading prediction tables back, checked; and averaging those of several models."""

import csv
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from mammo_jax.errors import UserError
from mammo_jax.evaluation.predictions import COLUMNS, DETAIL_COLUMNS

# A table of a million images is some 60 MB; more is not a prediction table.
MAX_BYTES = 256 * 2**20
MAX_ROWS = 1_000_000
MAX_CELL = 256
_SHOWN = 3


@dataclasses.dataclass(frozen=True)
class PredictionTable:
    """The rows of a prediction table, column by column.

    Attributes:
      name: the file, or the files whose scores were averaged.
      image_ids: all different.
      scores: probability of malignancy, 0..1.
      labels: 1 where the truth is malignant, else 0.
      patient_ids: of each image.
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
        too large; names the file and the line.
    """
    rows = list(_read_rows(path))
    if not rows:
        raise UserError(f"{path}: the table has no rows")
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    return PredictionTable(
        name=str(path),
        image_ids=tuple(columns["image_index"]),
        scores=np.array(columns["malignant_pred"], np.float64),
        labels=np.array(columns["malignant_label"], np.int64),
        patient_ids=tuple(columns["patient_id"]),
        lateralities=tuple(columns["laterality"]),
        views=tuple(columns["view"]),
        breast_densities=np.array(columns["breast_density"], np.int64),
        abnormality_types=tuple(columns["abnormality_types"]),
        lesion_sizes=np.array(columns["lesion_size"], np.float64),
    )


def _read_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(
                f"{path}: larger than {MAX_BYTES // 2**20} MiB; this is no prediction "
                "table"
            )
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            _check_header(path, header)
            yield from _parse_rows(path, header, reader)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a CSV table ({error})") from error


def _check_header(path: Path, header: Sequence[str]) -> None:
    missing = [name for name in COLUMNS if name not in header]
    if missing:
        raise UserError(
            f"{path}: missing the columns {', '.join(missing)}; a prediction table "
            f"starts with the line {','.join(COLUMNS)}"
        )
    for name in (*COLUMNS, *DETAIL_COLUMNS):
        if header.count(name) > 1:
            raise UserError(f"{path}: the column {name} is there twice")


def _parse_rows(path: Path, header: Sequence[str], reader: Any) -> Iterator[dict]:
    line_of: dict[str, int] = {}
    for cells in reader:
        line = reader.line_num
        if not cells:
            continue  # A blank line, as some editors leave at the end.
        if len(cells) != len(header):
            raise UserError(
                f"{path}, line {line}: {len(cells)} cells, but the header has "
                f"{len(header)}"
            )
        if len(line_of) == MAX_ROWS:
            raise UserError(f"{path}: more than {MAX_ROWS} rows")
        found = dict(zip(header, (cell.strip() for cell in cells), strict=True))
        row = {name: _parse(path, line, name, found) for name in _PARSERS}
        first = line_of.setdefault(row["image_index"], line)
        if first != line:
            raise UserError(
                f"{path}, line {line}: image_index {row['image_index']!r} is also on "
                f"line {first}; every image has one row"
            )
        yield row


def _parse(path: Path, line: int, name: str, found: dict[str, str]) -> Any:
    text = found.get(name, "")
    parse, expected = _PARSERS[name]
    try:
        if len(text) > MAX_CELL:
            raise ValueError
        return parse(text)
    except (ValueError, KeyError):
        shown = text if len(text) <= 40 else text[:40] + "..."
        raise UserError(
            f"{path}, line {line}: {name} is {shown!r}; it must be {expected}"
        ) from None


def _some_text(text: str) -> str:
    if not text:
        raise ValueError
    return text


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:  # Not true of NaN either.
        raise ValueError
    return value


def _one_of(*allowed: str) -> Callable[[str], str]:
    return {name: name for name in allowed}.__getitem__


def _size(text: str) -> float:
    value = float(text) if text else math.nan
    if text and not 0 < value < math.inf:
        raise ValueError
    return value


_PARSERS: dict[str, tuple[Callable[[str], Any], str]] = {
    "image_index": (_some_text, f"an id of 1 to {MAX_CELL} characters"),
    "malignant_pred": (_share, "a number from 0 to 1"),
    "malignant_label": (
        {"0": 0, "1": 1}.__getitem__,
        "0 or 1: without the truth there is nothing to evaluate",
    ),
    "patient_id": (_some_text, f"an id of 1 to {MAX_CELL} characters"),
    "laterality": (_one_of("LEFT", "RIGHT", ""), "LEFT, RIGHT or empty"),
    "view": (_one_of("CC", "MLO", ""), "CC, MLO or empty"),
    "breast_density": (
        {"": 0, "0": 0, "1": 1, "2": 2, "3": 3, "4": 4}.__getitem__,
        "1 to 4 or empty",
    ),
    "abnormality_types": (
        _one_of("", "calc", "mass", "calc;mass"),
        "calc, mass, calc;mass or empty",
    ),
    "lesion_size": (_size, "a number above 0 or empty"),
}


def average_tables(paths: Sequence[Path]) -> PredictionTable:
    """Reads tables of the same images and averages their scores, each model alike.

    Everything but the scores is the first table's.

    Raises:
      UserError: as `read_table`; or the tables are not of the same images, or differ
        in an image's label or patient.
    """
    tables = [read_table(path) for path in paths]
    first = tables[0]
    scores = [first.scores, *(align(table, first).scores for table in tables[1:])]
    return dataclasses.replace(
        first,
        name=", ".join(table.name for table in tables),
        scores=np.mean(scores, axis=0),
    )


def align(table: PredictionTable, like: PredictionTable) -> PredictionTable:
    """The rows of `table` in the order of `like`, matched by image id.

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


def take(table: PredictionTable, rows: Sequence[int]) -> PredictionTable:
    """The table of the given rows, in that order."""
    columns: dict[str, Any] = {
        field.name: _pick(getattr(table, field.name), rows)
        for field in dataclasses.fields(table)
        if field.name != "name"
    }
    return dataclasses.replace(table, **columns)


def _pick(column: Any, rows: Sequence[int]) -> Any:
    if isinstance(column, np.ndarray):
        return column[list(rows)]
    return tuple(column[row] for row in rows)


def few(ids: Sequence[str]) -> str:
    """The first few of many ids, and how many more there are."""
    more = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
    return ", ".join(ids[:_SHOWN]) + more
