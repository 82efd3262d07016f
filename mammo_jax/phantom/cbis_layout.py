"""CBIS-DDSM as it is downloaded: four tables, and DICOM files of three sorts.

Lee et al. (2017), Scientific Data 4:170177. The tables' form, the folders' names and
all the oddities are the real set's; people, images and UIDs are synthetic.
"""

import csv
import dataclasses
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8, UInt16

from mammo_jax.common.errors import UserError
from mammo_jax.common.parallel import parallel_map
from mammo_jax.common.progress import progress
from mammo_jax.phantom.catalogue import RELEASES, Breast, Finding, make_catalogue
from mammo_jax.phantom.dicom_files import Identity, write_dicom
from mammo_jax.phantom.lesions import region_mask
from mammo_jax.phantom.mammogram import (
    Mammogram,
    ViewPlan,
    draw_mammogram,
    film_size,
)
from mammo_jax.phantom.output_folder import whole_folder
from mammo_jax.phantom.seeding import named_generator, named_uid

_MIN_HEIGHT = 128
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


@dataclasses.dataclass(frozen=True)
class _Region:
    """An abnormality's mask and crop in one view.

    Attributes:
      finding: what the table says.
      folder: "Mass-Training_P_00001_LEFT_CC_1".
      studies: StudyInstanceUIDs of (crop, mask); mostly the same.
      series: SeriesInstanceUIDs of (crop, mask); mostly the same.
      numbers: of the files (crop, mask) within their series, from 0, in the table.
      on_disk: of the files (crop, mask) as they really lie.
      mask_scale: size of the mask over that of the image.
      mask_margin: pixels that the mask is larger by.
      described: whether SeriesDescription is right; else it is wrong or empty.
    """

    finding: Finding
    folder: str
    studies: tuple[str, str]
    series: tuple[str, str]
    numbers: tuple[int, int]
    on_disk: tuple[int, int]
    mask_scale: float
    mask_margin: int
    described: bool


@dataclasses.dataclass(frozen=True)
class _Listing:
    """A view as one of the tables lists it: an image and some abnormalities."""

    folder: str
    study: str
    series: str
    kind: str
    release: str
    regions: tuple[_Region, ...]


@dataclasses.dataclass(frozen=True)
class _Task:
    """A view to be drawn and written to each of its listings' folders."""

    root: Path
    seed: int
    height: int
    breast: Breast
    view: str
    listings: tuple[_Listing, ...]
    layout: str


