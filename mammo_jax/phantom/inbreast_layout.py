"""INbreast as it is handed out: digital mammograms, XML outlines, one table.

Moreira et al. (2012), "INbreast: toward a full-field digital mammographic database",
Academic Radiology 19(2). Form and oddities are the real set's; people and images are
synthetic. Medical reports, the outlines in OsiriX's own format, and the table as a
spreadsheet are left out.
"""

import plistlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from pydicom.uid import DigitalMammographyXRayImageStorageForPresentation

from mammo_jax.phantom.anatomy import draw_anatomy
from mammo_jax.phantom.catalogue import deal
from mammo_jax.phantom.dicom_files import write_dicom
from mammo_jax.phantom.lesions import Lesion, draw_lesion
from mammo_jax.phantom.mammogram import ViewPlan, draw_mammogram
from mammo_jax.phantom.output_folder import (
    check_ranges,
    draw_all,
    phantom_folder,
    write_csv,
)
from mammo_jax.phantom.seeding import named_generator, named_uid

_FOLDER = "INbreast Release 1.0"
_COLUMNS = (
    *("Patient ID", "Patient age", "Laterality", "View", "Acquisition date"),
    *("File Name", "ACR", "Bi-Rads"),
)
# Images of each BI-RADS category in the real table.
_CATEGORIES = {
    **{"1": 67, "2": 220, "3": 23, "4a": 13, "4b": 8, "4c": 22, "5": 49, "6": 8}
}
_MALIGNANT = ("4a", "4b", "4c", "5", "6")
_DENSITIES = {1: 0.34, 2: 0.35, 3: 0.24, 4: 0.07}
# Rows and columns of the two detectors, over the larger one's rows.
_DETECTORS = ((1.0, 3328 / 4084), (3328 / 4084, 2560 / 4084))
_BITS = 14
_PIXEL_MM = 0.07
# Names of regions as the annotators wrote them.
_NAMES = {
    ("mass", False): ("Mass", "Mass", "Unnamed", "Assymetry"),
    ("mass", True): ("Mass", "Spiculated Region", "Espiculated Region"),
    ("calc", False): ("Calcification", "Calcifications"),
    ("calc", True): ("Cluster", "Calcifications"),
}
# One examination in so many repeats the patient before it.
_REPEAT_PERIOD = 10


class _Image(NamedTuple):
    """One mammogram of the table.

    Attributes:
      plan: the image to draw; its name begins the file's name. No lesions in
        category 1.
      patient: hash in the file's name; repeat examinations share it.
      view_in_name: "CC", "ML" for MLO, or "FB".
      date: year and month.
      category: BI-RADS, "1" to "6" with "4a" to "4c".
      density: as in the table; blanks occur.
    """

    plan: ViewPlan
    patient: str
    view_in_name: str
    date: str
    category: str
    density: str


class _Task(NamedTuple):
    """An image to be drawn and written."""

    root: Path
    seed: int
    height: int
    contrast: float
    image: _Image


def write_inbreast(
    out_dir: str | Path,
    *,
    cases: int,
    seed: int = 0,
    height: int = 4084,
    contrast: float = 1.0,
    num_workers: int | None = None,
) -> None:
    """Writes a synthetic set in INbreast's layout.

    The same arguments give the same bytes, whatever `num_workers` is.

    Args:
      out_dir: a new or an empty folder. Gets `INbreast Release 1.0/`.
      cases: number of examinations, mostly of four images.
      seed: the seed of everything.
      height: pixels of the larger detector; the smaller one's images are less high.
      contrast: factor on how much the lesions stand out; 1 looks like real ones.
      num_workers: processes; None means one for each core.

    Raises:
      UserError: `out_dir` is not empty, or an argument is out of range.
    """
    check_ranges(height, contrast, cases=(cases, 1, 10000))
    images = _make_catalogue(seed, cases)
    with phantom_folder(out_dir) as folder:
        root = folder / _FOLDER
        for name in ("AllDICOMs", "AllXML"):
            (root / name).mkdir(parents=True)
        tasks = [_Task(root, seed, height, contrast, image) for image in images]
        draw_all(_write_image, tasks, num_workers)
        rows = [
            (
                *("removed", "removed", plan.laterality[0], plan.view),
                *(image.date, plan.name, image.density, image.category),
            )
            for image in sorted(images, key=lambda image: int(image.plan.name))
            for plan in (image.plan,)
        ]
        write_csv(root / "INbreast.csv", [_COLUMNS, *rows], delimiter=";")


