"""INbreast as it is handed out: digital mammograms, XML outlines, one table.

Moreira et al. (2012), "INbreast: toward a full-field digital mammographic database",
Academic Radiology 19(2). Form and oddities are the real set's; people and images are
synthetic. Medical reports, the outlines in OsiriX's own format, and the table as a
spreadsheet are left out.
"""

import csv
import dataclasses
import io
import plistlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from pydicom.uid import DigitalMammographyXRayImageStorageForPresentation

from mammo_jax.common.errors import UserError
from mammo_jax.common.parallel import parallel_map
from mammo_jax.common.progress import progress
from mammo_jax.phantom.anatomy import Anatomy, draw_anatomy
from mammo_jax.phantom.catalogue import deal
from mammo_jax.phantom.dicom_files import Identity, write_dicom
from mammo_jax.phantom.lesions import Lesion, draw_lesion
from mammo_jax.phantom.mammogram import ViewPlan, draw_mammogram
from mammo_jax.phantom.output_folder import whole_folder
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


@dataclasses.dataclass(frozen=True)
class _Image:
    """One mammogram of the table.

    Attributes:
      number: first part of the file's name.
      patient: hash in the file's name; repeat examinations share it.
      side: "L" or "R".
      view: "CC" or "MLO".
      view_in_name: "CC", "ML" for MLO, or "FB".
      date: year and month.
      category: BI-RADS, "1" to "6" with "4a" to "4c".
      anatomy: what is drawn.
      density: as in the table; blanks occur.
      lesions: none in category 1.
    """

    number: int
    patient: str
    side: str
    view: str
    view_in_name: str
    date: str
    category: str
    anatomy: Anatomy
    density: str
    lesions: tuple[Lesion, ...]

    @property
    def name(self) -> str:
        """Name of the DICOM file, without its ending."""
        return f"{self.number}_{self.patient}_MG_{self.side}_{self.view_in_name}_ANON"