# Downloads differ below a case's folder; `{study}` and `{series}` are UIDs, and
# those ending in 5 their last five digits.
_LAYOUTS = {
    "current": "{date}-DDSM-NA-{study5}/1.000000-{title}-{series5}/1-{number1}.dcm",
    "plain": "{study}/{series}/1-{number1}.dcm",
    "older": "{date}-DDSM-{study5}/1-{title}-{series5}/{number:06d}.dcm",
}
# Dealt out to the views in turn.
_LAYOUT_TURNS = ("current",) * 5 + ("plain",) + ("current",) * 4 + ("older",)


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
      seed: of everything.
      height: of the mammograms in pixels; they vary by a few per cent about it.
      test_share: share of the patients in the test release.
      contrast: factor on how much the lesions stand out; 1 looks like real ones, 2
        makes them obvious.
      num_workers: processes; None means one for each core.

    Raises:
      UserError: `out_dir` is not empty, or an argument is out of range.
    """
    if not 2 <= cases <= 30000:
        raise UserError(f"cases is {cases}; it must lie within 2 and 30000")
    if not _MIN_HEIGHT <= height <= 2**14:
        raise UserError(f"height is {height}; it must lie within 128 and 16384")
    if not 0 <= test_share <= 0.9:
        raise UserError(f"test_share is {test_share}; it must lie within 0 and 0.9")
    if not 0 < contrast <= 10:
        raise UserError(f"contrast is {contrast}; it must lie above 0 and at most 10")
    catalogue = make_catalogue(seed, cases, test_share, contrast)
    with whole_folder(out_dir) as folder:
        views = [(breast, view) for breast in catalogue for view in breast.views]
        tasks = [
            _Task(
                root=folder / "CBIS-DDSM",
                seed=seed,
                height=height,
                breast=breast,
                view=view,
                listings=_list_view(seed, breast, view),
                layout=_LAYOUT_TURNS[index % len(_LAYOUT_TURNS)],
            )
            for index, (breast, view) in enumerate(views)
        ]
        written = parallel_map(_write_view, tasks, num_workers)
        for _ in progress(written, "drawing mammograms", total=len(tasks), unit="view"):
            pass
        for (kind, release), text in _make_tables(tasks).items():
            name = f"{kind}_case_description_{_TABLE_RELEASES[release]}_set.csv"
            (folder / name).write_bytes(text.encode("ascii"))


def _list_view(seed: int, breast: Breast, view: str) -> tuple[_Listing, ...]:
    """The table entries of a view, one for each kind and release among its findings."""
    keys = dict.fromkeys((f.lesion.kind, f.release) for f in breast.findings)
    listings = []
    for kind, release in keys:
        folder = (
            f"{_KINDS[kind]}-{release}_{breast.patient_id}_{breast.laterality}_{view}"
        )
        regions = tuple(
            _list_region(seed, breast, view, finding, folder)
            for finding in breast.findings
            if (finding.lesion.kind, finding.release) == (kind, release)
        )
        study = named_uid(seed, "study", folder)
        series = named_uid(seed, "series", folder)
        listings.append(_Listing(folder, study, series, kind, release, regions))
    return tuple(listings)


def _list_region(
    seed: int, breast: Breast, view: str, finding: Finding, image_folder: str
) -> _Region:
    folder = f"{image_folder}_{finding.abnormality_id}"
    generator = named_generator(seed, "region", folder)
    swap_columns, swap_disk = generator.uniform(size=2) < _SWAPPED_SHARE
    if breast.quirk:
        swap_columns = breast.quirk == "swapped" and view == "CC"
        swap_disk = breast.quirk == "swapped" and view == "MLO"
    # One is of the crop, the other of the mask.
    studies = _name_pair(seed, "study", folder)
    series = _name_pair(seed, "series", folder)
    mask_number = _MASK_NUMBER[finding.lesion.kind]
    on_disk = numbers = (1 - mask_number, mask_number)
    if breast.quirk == "two_series":
        on_disk = numbers = (0, 0)
    else:
        studies = (studies[0], studies[0])
        series = (series[0], series[0])
    if swap_disk:
        on_disk = on_disk[::-1]
    if swap_columns:
        numbers = numbers[::-1]
    odd_size = breast.quirk == "mask_size"
    return _Region(
        finding=finding,
        folder=folder,
        studies=studies,
        series=series,
        numbers=numbers,
        on_disk=on_disk,
        mask_scale=0.85 if odd_size and view == "MLO" else 1.0,
        mask_margin=7 if odd_size and view == "CC" else 0,
        described=breast.quirk not in ("two_series", "density_zero"),
    )


def _name_pair(seed: int, level: str, folder: str) -> tuple[str, str]:
    return (
        named_uid(seed, level, folder, "crop"),
        named_uid(seed, level, folder, "mask"),
    )


def _write_view(task: _Task) -> None:
    """Draws a view and writes its files."""
    breast = task.breast
    name = f"{breast.patient_id}_{breast.laterality}_{task.view}"
    plan = ViewPlan(
        name=name,
        laterality=breast.laterality,
        view=task.view,
        anatomy=breast.anatomy,
        lesions=tuple(finding.lesion for finding in breast.findings),
    )
    rows, columns = film_size(task.seed, name, task.height)
    mammogram = draw_mammogram(task.seed, plan, rows, columns)
    outlines = dict(zip(breast.findings, mammogram.outlines, strict=True))
    for listing in task.listings:
        generator = named_generator(task.seed, "file", listing.folder)
        _write_image(task, listing, mammogram, generator)
        for region in listing.regions:
            outline = outlines[region.finding]
            mask = _resize_mask(region_mask(outline, rows, columns), region)
            crop = _crop(mammogram.pixels, outline)
            _write_region(task, region, mask, crop, generator)


def _write_image(
    task: _Task,
    listing: _Listing,
    mammogram: Mammogram,
    generator: np.random.Generator,
) -> None:
    attributes = _describe(task, listing.folder, generator, "full mammogram images")
    if any(not region.described for region in listing.regions):
        attributes["SeriesDescription"] = ""
    uid = named_uid(task.seed, "instance", listing.folder)
    identity = Identity(listing.study, listing.series, uid)
    path = _place(task, listing.folder, identity, attributes, "full mammogram images")
    compress = bool(generator.uniform() < _RLE_SHARE)
    write_dicom(path, mammogram.pixels, identity, attributes, compress=compress)


def _write_region(
    task: _Task,
    region: _Region,
    mask: UInt8[np.ndarray, "height width"],
    crop: UInt16[np.ndarray, "rows columns"],
    generator: np.random.Generator,
) -> None:
    attributes = _describe(task, region.folder, generator, "ROI mask images")
    for index, (part, pixels) in enumerate((("crop", crop), ("mask", mask))):
        title = "ROI mask images"
        if region.series[0] != region.series[1] and part == "crop":
            title = "cropped images"
        description = title
        if not region.described:
            description = {"crop": "ROI mask images", "mask": ""}[part]
        attributes = {**attributes, "SeriesDescription": description}
        identity = Identity(
            region.studies[index],
            region.series[index],
            named_uid(task.seed, "instance", region.folder, part),
            region.on_disk[index] + 1,
        )
        path = _place(task, region.folder, identity, attributes, title)
        write_dicom(path, pixels, identity, attributes)


def _describe(
    task: _Task, folder: str, generator: np.random.Generator, description: str
) -> dict[str, str]:
    """The attributes that CBIS-DDSM's files have, in its own words."""
    date = f"{generator.integers(2016, 2018)}{generator.integers(1, 13):02d}"
    date += f"{generator.integers(1, 29):02d}"
    return {
        "StudyDate": date,
        "ContentDate": "20160426",
        "StudyTime": f"{generator.integers(8, 18):02d}3000",
        "AccessionNumber": "",
        "Modality": "MG",
        "ConversionType": "WSD",
        "ReferringPhysicianName": "",
        "SeriesDescription": description,
        "PatientName": folder,
        "PatientID": folder,
        "PatientBirthDate": "",
        "PatientSex": "",
        "BodyPartExamined": "BREAST",
        "StudyID": "DDSM",
        "SeriesNumber": "1",
        "PatientOrientation": task.view,
        "Laterality": task.breast.laterality[0],
    }