def _make_catalogue(seed: int, cases: int) -> list[_Image]:
    generator = named_generator(seed, "INbreast")
    densities = deal(generator, _DENSITIES, cases)
    categories = deal(generator, _CATEGORIES, 2 * cases)
    numbers = iter(20586908 + np.cumsum(generator.integers(2, 90, 4 * cases)))
    images = []
    patient = ""
    for case in range(cases):
        if case % _REPEAT_PERIOD != 1:
            patient = f"{generator.integers(2**63):016x}"
        date = f"{generator.integers(2008, 2011)}{generator.integers(1, 13):02d}"
        for index, side in enumerate(("LEFT", "RIGHT")):
            category = categories[2 * case + index]
            own = named_generator(seed, "INbreast", case, side[0])
            anatomy = draw_anatomy(own, densities[case])
            lesions = _draw_lesions(own, category)
            for view, short in (("CC", "CC"), ("MLO", "ML")):
                plan = ViewPlan(str(next(numbers)), side, view, anatomy, lesions)
                # One image has a view in its name that no table knows, and the table
                # leaves out one density.
                if (case, side, view) == (0, "RIGHT", "MLO"):
                    short = "FB"
                is_blank = (case, side, view) == (0, "LEFT", "CC")
                density = "    " if is_blank else str(anatomy.density)
                images.append(_Image(plan, patient, short, date, category, density))
    return images


def _draw_lesions(generator: np.random.Generator, category: str) -> tuple[Lesion, ...]:
    if category == "1":
        return ()
    kinds = generator.choice(["mass", "calc"], size=1 + generator.binomial(2, 0.15))
    malignant = category in _MALIGNANT
    labels = [malignant] + [
        malignant and bool(generator.uniform() < 0.5) for _ in kinds[1:]
    ]
    return tuple(
        draw_lesion(generator, str(kind), label)
        for kind, label in zip(kinds, labels, strict=True)
    )


def _write_image(task: _Task) -> None:
    """Draws an image, writes its DICOM file and its outlines."""
    image, plan = task.image, task.image.plan
    number = int(plan.name)
    generator = named_generator(task.seed, "INbreast", number)
    rows, columns = (
        round(side * task.height)
        for side in _DETECTORS[generator.integers(len(_DETECTORS))]
    )
    mammogram = draw_mammogram(
        task.seed, plan, rows, columns, scale="digital", contrast=task.contrast
    )
    examination = f"{image.patient} {image.date}"
    side = plan.laterality[0]
    attributes = {
        "SOPClassUID": DigitalMammographyXRayImageStorageForPresentation,
        "StudyInstanceUID": named_uid(task.seed, "study", examination),
        "SeriesInstanceUID": named_uid(task.seed, "series", examination, number),
        "SOPInstanceUID": named_uid(task.seed, "instance", examination, number),
        "InstanceNumber": 1,
        "StudyDate": f"{image.date}01",
        "Modality": "MG",
        "PresentationIntentType": "FOR PRESENTATION",
        "PatientName": "removed",
        "PatientID": "removed",
        "BodyPartExamined": "BREAST",
        "ImagerPixelSpacing": f"{_PIXEL_MM}\\{_PIXEL_MM}",
        "ImageLaterality": side,
    }
    name = f"{number}_{image.patient}_MG_{side}_{image.view_in_name}_ANON.dcm"
    path = task.root / "AllDICOMs" / name
    write_dicom(path, mammogram.pixels, attributes, bits_stored=_BITS)
    if plan.lesions:
        outlines = [outline * rows for outline in mammogram.outlines]
        regions = [
            _describe_region(*region, index)
            for index, region in enumerate(_list_regions(generator, plan, outlines))
        ]
        content = {
            "Images": [{"ImageIndex": 0, "NumberOfROIs": len(regions), "ROIs": regions}]
        }
        path = task.root / "AllXML" / f"{number}.xml"
        path.write_bytes(plistlib.dumps(content, sort_keys=True))


def _list_regions(
    generator: np.random.Generator,
    plan: ViewPlan,
    outlines: list[Float[np.ndarray, "point 2"]],
) -> list[tuple[str, Float[np.ndarray, "_ 2"]]]:
    """Lists names and points: of lesions, dots, and what reaches over the edge."""
    lesions = list(zip(plan.lesions, outlines, strict=True))
    regions = [
        (str(generator.choice(_NAMES[lesion.kind, lesion.malignant])), outline)
        for lesion, outline in lesions
    ]
    for lesion, outline in lesions:
        if lesion.kind == "calc" and not lesion.malignant:
            points = outline[: generator.integers(1, 3)] * 0.5 + outline.mean(0) * 0.5
            regions.append(("Calcification", points))
    if generator.uniform() < 0.1:
        corner = np.array([[-6.5, -4.0], [9.0, -4.0], [9.0, 12.0], [-6.5, 12.0]])
        regions.append(("Unnamed", corner))
    return regions


def _describe_region(
    name: str, points: Float[np.ndarray, "point 2"], index: int
) -> dict[str, object]:
    """A region as OsiriX exports it; points are (x, y) in pixels."""
    centre = points.mean(axis=0)
    return {
        "Center": f"({centre[0]:.6f}, {centre[1]:.6f})",
        "IndexInImage": index,
        "Name": name,
        "NumberOfPoints": len(points),
        "Point_mm": [f"({x:.6f}, {y:.6f}, 0.000000)" for x, y in points * _PIXEL_MM],
        "Point_px": [f"({x:.6f}, {y:.6f})" for x, y in points],
        "Type": 19 if len(points) < 3 else 15,
    }
