"""The four tables of CBIS-DDSM, as they really are.

Rows are abnormalities; the same view (patient, side, CC or MLO) can occur in several
rows, in both the mass and the calc table, and in both the training and the test
release. `read_tables` gives the abnormalities, `merge_views` the views.

Lee et al. (2017), Scientific Data 4:170177, doi:10.1038/sdata.2017.177.
"""

import dataclasses
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from mammo_jax.common.errors import UserError
from mammo_jax.common.tables import read_cells
from mammo_jax.datasets.labels import PATCH_CLASSES

RELEASES = ("train", "test")
TABLE_NAMES = {
    (kind, release): f"{kind}_case_description_{release}_set.csv"
    for release in RELEASES
    for kind in ("mass", "calc")
}

# Column -> what its cells may hold. Spelt with a space in the calc tables.
_COLUMNS = {
    "patient_id": r"P_\d{5}",
    "breast_density": r"[0-4]",
    "left_or_right_breast": r"LEFT|RIGHT",
    "image_view": r"CC|MLO",
    "abnormality_id": r"\d{1,3}",
    "abnormality_type": r"mass|calcification",
    "assessment": r"[0-6]",
    "pathology": r"MALIGNANT|BENIGN|BENIGN_WITHOUT_CALLBACK",
    "image_file_path": r"[^/]+/[\d.]+/[\d.]+/[^/]+",
    "cropped_image_file_path": r"[^/]+/[\d.]+/[\d.]+/[^/]+",
    "ROI_mask_file_path": r"[^/]+/[\d.]+/[\d.]+/[^/]+",
}


@dataclasses.dataclass(frozen=True)
class Abnormality:
    """One row of a table.

    Attributes:
      kind: "mass" or "calc", the table's name for it.
      release: "train" or "test".
      patient_id: "P_00016".
      laterality: "LEFT" or "RIGHT".
      view: "CC" or "MLO".
      abnormality_id: number of the abnormality, unique within table and view.
      breast_density: BI-RADS density 1..4; 0 occurs.
      assessment: BI-RADS category 0..6.
      pathology: "MALIGNANT", "BENIGN" or "BENIGN_WITHOUT_CALLBACK".
      image_folder: folder of the full image, "Mass-Training_P_00001_LEFT_CC".
      image_series: SeriesInstanceUID of the full image.
      roi_folder: folder of mask and crop, the same with "_1" at its end.
      roi_series: SeriesInstanceUIDs of mask and crop, often the same one.
      mask_name: file of the mask, "000001.dcm". Series and name are the table's
        claim: mask and crop are often exchanged.
    """

    kind: str
    release: str
    patient_id: str
    laterality: str
    view: str
    abnormality_id: int
    breast_density: int
    assessment: int
    pathology: str
    image_folder: str
    image_series: str
    roi_folder: str
    roi_series: tuple[str, str]
    mask_name: str

    @property
    def is_malignant(self) -> bool:
        """Benign without callback is benign."""
        return self.pathology == "MALIGNANT"

    @property
    def image_id(self) -> str:
        """The view it lies in, "P_00016_LEFT_CC"."""
        return f"{self.patient_id}_{self.laterality}_{self.view}"

    @property
    def patch_class(self) -> str:
        """Its class in the patch data sets, "calc_benign" and so on."""
        name = f"{self.kind}_{'malignant' if self.is_malignant else 'benign'}"
        assert name in PATCH_CLASSES
        return name


@dataclasses.dataclass(frozen=True)
class View:
    """One mammogram with all its abnormalities, however many tables list it.

    Attributes:
      image_id: "P_00016_LEFT_CC".
      abnormalities: at least one, in the tables' order.
    """

    image_id: str
    abnormalities: tuple[Abnormality, ...]

    @property
    def patient_id(self) -> str:
        """Patient of all its abnormalities."""
        return self.abnormalities[0].patient_id

    @property
    def laterality(self) -> str:
        """LEFT or RIGHT."""
        return self.abnormalities[0].laterality

    @property
    def view(self) -> str:
        """CC or MLO."""
        return self.abnormalities[0].view

    @property
    def breast_density(self) -> int:
        """As the first table that lists the view has it."""
        return self.abnormalities[0].breast_density

    @property
    def is_malignant(self) -> bool:
        """Whether any abnormality is."""
        return any(abnormality.is_malignant for abnormality in self.abnormalities)

    @property
    def image_sources(self) -> tuple[tuple[str, str], ...]:
        """(folder, series) of each copy of the image; 71 views are stored twice."""
        return tuple(
            dict.fromkeys((a.image_folder, a.image_series) for a in self.abnormalities)
        )