def _place(
    task: _Task,
    folder: str,
    identity: Identity,
    attributes: dict[str, str],
    title: str,
) -> Path:
    date = attributes["StudyDate"]
    place = _LAYOUTS[task.layout].format(
        date=f"{date[4:6]}-{date[6:]}-{date[:4]}",
        study=identity.study_uid,
        series=identity.series_uid,
        study5=identity.study_uid[-5:],
        series5=identity.series_uid[-5:],
        title=title,
        number1=identity.instance_number,
        number=identity.instance_number - 1,
    )
    return task.root / folder / place


def _resize_mask(
    mask: UInt8[np.ndarray, "height width"], region: _Region
) -> UInt8[np.ndarray, "rows columns"]:
    """Gives the mask the wrong size that it is to have; mostly none."""
    height, width = mask.shape
    size = (
        round(width * region.mask_scale) + region.mask_margin,
        round(height * region.mask_scale) + region.mask_margin,
    )
    if size == (width, height):
        return mask
    return cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)


def _crop(
    pixels: UInt16[np.ndarray, "height width"], outline: np.ndarray
) -> UInt16[np.ndarray, "rows columns"]:
    """The region's bounding box and a little around it."""
    corners = np.array([outline.min(axis=0), outline.max(axis=0)]) * len(pixels)
    margin = 0.1 * (corners[1] - corners[0]).max() + 2
    left, top = np.maximum(corners[0] - margin, 0).astype(int)
    right, bottom = np.ceil(corners[1] + margin).astype(int)
    return pixels[top:bottom, left:right]


def _make_tables(tasks: Sequence[_Task]) -> dict[tuple[str, str], str]:
    """The four tables' texts by kind and release."""
    tables = {}
    for kind, own_columns in _OWN_COLUMNS.items():
        density, first, second = own_columns
        header = (
            *("patient_id", density, "left or right breast", "image view"),
            *("abnormality id", "abnormality type", first, second, "assessment"),
            *("pathology", "subtlety", "image file path", "cropped image file path"),
            "ROI mask file path",
        )
        for release in RELEASES:
            text = io.StringIO()
            writer = csv.writer(text, lineterminator="\r\n")
            writer.writerow(header)
            for task in tasks:
                for listing in task.listings:
                    if (listing.kind, listing.release) == (kind, release):
                        writer.writerows(_make_rows(task, listing))
            tables[kind, release] = text.getvalue()
    return tables


def _make_rows(task: _Task, listing: _Listing) -> Iterator[tuple[str | int, ...]]:
    breast = task.breast
    density = 0 if breast.quirk == "density_zero" else breast.anatomy.density
    for region in listing.regions:
        finding = region.finding
        crop, mask = (
            f"{region.folder}/{study}/{series}/{number:06d}.dcm"
            for study, series, number in zip(
                region.studies, region.series, region.numbers, strict=True
            )
        )
        # The real tables have a line feed at the end of one of the two.
        if listing.kind == "mass":
            mask += "\n"
        else:
            crop += "\n"
        yield (
            *(breast.patient_id, density, breast.laterality, task.view),
            *(finding.abnormality_id, _TYPES[listing.kind], *finding.descriptors),
            *(finding.assessment, finding.pathology, finding.subtlety),
            f"{listing.folder}/{listing.study}/{listing.series}/000000.dcm",
            *(crop, mask),
        )
