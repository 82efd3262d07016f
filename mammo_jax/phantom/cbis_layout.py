"""CBIS-DDSM as it is downloaded: four tables, and DICOM files of three sorts.

Lee et al. (2017), Scientific Data 4:170177. The tables' form, the folders' names and
all the oddities are the real set's; people, images and UIDs are synthetic.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt, UInt8, UInt16
from pydicom.uid import SecondaryCaptureImageStorage

from mammo_jax.phantom.catalogue import Breast, make_catalogue
from mammo_jax.phantom.dicom_files import write_dicom
from mammo_jax.phantom.lesions import region_mask
from mammo_jax.phantom.mammogram import (
    Mammogram,
    ViewPlan,
    draw_mammogram,
    film_size,
)
from mammo_jax.phantom.output_folder import (
    check_ranges,
    draw_all,
    phantom_folder,
    write_csv,
)
from mammo_jax.phantom.seeding import named_generator, named_uid

_KINDS = {"mass": "Mass", "calc": "Calc"}
# The columns that differ between the two kinds of table.
_OWN_COLUMNS = {
    "mass": ("breast_density", "mass shape", "mass margins"),
    "calc": ("breast density", "calc type", "calc distribution"),
}
_TYPES = {"mass": "mass", "calc": "calcification"}
_TABLE_RELEASES = {"Training": "train", "Test": "test"}
# Which of the two files of an abnormality's series is the mask, by the tables.
_MASK_NUMBER = {"mass": 1, "calc": 0}
_RLE_SHARE = 0.25
_SWAPPED_SHARE = 0.06
_IMAGES, _MASKS, _CROPS = "full mammogram images", "ROI mask images", "cropped images"

# Downloads differ below a case's folder; `{study}` and `{series}` are UIDs, and
# those ending in 5 their last five digits.
_LAYOUTS = {
    "current": "{date}-DDSM-NA-{study5}/1.000000-{title}-{series5}/1-{number1}.dcm",
    "plain": "{study}/{series}/1-{number1}.dcm",
    "older": "{date}-DDSM-{study5}/1-{title}-{series5}/{number:06d}.dcm",
}
# Dealt out to the views in turn.
_LAYOUT_TURNS = ("current",) * 5 + ("plain",) + ("current",) * 4 + ("older",)


class _Task(NamedTuple):
    """A view to be drawn, and written in one of `_LAYOUTS` below `root`."""

    root: Path
    seed: int
    height: int
    contrast: float
    breast: Breast
    view: str
    layout: str


# (kind, release) of a table, and one of its rows.
_Row = tuple[tuple[str, str], tuple[str | int, ...]]


def write_cbis_ddsm(
    out_dir: str | Path,
    *,
    cases: int,
    seed: int = 0,
    height: int = 4096,
    test_share: float = 0.2,
    contrast: float = 1.0,
    num_workers: int | None = None,
) -> None:
    """Writes a synthetic set in CBIS-DDSM's layout.

    The same arguments give the same bytes, whatever `num_workers` is.

    Args:
      out_dir: a new or an empty folder. Gets the four tables and `CBIS-DDSM/`.
      cases: number of patients.
      seed: the seed of everything.
      height: pixels of the mammograms; they vary by a few per cent about it.
      test_share: share of the patients in the test release.
      contrast: factor on how much the lesions stand out; 1 looks like real ones.
      num_workers: processes; None means one for each core.

    Raises:
      UserError: `out_dir` is not empty, or an argument is out of range.
    """
    check_ranges(
        height, contrast, cases=(cases, 2, 30000), test_share=(test_share, 0, 0.9)
    )
    catalogue = make_catalogue(seed, cases, test_share)
    views = [(breast, view) for breast in catalogue for view in breast.views]
    with phantom_folder(out_dir) as folder:
        place = (folder / "CBIS-DDSM", seed, height, contrast)
        tasks = [
            _Task(*place, *view, _LAYOUT_TURNS[index % len(_LAYOUT_TURNS)])
            for index, view in enumerate(views)
        ]
        rows = [
            row for rows in draw_all(_write_view, tasks, num_workers) for row in rows
        ]
        for release, release_name in _TABLE_RELEASES.items():
            for kind, (density, first, second) in _OWN_COLUMNS.items():
                header = (
                    *("patient_id", density, "left or right breast", "image view"),
                    *("abnormality id", "abnormality type", first, second),
                    *("assessment", "pathology", "subtlety", "image file path"),
                    *("cropped image file path", "ROI mask file path"),
                )
                own = (row for table, row in rows if table == (kind, release))
                name = f"{kind}_case_description_{release_name}_set.csv"
                write_csv(folder / name, [header, *own])


def draw_view(
    seed: int, breast: Breast, view: str, height: int, contrast: float = 1.0
) -> Mammogram:
    """Draws a view of a breast of the catalogue as its file in the set has it."""
    name = _view_name(breast, view)
    lesions = tuple(finding.lesion for finding in breast.findings)
    plan = ViewPlan(name, breast.laterality, view, breast.anatomy, lesions)
    size = film_size(seed, name, height)
    return draw_mammogram(seed, plan, *size, contrast=contrast)


def _view_name(breast: Breast, view: str) -> str:
    return f"{breast.patient_id}_{breast.laterality}_{view}"


def _write_view(task: _Task) -> list[_Row]:
    """Draws a view, writes its files and returns its rows.

    Each table that lists it, one for each kind and release among its findings, has a
    folder of its own for the image.
    """
    breast = task.breast
    name = _view_name(breast, task.view)
    mammogram = draw_view(task.seed, breast, task.view, task.height, task.contrast)
    size = mammogram.pixels.shape
    density = 0 if breast.quirk == "density_zero" else breast.anatomy.density
    tables = dict.fromkeys((f.lesion.kind, f.release) for f in breast.findings)
    rows: list[_Row] = []
    for kind, release in tables:
        folder = f"{_KINDS[kind]}-{release}_{name}"
        generator = named_generator(task.seed, "file", folder)
        attributes = _describe(task, folder, generator)
        attributes["SeriesDescription"] = _IMAGES if _is_described(breast) else ""
        is_packed = bool(generator.uniform() < _RLE_SHARE)
        image = _write_file(
            *(task, folder, _IMAGES, attributes, mammogram.pixels), compress=is_packed
        )
        for finding, outline in zip(breast.findings, mammogram.outlines, strict=True):
            if (finding.lesion.kind, finding.release) != (kind, release):
                continue
            crop, mask = _write_region(
                task,
                kind,
                f"{folder}_{finding.abnormality_id}",
                _crop(mammogram.pixels, outline),
                _resize_mask(region_mask(outline, *size), breast.quirk, task.view),
                generator,
            )
            # The real tables have a line feed at the end of one of the two.
            ends = (crop, f"{mask}\n") if kind == "mass" else (f"{crop}\n", mask)
            row = (
                *(breast.patient_id, density, breast.laterality, task.view),
                *(finding.abnormality_id, _TYPES[kind], *finding.descriptors),
                *(finding.assessment, finding.pathology, finding.subtlety),
                *(f"{image}/000000.dcm", *ends),
            )
            rows.append(((kind, release), row))
    return rows


def _write_region(
    task: _Task,
    kind: str,
    folder: str,
    crop: UInt16[np.ndarray, "rows columns"],
    mask: UInt8[np.ndarray, "height width"],
    generator: np.random.Generator,
) -> list[str]:
    """Writes crop and mask; returns their paths as the table has them."""
    # Mostly both are in the crop's series.
    has_two = task.breast.quirk == "two_series"
    in_table, on_disk = _number_files(task, kind, folder)
    attributes = _describe(task, folder, generator)
    paths = []
    for index, (part, pixels) in enumerate({"crop": crop, "mask": mask}.items()):
        title = _CROPS if has_two and part == "crop" else _MASKS
        description = title
        if not _is_described(task.breast):
            description = _MASKS if part == "crop" else ""
        attributes["SeriesDescription"] = description
        names = (part if has_two else "crop", part)
        series = _write_file(
            *(task, folder, title, attributes, pixels, names, on_disk[index])
        )
        paths.append(f"{series}/{in_table[index]:06d}.dcm")
    return paths


def _number_files(
    task: _Task, kind: str, folder: str
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Numbers crop and mask within their series: in the table, and as they lie."""
    quirk = task.breast.quirk
    generator = named_generator(task.seed, "region", folder)
    swap_columns, swap_disk = generator.uniform(size=2) < _SWAPPED_SHARE
    if quirk:
        swap_columns = quirk == "swapped" and task.view == "CC"
        swap_disk = quirk == "swapped" and task.view == "MLO"
    mask = _MASK_NUMBER[kind]
    numbers = (0, 0) if quirk == "two_series" else (1 - mask, mask)
    swapped = numbers[::-1]
    return swapped if swap_columns else numbers, swapped if swap_disk else numbers


