"""Tables of scores: of images, breasts, examinations and patients; of bad files."""

import collections
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mammo_jax.common.tables import table_bytes
from mammo_jax.evaluation.predictions import COLUMNS
from mammo_jax.evaluation.subgroups import patient_score
from mammo_jax.prediction.identity import FORMULA_STARTS, Identity
from mammo_jax.prediction.reading import Problem
from mammo_jax.weights.model_description import FILM, FOR_PRESENTATION

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
FILES_TABLE, FILES_COLUMNS = "files.csv", ("image_index", "file")
TABLES = (*PREDICTION_TABLES, FILES_TABLE, "problems.csv")

_SEVERAL_EXAMS = (
    "Patients with images of several examinations (studies): {}. Their scores in "
    "breasts.csv and patients.csv are of all of them; exams.csv has each by itself."
)
_NO_FILMS = (
    "Images of detectors (FOR PRESENTATION): {}. A model was trained on films, which "
    "have another scale and contrast: nothing is known of its scores here before it "
    "has been evaluated on such images, or trained on some."
)


class ImageScore(NamedTuple):
    """Image that was scored; its label is 0, 1 or empty, its intent its header's."""

    identity: Identity
    path: Path
    laterality: str
    view: str
    score: float
    label: str = ""
    intent: str = ""

    def cells(self) -> list[str]:
        """Returns its row of predictions.csv."""
        view = self.view if self.view in _VIEWS else ""
        name, _, patient, _ = self.identity
        return [name, f"{self.score:.9g}", self.label, patient, self.laterality, view]


def summary_tables(
    rows: Sequence[ImageScore], problems: Sequence[Problem]
) -> dict[str, bytes]:
    """Makes the tables that are written at the end, by their names.

    Those of scores are prediction tables in the order of the files. A breast's score is
    the mean of its images' scores, a patient's the higher of the two breasts', and the
    label the highest of the images'; the column malignant_max has the highest score of
    all images. Images without laterality are of no breast. An examination's rows are
    its breasts, and its images without laterality.
    """
    tables = {
        name: table_bytes([_GROUPED, *_grouped(rows, keys)])
        for name, keys in _GROUPS.items()
    }
    listed = [[shown_path(problem.path), problem.reason] for problem in problems]
    return tables | {"problems.csv": table_bytes([("file", "problem"), *listed])}


def shown_path(path: Path) -> str:
    """Returns a path that no spreadsheet takes for a formula."""
    return f"./{path}" if str(path).startswith(FORMULA_STARTS) else str(path)


def remarks(rows: Sequence[ImageScore], intents: Iterable[str | None]) -> list[str]:
    """Says what the scores do not show of themselves.

    That is how many cases have images of several examinations, and how many images are
    of detectors while a model, by its intent, was trained on films.
    """
    exams = {(row.identity.case, row.identity.exam) for row in rows}
    counts = collections.Counter(case for case, _ in exams)
    several = sum(count > 1 for count in counts.values())
    detectors = sum(row.intent == FOR_PRESENTATION for row in rows)
    found = {_SEVERAL_EXAMS: several, _NO_FILMS: detectors * (FILM in intents)}
    return [remark.format(number) for remark, number in found.items() if number]


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
            max(row.label for row in members),
            members[0].identity.patient_id,
            members[0].laterality if "side" in keys else "",
            "",
            f"{max(scores):.9g}",
            len(scores),
        ]
