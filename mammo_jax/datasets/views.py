"""One mammogram on its way into a data set: from its image and ROIs to examples.

Shared by the data sets, each of which finds and reads its files in its own way.
"""

import collections
import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from jaxtyping import UInt16

from mammo_jax.common.errors import UserError, refuse
from mammo_jax.datasets.bright_structures import find_bright_structures
from mammo_jax.datasets.records import Example, patch_examples, whole_example
from mammo_jax.datasets.sampling import (
    NO_CENTRES,
    PatchSampling,
    Region,
    cut_patches,
    find_breast,
    make_generator,
    sample_patches,
)
from mammo_jax.images.dicom import Mammogram
from mammo_jax.images.grid import Grid, to_grid
from mammo_jax.images.pictures import read_image

_MIN_SIDE = 32
# Height over width of mammograms is 1.1 to 3.
_ASPECTS = (0.8, 5.0)
# An image that uses less of the range that it claims is on another scale.
_LEAST_SHARE = 16
_NETWORK_SCALE = 255 / 65535  # from stored values to what networks see
_FACTS = ("image_id", "patient_id", "laterality", "view")  # that every example has
# Number of things put right, by name.
Repairs = collections.Counter[str]

# (image id or row, file or folder, reason) of all that is skipped.
Problems = list[tuple[str, str, str]]


def note_problems(found: Problems, problems: Problems | None) -> None:
    """Adds what was found to `problems`; without it, the first is a UserError."""
    if problems is not None:
        problems += found
    elif found:
        _, path, reason = found[0]
        raise UserError(f"{path}: {reason}")