def _is_described(breast: Breast) -> bool:
    """Returns False where SeriesDescription is wrong or empty."""
    return breast.quirk not in ("two_series", "density_zero")


def _describe(
    task: _Task, folder: str, generator: np.random.Generator
) -> dict[str, str]:
    """The attributes that CBIS-DDSM's files have, in its own words."""
    date = f"{generator.integers(2016, 2018)}{generator.integers(1, 13):02d}"
    date += f"{generator.integers(1, 29):02d}"
    return {
        "SOPClassUID": SecondaryCaptureImageStorage,
        "StudyDate": date,
        "ContentDate": "20160426",
        "StudyTime": f"{generator.integers(8, 18):02d}3000",
        "Modality": "MG",
        "ConversionType": "WSD",
        "PatientName": folder,
        "PatientID": folder,
        "BodyPartExamined": "BREAST",
        "StudyID": "DDSM",
        "SeriesNumber": "1",
        "PatientOrientation": task.view,
        "Laterality": task.breast.laterality[0],
        **dict.fromkeys(("AccessionNumber", "ReferringPhysicianName"), ""),
        **dict.fromkeys(("PatientBirthDate", "PatientSex"), ""),
    }


def _write_file(
    task: _Task,
    folder: str,
    title: str,
    attributes: Mapping[str, Any],
    pixels: UInt[np.ndarray, "rows columns"],
    names: tuple[str, ...] = (),
    number: int = 0,
    *,
    compress: bool = False,
) -> str:
    """Writes one of a folder's files; returns where its series is in the tables.

    `names` tell series and files of a folder; `number` counts those of a series from 0.
    """
    study, series = (
        named_uid(task.seed, level, folder, *names[:1]) for level in ("study", "series")
    )
    uids = {
        "StudyInstanceUID": study,
        "SeriesInstanceUID": series,
        "SOPInstanceUID": named_uid(task.seed, "instance", folder, *names[1:]),
        "InstanceNumber": number + 1,
    }
    date = attributes["StudyDate"]
    place = _LAYOUTS[task.layout].format(
        date=f"{date[4:6]}-{date[6:]}-{date[:4]}",
        study=study,
        series=series,
        study5=study[-5:],
        series5=series[-5:],
        title=title,
        number1=number + 1,
        number=number,
    )
    path = task.root / folder / place
    write_dicom(path, pixels, {**attributes, **uids}, compress=compress)
    return f"{folder}/{study}/{series}"


def _resize_mask(
    mask: UInt8[np.ndarray, "height width"], quirk: str, view: str
) -> UInt8[np.ndarray, "rows columns"]:
    """Gives the mask the wrong size that it is to have; mostly none."""
    if quirk != "mask_size":
        return mask
    height, width = mask.shape
    size = (width + 7, height + 7)
    if view == "MLO":
        size = (round(0.85 * width), round(0.85 * height))
    return cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)


def _crop(
    pixels: UInt16[np.ndarray, "height width"], outline: Float[np.ndarray, "point 2"]
) -> UInt16[np.ndarray, "rows columns"]:
    """Cuts out the region's bounding box and a little around it."""
    corners = np.array([outline.min(axis=0), outline.max(axis=0)]) * len(pixels)
    margin = 0.1 * (corners[1] - corners[0]).max() + 2
    left, top = np.maximum(corners[0] - margin, 0).astype(int)
    right, bottom = np.ceil(corners[1] + margin).astype(int)
    return pixels[top:bottom, left:right]
