"""The four tables of CBIS-DDSM, as they really are.

Rows are abnormalities; the same view (patient, side, CC or MLO) can occur in several
rows, in both the mass and the calc table, and in both the training and the test
release. `read_tables` gives the abnormalities, `merge_views` the views.

Lee et al. (2017), Scientific Data 4:170177, doi:10.1038/sdata.2017.177.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mammo_jax.common.errors import UserError
from mammo_jax.common.tables import Column, OddRow, read_table, text_column
from mammo_jax.datasets.views import Problems, View, note_problems

RELEASES = ("train", "test")
TABLE_NAMES = {
    (kind, release): f"{kind}_case_description_{release}_set.csv"
    for release in RELEASES
    for kind in ("mass", "calc")
}
REMEDY = (
    "put the four CBIS-DDSM *_case_description_*.csv files of The Cancer Imaging"
    " Archive into that folder"
)
_PATH = text_column(r"[^/]+/[\d.]+/[\d.]+/[^/]+")._replace(
    expected="Folder/StudyInstanceUID/SeriesInstanceUID/file"
)
_IMAGE_ID = re.compile(r"P_\d{5}_(LEFT|RIGHT)_(CC|MLO)")
_COLUMNS: dict[str, Column] = {
    "patient id": text_column(r"P_\d{5}")._replace(expected="P_#####"),
    "breast density": text_column("0|1|2|3|4"),
    "left or right breast": text_column("LEFT|RIGHT"),
    "image view": text_column("CC|MLO"),
    "abnormality id": text_column(r"\d{1,3}")._replace(expected="0..999"),
    "abnormality type": text_column("mass|calcification"),
    "pathology": text_column("MALIGNANT|BENIGN|BENIGN_WITHOUT_CALLBACK"),
    "image file path": _PATH,
    "cropped image file path": _PATH,
    "roi mask file path": _PATH,
}


@dataclasses.dataclass(frozen=True)
class Abnormality:
    """One row of a table.

    Attributes:
      kind: "mass" or "calc", the table's name for it.
      release: "train" or "test".
      patient_id: code of the patient, "P_00016".
      laterality: "LEFT" or "RIGHT".
      view: "CC" or "MLO".
      abnormality_id: number of the abnormality, unique within table and view.
      breast_density: BI-RADS density 1..4; 0 occurs.
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
    pathology: str
    image_folder: str
    image_series: str
    roi_folder: str
    roi_series: tuple[str, str]
    mask_name: str

    @property
    def is_malignant(self) -> bool:
        """True if it is malignant; benign without callback is benign."""
        return self.pathology == "MALIGNANT"

    @property
    def image_id(self) -> str:
        """Image id of the view it lies in, "P_00016_LEFT_CC"."""
        return f"{self.patient_id}_{self.laterality}_{self.view}"

    @property
    def patch_class(self) -> str:
        """Its class in the patch data sets, "calc_benign" and so on."""
        return f"{self.kind}_{'malignant' if self.is_malignant else 'benign'}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CbisView(View):
    """One mammogram with all its abnormalities, however many tables list it.

    It is malignant if any of them is; its density is that of the first table.

    Attributes:
      abnormalities: at least one, in the tables' order.
      images: files that may be the full image, the likeliest first; the content
        decides (`cbis_views`).
      rois: for each abnormality, the files that may be its mask.
    """

    abnormalities: tuple[Abnormality, ...]
    images: tuple[str, ...] = ()
    rois: tuple[tuple[str, ...], ...] = ()

    @property
    def image_sources(self) -> tuple[tuple[str, str], ...]:
        """(folder, series) of each copy of the image; 71 views are stored twice."""
        return tuple(
            dict.fromkeys((a.image_folder, a.image_series) for a in self.abnormalities)
        )