@dataclasses.dataclass(frozen=True)
class Packing:
    """Form in which a data set keeps its mammograms.

    Attributes:
      grid: grid that every image is brought to.
      patch_size: height and width of a patch in pixels.
      sampling: rules by which patches are drawn; None for whole images.
      seed: seed of the patches.
    """

    grid: Grid
    patch_size: int
    sampling: PatchSampling | None
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        """Returns the settings as a packaged data set keeps them."""
        sampling = self.sampling and dataclasses.asdict(self.sampling)
        return {
            **{"height": self.grid.height, "width": self.grid.width},
            **{"patch_size": self.patch_size, "sampling": sampling, "seed": self.seed},
            "stretch": self.grid.stretch,
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class View:
    """A mammogram that a data set has planned, before it is read.

    Attributes:
      image_id: name that is unique in the data set and fit for a file's.
      patient_id: the data set's own code of the patient.
      laterality: LEFT or RIGHT.
      view: CC or MLO.
      is_malignant: the mammogram's label.
      breast_density: BI-RADS density 1..4, 0 where unknown.
      sources: the files that will be read, the image first.
    """

    image_id: str
    patient_id: str
    laterality: str
    view: str
    is_malignant: bool
    breast_density: int = 0
    sources: tuple[str, ...] = ()

    @property
    def image(self) -> str:
        """The image's file."""
        return self.sources[0] if self.sources else ""


AnyView = TypeVar("AnyView", bound=View)
Roi = TypeVar("Roi")
# Reads patch class and place of what one region of interest gives: mostly one region.
RoiReader = Callable[
    [Roi, AnyView, Mammogram, Grid, Repairs], Sequence[tuple[str, Region]]
]


def count_views(views: Sequence[View]) -> dict[str, int]:
    """Counts views and patients, and those that are malignant."""
    malignant = [view for view in views if view.is_malignant]
    return {
        "views": len(views),
        "patients": len({view.patient_id for view in views}),
        "malignant_views": len(malignant),
        "malignant_patients": len({view.patient_id for view in malignant}),
    }


@dataclasses.dataclass(frozen=True)
class ViewResult:
    """Outcome of reading a view.

    Attributes:
      examples: its examples; none where it had to be skipped.
      digest: digest of the whole gridded image, for telling equal images; None where
        it could not be read.
      mean: mean of the whole gridded image, 0..255; None likewise.
      repairs: number of things put right, by name.
      problems: (file or folder, reason) of whatever was skipped.
    """

    examples: list[Example] = dataclasses.field(default_factory=list)
    digest: str | None = None
    mean: float | None = None
    repairs: dict[str, int] = dataclasses.field(default_factory=dict)
    problems: list[tuple[str, str]] = dataclasses.field(default_factory=list)


def make_result(
    view: AnyView,
    packing: Packing,
    rois: Iterable[tuple[str, Roi]],
    read_roi: RoiReader[Roi, AnyView],
    *,
    mammogram: Mammogram | None = None,
    check: Callable[[AnyView, Mammogram], None] | None = None,
    repairs: Repairs | None = None,
) -> ViewResult:
    """Reads a view's image and regions and makes its examples.

    Regions that cannot be read are listed as problems. A whole image then keeps its
    label and lacks them. For patches every lesion must be known, or a background patch
    could show one: the view then gives none.

    Args:
      view: the view.
      packing: form that the data set keeps it in.
      rois: file or folder of each region of interest, and what `read_roi` knows it by.
      read_roi: reads the regions of one.
      mammogram: the image, if it has been read.
      check: refuses an image by a UserError.
      repairs: number of things put right until now, by name.
    """
    repairs = collections.Counter() if repairs is None else repairs
    problems = []
    try:
        mammogram = mammogram or read_whole(view.image)
        if check is not None:
            check(view, mammogram)
        image = bring_to_grid(Path(view.image), mammogram, packing.grid)
    except UserError as error:
        return ViewResult(problems=[(view.image, str(error))])
    regions: list[tuple[str, Region]] = []
    for source, roi in rois:
        try:
            regions += read_roi(roi, view, mammogram, packing.grid, repairs)
        except UserError as error:
            problems.append((source, str(error)))
    examples = []
    if packing.sampling is None or not problems:
        examples = _make_examples(view, image, regions, packing)
    return ViewResult(
        examples,
        hashlib.sha256(np.ascontiguousarray(image).data).hexdigest(),
        float(image.mean(dtype=np.float64) * _NETWORK_SCALE),
        dict(repairs),
        problems,
    )


def _make_examples(
    view: View,
    image: UInt16[np.ndarray, "height width"],
    regions: Sequence[tuple[str, Region]],
    packing: Packing,
) -> list[Example]:
    """Makes the whole image's one example, or those of its patches."""
    facts = {name: getattr(view, name) for name in _FACTS}
    sampling, size = packing.sampling, packing.patch_size
    if sampling is None:
        facts |= {
            "label": int(view.is_malignant),
            "breast_density": view.breast_density,
        }
        return [whole_example(image, facts, regions)]
    breast = find_breast(image)
    structures = NO_CENTRES
    if sampling.hard_share:
        structures = find_bright_structures(image, breast, size)
    patches = sample_patches(
        [region for _, region in regions],
        *(breast, size, sampling),
        make_generator(packing.seed, view.image_id),
        structures,
    )
    cut = cut_patches(image, patches, size)
    return patch_examples(cut, patches, facts, [name for name, _ in regions])


def read_whole(path: str) -> Mammogram:
    """Reads a file that must be a whole mammogram, or raises what is wrong with it."""
    mammogram = read_image(path)
    check_image(Path(path), mammogram)
    return mammogram


def check_image(path: Path, mammogram: Mammogram) -> None:
    """Refuses what cannot be a whole mammogram.

    Raises:
      UserError: it is raw, of a part, tiny, of one or two greys, or of another shape.
    """
    rows, columns = mammogram.pixels.shape
    lowest, highest = _ASPECTS
    darkest, brightest, *_ = cv2.minMaxLoc(mammogram.pixels)
    refuse(
        {
            f"{path}: {mammogram.not_whole}; only images for presentation of whole"
            " breasts are used": mammogram.not_whole,
            f"{path}: {rows}x{columns} pixels are no whole mammogram; get the"
            " original": min(rows, columns) < _MIN_SIDE,
            f"{path}: the image is blank; get the original": darkest == brightest,
            f"{path}: has two grey values only, as a lesion's mask; get the"
            " mammogram": _is_mask(mammogram.pixels, darkest, brightest),
            f"{path}: {rows}x{columns} pixels (height x width) are not the shape of a"
            " mammogram; turn it upright, or cut it to one breast": (
                not lowest <= rows / columns <= highest
            ),
        }
    )


def _is_mask(
    pixels: UInt16[np.ndarray, "rows columns"], darkest: float, brightest: float
) -> bool:
    few = pixels[::16, ::16]  # That decides it for nearly every mammogram.
    return all(
        ((part == darkest) | (part == brightest)).all() for part in (few, pixels)
    )


def bring_to_grid(
    path: Path, mammogram: Mammogram, grid: Grid
) -> UInt16[np.ndarray, "height width"]:
    """Brings a mammogram to a grid, in the range 0..65535.

    Raises:
      UserError: on a grid that does not stretch it, it would be almost black.
    """
    pixels, bits = mammogram.pixels, mammogram.bits_stored
    if not grid.stretch:
        span = int(pixels.max()) - int(pixels.min()) + 1
        if span <= (1 << bits) // _LEAST_SHARE:
            raise UserError(
                f"{path}: uses {span} grey levels, less than a sixteenth of the range"
                " that its header claims, and nothing here stretches it; correct the"
                " header's BitsStored, or stretch the pixels"
            )
        if bits < 16:  # Such a grid is filled from 16-bit films.
            scaled = np.rint(pixels * np.float32(65535 / ((1 << bits) - 1)))
            pixels = np.minimum(scaled, 65535).astype(np.uint16)
    return to_grid(pixels, grid.height, grid.width, stretch=grid.stretch)
