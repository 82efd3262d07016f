"""Tables of scores: of images, breasts, examinations and patients; of bad files."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mammo_jax.common.tables import write_table
from mammo_jax.evaluation.predictions import COLUMNS
from mammo_jax.evaluation.subgroups import patient_score
from mammo_jax.prediction.identity import Identity
from mammo_jax.prediction.reading import Problem

# The prediction table knows these views; other views have an empty cell.
_VIEWS = ("CC", "MLO")
_GROUPED = (*COLUMNS, "malignant_max", "images")
# The images of one row share these columns.
_GROUPS = {
    "breasts.csv": ("case", "side"),
    "exams.csv": ("case", "exam", "side"),
    "patients.csv": ("case",),
}
# Every table that is written, with the header of those of scores.
PREDICTION_TABLES = {"predictions.csv": COLUMNS, **dict.fromkeys(_GROUPS, _GROUPED)}
TABLES = (*PREDICTION_TABLES, "files.csv", "problems.csv")


class ImageScore(NamedTuple):
    """Image that was scored."""

    identity: Identity
    path: Path
    laterality: str
    view: str
    score: float


def write_tables(
    out: Path, rows: Sequence[ImageScore], problems: Sequence[Problem]
) -> None:
    """Writes `TABLES`.

    The first four are prediction tables, in the order of the files, with an empty
    label. A breast's score is the mean of its images' scores, a patient's the higher of
    the two breasts'; the column malignant_max has the highest of all images. Images
    without laterality are of no breast. An examination's rows are its breasts, and its
    images without laterality.
    files.csv and problems.csv alone have paths, which are whatever the files are
    called.
    """
    write_table(
        out / "predictions.csv",
        COLUMNS,
        (
            [
                row.identity.image_id,
                f"{row.score:.9g}",
                "",
                row.identity.patient_id,
                row.laterality,
                row.view if row.view in _VIEWS else "",
            ]
            for row in rows
        ),
    )
    for name, keys in _GROUPS.items():
        write_table(out / name, _GROUPED, _grouped(rows, keys))
    write_table(
        out / "files.csv",
        ("image_index", "file"),
        ([row.identity.image_id, row.path] for row in rows),
    )
    write_table(
        out / "problems.csv",
        ("file", "problem"),
        ([problem.path, problem.reason] for problem in problems),
    )


def is_as_written(path: Path) -> bool:
    """Returns True if one of `PREDICTION_TABLES` is missing or still without labels.

    Labels that were filled in are work that a new prediction must not replace.
    """
    if not path.exists():
        return True
    header = [*PREDICTION_TABLES[path.name]]
    label = header.index("malignant_label")
    try:
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            rows = csv.reader(file, strict=True)
            return next(rows, None) == header and all(
                len(row) == len(header) and not row[label] for row in rows
            )
    except csv.Error:
        return False


def _grouped(rows: Sequence[ImageScore], keys: Sequence[str]) -> Iterable[list[Any]]:
    groups: dict[tuple[str, ...], list[ImageScore]] = {}
    for row in rows:
        parts = {
            "case": row.identity.case,
            "exam": f"exam_{row.identity.exam}",
            "side": row.laterality,
        }
        if row.laterality or keys != _GROUPS["breasts.csv"]:
            groups.setdefault(tuple(parts[key] for key in keys), []).append(row)
    for group, members in groups.items():
        scores = [row.score for row in members]
        yield [
            "_".join(part for part in group if part),
            f"{patient_score(scores, [row.laterality for row in members]):.9g}",
            "",
            members[0].identity.patient_id,
            members[0].laterality if "side" in keys else "",
            "",
            f"{max(scores):.9g}",
            len(scores),
        ]
