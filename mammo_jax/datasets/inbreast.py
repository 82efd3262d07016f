"""INbreast: from a download to splits, and from a view to examples (paper, section 3).

Moreira et al. (2012), Academic Radiology 19(2), doi:10.1016/j.acra.2011.09.014.
BI-RADS 4 to 6 are positive (malignant here), 1 and 2 negative; images of BI-RADS 3 are
left out. Only with the few of BI-RADS 6 among the positive do the paper's counts add
up.
"""

import collections
import dataclasses
import plistlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from mammo_jax.common.errors import UserError
from mammo_jax.common.tables import OddRow, read_table, text_column
from mammo_jax.datasets.polygons import parse_points, polygon_regions
from mammo_jax.datasets.sampling import Region
from mammo_jax.datasets.splits import hold_out, label_patients
from mammo_jax.datasets.views import (
    Packing,
    Problems,
    Repairs,
    View,
    ViewResult,
    count_views,
    make_result,
    note_problems,
)
from mammo_jax.images.dicom import Mammogram
from mammo_jax.images.grid import Grid

VALIDATION_SHARE = 0.30
# Sizes of the subsets of training patients (paper, Table 4).
SUBSETS = (20, 30, 40, 50, 60)

_POSITIVE = {"1": False, "2": False, "3": None} | dict.fromkeys(
    ["4a", "4b", "4c", "5", "6"], True
)
_LATERALITIES = {"L": "LEFT", "R": "RIGHT"}
# Image id, patient's code, side and view; ML stands for MLO, FB occurs once.
_IMAGE_NAME = re.compile(
    r"(\d+)_([0-9a-f]+)_MG_([LR])_([A-Z]+)_ANON\.dcm", re.IGNORECASE
)
_REGIONS_NAME = re.compile(r"(\d+)\.xml", re.IGNORECASE)
_MAX_XML_BYTES = 32 << 20
# Beginning of an ROI's name: its kind; names vary and are misspelt.
_ROI_KINDS = {
    **dict.fromkeys(("calc", "cluster"), "calc"),
    **dict.fromkeys(("mass", "spiculated", "espiculated", "distor", "unnamed"), "mass"),
    **dict.fromkeys(("ass", "asym"), "mass"),  # "Assymetry"
}
_COLUMNS = {
    "laterality": text_column(r"L|R"),
    "view": text_column(r"CC|MLO"),
    "file name": text_column(r"\d+"),
    "acr": text_column(r"|1|2|3|4"),
    "bi-rads": text_column(r"1|2|3|4a|4b|4c|5|6"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class InbreastView(View):
    """One image of INbreast; malignant are BI-RADS 4 to 6.

    Its `image_id` is "20586908_LEFT_CC" with the number of its file, its `patient_id`
    the code in the file's name, which repeat examinations share.

    Attributes:
      bi_rads: "1" to "6", with "4a", "4b", "4c".
      xml: the file of its regions; "" where it has none.
      spares: other files of the same number, which are not used.
    """

    bi_rads: str
    xml: str
    spares: tuple[str, ...] = ()


def read_views(
    manual_dir: str | Path, problems: Problems | None = None
) -> list[InbreastView]:
    """Reads every image that the table lists, without those of BI-RADS 3.

    An image whose file is missing has the path where it was looked for, so that it is
    reported when it is read. Of several files of one number the first is used; the
    others are reported likewise. Odd rows of the table are left out and added to
    `problems`, or are errors without it.

    Raises:
      UserError: the table or the images are missing, or the table is malformed.
    """
    root = _find_root(Path(manual_dir))
    images = _group_files(root, _IMAGE_NAME)
    if not images:
        raise UserError(f"{root}: holds INbreast.csv but no images; add AllDICOMs")
    regions = _group_files(root, _REGIONS_NAME)
    views = []
    for row in _read_table(root / "INbreast.csv", problems):
        if _POSITIVE[row["bi-rads"]] is None:
            continue
        number = row["file name"]
        missing = root / "AllDICOMs" / f"{number}_*.dcm"
        image, *other_images = images.get(number, [missing])
        name = _IMAGE_NAME.fullmatch(image.name)
        xml, *other_xmls = regions.get(number, [""])
        laterality = _LATERALITIES[row["laterality"]]
        views.append(
            InbreastView(
                image_id=f"{number}_{laterality}_{row['view']}",
                patient_id=name[2].lower() if name else f"unknown{number}",
                laterality=laterality,
                view=row["view"],
                is_malignant=bool(_POSITIVE[row["bi-rads"]]),
                breast_density=int(row["acr"] or 0),
                sources=tuple(str(path) for path in (image, xml) if path),
                bi_rads=row["bi-rads"],
                xml=str(xml),
                spares=tuple(map(str, (*other_images, *other_xmls))),
            )
        )
    return sorted(views, key=lambda view: view.image_id)


def plan_splits(
    manual_dir: str | Path,
    seed: int,
    patients: int | None,
    problems: Problems | None = None,
) -> dict[str, list[InbreastView]]:
    """Draws 70 % of the patients to train, 30 % to validate, stratified by label.

    Args:
      manual_dir: the download.
      seed: seed of the split and of the subsets.
      patients: train on so many patients only; the smaller subsets are part of the
        larger ones, and the validation set is always the same.
      problems: see `read_views`.

    Raises:
      UserError: what `read_views` raises, or there are fewer patients.
    """
    views = read_views(manual_dir, problems)
    positive = label_patients((view.patient_id, view.is_malignant) for view in views)
    validation = hold_out(positive, VALIDATION_SHARE, seed)
    rest = {p: is_ for p, is_ in positive.items() if p not in validation}
    training = order_patients(rest, seed)
    if patients is not None and patients > len(training):
        raise UserError(
            f"{manual_dir}: only {len(training)} patients to train on, not {patients};"
            " choose a smaller subset"
        )
    chosen = set(training[:patients])
    return {
        "train": [view for view in views if view.patient_id in chosen],
        "validation": [view for view in views if view.patient_id in validation],
    }


def order_patients(positive: Mapping[str, bool], seed: int) -> list[str]:
    """Orders patients at random, so that every beginning is stratified."""
    places = {}
    for stratum in (False, True):
        patients = sorted(p for p, is_ in positive.items() if is_ is stratum)
        order = np.random.default_rng([seed, 2 + stratum]).permutation(len(patients))
        for rank, index in enumerate(order):
            places[patients[index]] = (rank + 0.5) / len(patients)
    return sorted(places, key=lambda patient: (places[patient], patient))


def take_inventory(
    manual_dir: str | Path, seed: int, patients: int | None
) -> dict[str, Any]:
    """Counts what a build would use, for JSON; raises what `plan_splits` raises."""
    rows = list(_read_table(_find_root(Path(manual_dir)) / "INbreast.csv", []))
    readings = collections.Counter(row["bi-rads"] for row in rows)
    return {
        "seed": seed,
        "images": len(rows),
        "bi_rads": dict(sorted(readings.items())),
        "splits": {
            split: {
                **count_views(views),
                "with_regions": sum(bool(view.xml) for view in views),
                "images_missing": sum(not Path(view.image).is_file() for view in views),
            }
            for split, views in plan_splits(manual_dir, seed, patients, []).items()
        },
    }


def make_view_examples(view: InbreastView, packing: Packing) -> ViewResult:
    """Reads a view's image and regions and makes its examples."""
    spares = [
        (path, f"another file of image {view.image_id} is used; remove one of them")
        for path in view.spares
    ]
    xml = [(view.xml, view.xml)] if view.xml else []
    result = make_result(view, packing, xml, _read_regions)
    return dataclasses.replace(result, problems=[*result.problems, *spares])


def read_rois(path: str | Path) -> list[tuple[str, Float[np.ndarray, "_ 2"]]]:
    """Reads name and points (x, y) of each region in an XML file (an Apple plist).

    Raises:
      UserError: the file cannot be read or is not such a list.
    """
    path = Path(path)
    try:
        if path.stat().st_size > _MAX_XML_BYTES:
            raise ValueError("too large")
        # Refuses entity declarations by itself.
        content = plistlib.loads(path.read_bytes(), fmt=plistlib.FMT_XML)
        return [
            (str(roi.get("Name", "")), parse_points(roi["Point_px"]))
            for roi in content["Images"][0]["ROIs"]
        ]
    except Exception as error:  # a malformed plist fails in too many ways to list
        raise UserError(
            f"{path}: not a list of regions ({type(error).__name__}: {error});"
            " download it again"
        ) from error


def _read_regions(
    xml: str, view: InbreastView, image: Mammogram, grid: Grid, repairs: Repairs
) -> list[tuple[str, Region]]:
    """Reads patch class and place of a view's regions; its label is theirs."""
    found = []
    outcome = "malignant" if view.is_malignant else "benign"
    for name, points in read_rois(xml):
        kinds = [k for word, k in _ROI_KINDS.items() if name.lower().startswith(word)]
        if not kinds:
            repairs["regions_of_unknown_name_taken_for_masses"] += 1
        kind = kinds[0] if kinds else "mass"
        limits = [image.columns - 1, image.rows - 1]
        if ((points < 0) | (points > limits)).any():
            repairs["regions_clipped_to_the_image"] += 1
        regions = polygon_regions(points, image.pixels.shape, grid[:2])
        found += [(f"{kind}_{outcome}", region) for region in regions]
    return found


def _group_files(root: Path, pattern: re.Pattern[str]) -> dict[str, list[Path]]:
    """Groups files below `root` by the number that their names begin with, sorted."""
    found: dict[str, list[Path]] = {}
    for path in sorted(root.rglob("*")):
        if match := pattern.fullmatch(path.name):
            found.setdefault(match[1], []).append(path)
    return found


def _find_root(manual_dir: Path) -> Path:
    tables = [manual_dir / "INbreast.csv", *sorted(manual_dir.glob("*/INbreast.csv"))]
    for table in tables:
        if table.is_file():
            return table.parent
    raise UserError(
        f"{manual_dir}: no INbreast.csv there or one folder below; give the folder"
        " 'INbreast Release 1.0'"
    )


def _read_table(path: Path, problems: Problems | None) -> list[dict[str, str]]:
    """Reads the table's rows; odd ones go to `problems`, or are errors without it."""
    odd: list[OddRow] = []
    rows: dict[str, dict[str, str]] = {}
    remedy = "download INbreast again"
    for number, row in read_table(path, _COLUMNS, remedy=remedy, odd_rows=odd):
        name = row["file name"]
        if rows.setdefault(name, row) is not row:
            reason = f"row {number}, column 'file name': {name} is listed twice"
            odd.append(OddRow(number, reason, row))
    found = [(f"row {row.number}", str(path), row.reason) for row in odd]
    note_problems(found, problems)
    return list(rows.values())