def read_tables(
    folder: str | Path,
    releases: Iterable[str] = RELEASES,
    problems: Problems | None = None,
) -> list[Abnormality]:
    """Reads the mass and calc tables of the releases that lie in `folder`.

    A row is odd if a cell cannot be understood, or if it repeats or contradicts
    another. It takes its view with it, whose label is the worst of all its rows. Odd
    rows are added to `problems`, or are errors without it, and if they name no view.

    Raises:
      UserError: a table is missing or its header is malformed; a row is odd.
    """
    abnormalities: list[Abnormality] = []
    known: dict[tuple[str, str, int], list[Abnormality]] = {}
    odd: Problems = []
    for release in releases:
        for kind in ("mass", "calc"):
            path = Path(folder) / TABLE_NAMES[kind, release]
            odd_rows: list[OddRow] = []
            for number, row in read_table(
                path, _COLUMNS, remedy=REMEDY, odd_rows=odd_rows
            ):
                found = _make_abnormality(row, kind, release)
                key = (kind, found.image_id, found.abnormality_id)
                same = known.setdefault(key, [])
                if reason := _find_contradiction(found, row["abnormality type"], same):
                    odd_rows.append(OddRow(number, f"row {number}{reason}", row))
                same.append(found)
                abnormalities.append(found)
            for _, reason, cells in sorted(odd_rows, key=lambda row: row.number):
                if not (view := _find_view(cells)):
                    raise UserError(
                        f"{path}: {reason}; nor does it name its view, whose label may"
                        " depend on it: mend the row, or remove it with its view"
                    )
                odd.append((view, str(path), reason))
    note_problems(odd, problems)
    left_out = {view for view, _, _ in odd}
    return [a for a in abnormalities if a.image_id not in left_out]


def _find_contradiction(
    found: Abnormality, stated: str, others: Sequence[Abnormality]
) -> str:
    """Returns what a row contradicts: its table or what is known; mostly nothing."""
    name = f"abnormality {found.abnormality_id} of {found.image_id}"
    if not stated.startswith(found.kind):
        return f", column 'abnormality type': {stated!r} in a {found.kind} table"
    for other in others:
        if other.release == found.release:
            end = ", with two pathologies" * (other.pathology != found.pathology)
            return (
                f", column 'abnormality id': {name} is listed twice{end}; remove one of"
                " the rows"
            )
        if other.pathology != found.pathology:
            return (
                f", column 'pathology': {name} is {found.pathology} here and"
                f" {other.pathology} in another table; download both again"
            )
    return ""


def _find_view(cells: Mapping[str, Any]) -> str:
    """Returns the image id that an odd row's cells give, or "" if they give none."""
    columns = ("patient id", "left or right breast", "image view")
    named = "_".join(str(cells.get(column, "")) for column in columns)
    # The paths name it, too, in whatever cells they have come to lie.
    found = _IMAGE_ID.fullmatch(named) or _IMAGE_ID.search(
        " ".join(map(str, cells.values()))
    )
    return found[0] if found else ""


def merge_views(abnormalities: Iterable[Abnormality]) -> list[CbisView]:
    """Groups abnormalities by view, sorted by image id."""
    views: dict[str, list[Abnormality]] = {}
    for abnormality in abnormalities:
        views.setdefault(abnormality.image_id, []).append(abnormality)
    return [
        CbisView(
            image_id=image_id,
            patient_id=first.patient_id,
            laterality=first.laterality,
            view=first.view,
            is_malignant=any(a.is_malignant for a in (first, *others)),
            breast_density=first.breast_density,
            abnormalities=(first, *others),
        )
        for image_id, (first, *others) in sorted(views.items())
    ]


def _make_abnormality(row: Mapping[str, Any], kind: str, release: str) -> Abnormality:
    image, crop, mask = (
        row[f"{what} file path"].split("/")
        for what in ("image", "cropped image", "roi mask")
    )
    return Abnormality(
        kind=kind,
        release=release,
        patient_id=row["patient id"],
        laterality=row["left or right breast"],
        view=row["image view"],
        abnormality_id=int(row["abnormality id"]),
        breast_density=int(row["breast density"]),
        pathology=row["pathology"],
        image_folder=image[0],
        image_series=image[2],
        roi_folder=mask[0],
        roi_series=(mask[2], crop[2]),
        mask_name=mask[3],
    )