@dataclasses.dataclass(frozen=True)
class _Task:
    """An image to be drawn and written."""

    root: Path
    seed: int
    height: int
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
      seed: of everything.
      height: of the larger detector in pixels; the smaller one's images are less high.
      contrast: factor on how much the lesions stand out; 1 looks like real ones.
      num_workers: processes; None means one for each core.

    Raises:
      UserError: `out_dir` is not empty, or an argument is out of range.
    """
    if not 1 <= cases <= 10000:
        raise UserError(f"cases is {cases}; it must lie within 1 and 10000")
    if not 128 <= height <= 2**14:
        raise UserError(f"height is {height}; it must lie within 128 and 16384")
    if not 0 < contrast <= 10:
        raise UserError(f"contrast is {contrast}; it must lie above 0 and at most 10")
    images = _make_catalogue(seed, cases, contrast)
    with whole_folder(out_dir) as folder:
        root = folder / _FOLDER
        (root / "AllDICOMs").mkdir(parents=True)
        (root / "AllXML").mkdir()
        tasks = [_Task(root, seed, height, image) for image in images]
        written = parallel_map(_write_image, tasks, num_workers)
        for _ in progress(
            written, "drawing mammograms", total=len(tasks), unit="image"
        ):
            pass
        (root / "INbreast.csv").write_bytes(_make_table(images).encode("ascii"))


def _make_catalogue(seed: int, cases: int, contrast: float = 1.0) -> list[_Image]:
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
        for index, side in enumerate("LR"):
            category = categories[2 * case + index]
            own = named_generator(seed, "INbreast", case, side)
            anatomy = draw_anatomy(own, densities[case])
            lesions = _draw_lesions(own, category, contrast)
            for view, short in (("CC", "CC"), ("MLO", "ML")):
                # One image of the set has a view in its name that no table knows.
                odd = (case, side, view) == (0, "R", "MLO")
                # The table leaves out one density.
                blank = (case, side, view) == (0, "L", "CC")
                images.append(
                    _Image(
                        number=int(next(numbers)),
                        patient=patient,
                        side=side,
                        view=view,
                        view_in_name="FB" if odd else short,
                        date=date,
                        category=category,
                        anatomy=anatomy,
                        density="    " if blank else str(anatomy.density),
                        lesions=lesions,
                    )
                )
    return images


def _draw_lesions(
    generator: np.random.Generator, category: str, contrast: float
) -> tuple[Lesion, ...]:
    if category == "1":
        return ()
    kinds = generator.choice(["mass", "calc"], size=1 + generator.binomial(2, 0.15))
    malignant = category in _MALIGNANT
    labels = [malignant] + [
        malignant and bool(generator.uniform() < 0.5) for _ in kinds[1:]
    ]
    return tuple(
        dataclasses.replace(draw_lesion(generator, str(kind), label), contrast=contrast)
        for kind, label in zip(kinds, labels, strict=True)
    )


def _write_image(task: _Task) -> None:
    """Draws an image, writes its DICOM file and its outlines."""
    image = task.image
    generator = named_generator(task.seed, "INbreast", image.number)
    tall, wide = _DETECTORS[generator.integers(len(_DETECTORS))]
    rows, columns = round(tall * task.height), round(wide * task.height)
    plan = ViewPlan(
        name=str(image.number),
        laterality={"L": "LEFT", "R": "RIGHT"}[image.side],
        view=image.view,
        anatomy=image.anatomy,
        lesions=image.lesions,
    )
    mammogram = draw_mammogram(task.seed, plan, rows, columns, scale="digital")
    examination = f"{image.patient} {image.date}"
    identity = Identity(
        named_uid(task.seed, "study", examination),
        named_uid(task.seed, "series", examination, image.number),
        named_uid(task.seed, "instance", examination, image.number),
    )
    attributes = {
        "StudyDate": f"{image.date}01",
        "Modality": "MG",
        "PresentationIntentType": "FOR PRESENTATION",
        "PatientName": "removed",
        "PatientID": "removed",
        "BodyPartExamined": "BREAST",
        "ImagerPixelSpacing": f"{_PIXEL_MM}\\{_PIXEL_MM}",
        "ImageLaterality": image.side,
    }
    write_dicom(
        task.root / "AllDICOMs" / f"{image.name}.dcm",
        mammogram.pixels,
        identity,
        attributes,
        bits_stored=_BITS,
        sop_class=DigitalMammographyXRayImageStorageForPresentation,
    )
    if image.lesions:
        regions = [
            _make_region(generator, lesion, outline * rows, index)
            for index, (lesion, outline) in enumerate(
                zip(image.lesions, mammogram.outlines, strict=True)
            )
        ]
        regions += _make_dots(generator, image, mammogram.outlines, rows, len(regions))
        content = {
            "Images": [{"ImageIndex": 0, "NumberOfROIs": len(regions), "ROIs": regions}]
        }
        path = task.root / "AllXML" / f"{image.number}.xml"
        path.write_bytes(plistlib.dumps(content, sort_keys=True))


def _make_region(
    generator: np.random.Generator,
    lesion: Lesion,
    outline: Float[np.ndarray, "point 2"],
    index: int,
) -> dict[str, object]:
    names = _NAMES[lesion.kind, lesion.malignant]
    return _describe_region(str(generator.choice(names)), outline, index)


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


def _make_dots(
    generator: np.random.Generator,
    image: _Image,
    outlines: Sequence[Float[np.ndarray, "point 2"]],
    rows: int,
    first: int,
) -> list[dict[str, object]]:
    """Marks of one or two points, and a region that reaches over the image's edge."""
    regions: list[dict[str, object]] = []
    for lesion, outline in zip(image.lesions, outlines, strict=True):
        if lesion.kind == "calc" and not lesion.malignant:
            points = outline[: generator.integers(1, 3)] * 0.5 + outline.mean(0) * 0.5
            index = first + len(regions)
            regions.append(_describe_region("Calcification", points * rows, index))
    if generator.uniform() < 0.1:
        corner = np.array([[-6.5, -4.0], [9.0, -4.0], [9.0, 12.0], [-6.5, 12.0]])
        regions.append(_describe_region("Unnamed", corner, first + len(regions)))
    return regions


def _make_table(images: Sequence[_Image]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=";", lineterminator="\r\n")
    writer.writerow(_COLUMNS)
    for image in sorted(images, key=lambda image: image.number):
        who = ("removed", "removed")
        what = (image.side, image.view, image.date, image.number)
        writer.writerow((*who, *what, image.density, image.category))
    return text.getvalue()