def read_tables(
    folder: str | Path, releases: Iterable[str] = RELEASES
) -> list[Abnormality]:
    """Reads the mass and calc tables of the releases that lie in `folder`.

    Raises:
      UserError: a table is missing or malformed (row and column are named), or an
        abnormality is listed twice in a table, or with two pathologies in two.
    """
    abnormalities: list[Abnormality] = []
    pathologies: dict[tuple[str, str, int], str] = {}
    for release in releases:
        for kind in ("mass", "calc"):
            path = Path(folder) / TABLE_NAMES[kind, release]
            abnormalities += _read_table(path, kind, release, pathologies)
    return abnormalities


def merge_views(abnormalities: Iterable[Abnormality]) -> list[View]:
    """Groups abnormalities by view, sorted by image id."""
    views: dict[str, list[Abnormality]] = {}
    for abnormality in abnormalities:
        views.setdefault(abnormality.image_id, []).append(abnormality)
    return [View(image_id, tuple(views[image_id])) for image_id in sorted(views)]


def read_rows(path: Path) -> tuple[list[str], list[list[str]]]:
    """Column names and rows as they stand in a table, cells not stripped.

    Raises:
      UserError: the table is missing, too large or not text.
    """
    return read_cells(
        path,
        remedy="put the four CBIS-DDSM *_case_description_*.csv files of The Cancer"
        " Imaging Archive into that folder",
    )


def _read_table(
    path: Path, kind: str, release: str, pathologies: dict[tuple[str, str, int], str]
) -> list[Abnormality]:
    """`pathologies` holds what earlier tables say, and gets what this one says."""
    header, rows = read_rows(path)
    names = [_column_name(cell) for cell in header]
    for column in _COLUMNS:
        if column not in names:
            raise UserError(
                f"{path}: row 1: column {column.replace('_', ' ')!r} is missing;"
                " download the table again"
            )
    abnormalities: dict[tuple[str, int], Abnormality] = {}
    for number, cells in enumerate(rows, start=2):
        if not any(cell.strip() for cell in cells):
            continue
        abnormality = _parse_row(path, number, names, cells, kind, release)
        key = abnormality.image_id, abnormality.abnormality_id
        if key in abnormalities:
            same = abnormality.pathology == abnormalities[key].pathology
            raise UserError(
                f"{path}: row {number}, column 'abnormality id': abnormality {key[1]}"
                f" of {key[0]} is listed twice"
                f"{'' if same else ', with two pathologies'}; remove one of the rows"
            )
        known = pathologies.setdefault((kind, *key), abnormality.pathology)
        if known != abnormality.pathology:
            raise UserError(
                f"{path}: row {number}, column 'pathology': abnormality {key[1]} of"
                f" {key[0]} is {abnormality.pathology} here and {known} in another"
                " table; download both again"
            )
        abnormalities[key] = abnormality
    return list(abnormalities.values())


def _column_name(cell: str) -> str:
    return cell.strip().replace(" ", "_")


def _parse_row(
    path: Path,
    number: int,
    names: Sequence[str],
    cells: Sequence[str],
    kind: str,
    release: str,
) -> Abnormality:
    if len(cells) != len(names):
        raise UserError(
            f"{path}: row {number}: {len(cells)} cells but {len(names)} columns;"
            " download the table again"
        )
    # One path cell of every real row has a line break at its end.
    row = {name: cell.strip() for name, cell in zip(names, cells, strict=True)}
    for column, pattern in _COLUMNS.items():
        if not re.fullmatch(pattern, row[column]):
            raise UserError(
                f"{path}: row {number}, column {column.replace('_', ' ')!r}:"
                f" {row[column][:60]!r} is not one of {_describe(pattern)}"
            )
    if not row["abnormality_type"].startswith(kind):
        raise UserError(
            f"{path}: row {number}, column 'abnormality type':"
            f" {row['abnormality_type']!r} in a {kind} table"
        )
    image, crop, mask = (
        row[column].split("/")
        for column in (
            "image_file_path",
            "cropped_image_file_path",
            "ROI_mask_file_path",
        )
    )
    return Abnormality(
        kind=kind,
        release=release,
        patient_id=row["patient_id"],
        laterality=row["left_or_right_breast"],
        view=row["image_view"],
        abnormality_id=int(row["abnormality_id"]),
        breast_density=int(row["breast_density"]),
        assessment=int(row["assessment"]),
        pathology=row["pathology"],
        image_folder=image[0],
        image_series=image[2],
        roi_folder=mask[0],
        roi_series=(mask[2], crop[2]),
        mask_name=mask[3],
    )


def _describe(pattern: str) -> str:
    """A cell's pattern in a reader's words."""
    if "/" in pattern:
        return "Folder/StudyInstanceUID/SeriesInstanceUID/file"
    return (
        pattern.replace(r"\d{5}", "#####")
        .replace(r"\d{1,3}", "1..999")
        .replace("|", ", ")
    )
