"""One mammogram on its way into a data set: from its image and ROIs to examples.

Shared by the data sets, each of which finds and reads its files in its own way.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import cv2
import numpy as np
from jaxtyping import UInt16

from mammo_jax.common.errors import UserError
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
from mammo_jax.images.grid import to_grid

_MIN_SIDE = 32
NETWORK_SCALE = 255 / 65535  # stored values to what networks see
# Patch class and place of one region of interest or of several.
RegionReader = Callable[[], Sequence[tuple[str, Region]]]


@dataclasses.dataclass(frozen=True)
class Grid:
    """What becomes of an image: its grid and, for patches, how they are drawn.

    Attributes:
      height: rows of the grid.
      width: columns of the grid.
      patch_size: height and width of a patch.
      sampling: None for whole images.
      seed: of the patches.
      stretch: whether each image is stretched to the full range first.
    """

    height: int
    width: int
    patch_size: int
    sampling: PatchSampling | None
    seed: int
    stretch: bool = False


@runtime_checkable
class View(Protocol):
    """A mammogram that a data set has planned, before it is read; a dataclass."""

    @property
    def image_id(self) -> str:
        """Unique in the data set, and fit for a file name."""

    @property
    def sources(self) -> tuple[str, ...]:
        """The files that will be read, the image first."""


@dataclasses.dataclass(frozen=True)
class Facts:
    """What an example says of its mammogram.

    Attributes:
      image_id: unique in the data set.
      patient_id: the data set's own code.
      laterality: LEFT or RIGHT.
      view: CC or MLO.
      breast_density: BI-RADS density 1..4, 0 where unknown. Not kept with patches.
    """

    image_id: str
    patient_id: str
    laterality: str
    view: str
    breast_density: int


@dataclasses.dataclass(frozen=True)
class ViewResult:
    """What a view gave.

    Attributes:
      examples: none where the view had to be skipped.
      digest: of the whole gridded image, for telling equal images; None where it
        could not be read.
      mean: of the whole gridded image, 0..255; None likewise.
      repairs: what was put right, by name.
      problems: (file or folder, reason) of whatever was skipped.
    """

    examples: list[Example]
    digest: str | None
    mean: float | None
    repairs: dict[str, int]
    problems: list[tuple[str, str]]


def skipped(problems: Sequence[tuple[str, str]]) -> ViewResult:
    """The result of a view that gave nothing."""
    return ViewResult([], None, None, {}, list(problems))


def make_result(
    mammogram: Mammogram,
    facts: Facts,
    is_malignant: bool,
    readers: Sequence[tuple[str, RegionReader]],
    grid: Grid,
    repairs: Mapping[str, int],
) -> ViewResult:
    """The result of a view whose image could be read.

    Regions that cannot be read are listed as problems. A whole image then keeps its
    label and lacks them. For patches every lesion must be known, or a background patch
    could show one: the view then gives none.

    Args:
      mammogram: the image.
      facts: of the mammogram.
      is_malignant: its label.
      readers: file or folder of its regions, and what reads them.
      grid: whole image or patches.
      repairs: what was put right, by name; the readers may count theirs there.
    """
    image = to_grid(mammogram.pixels, grid.height, grid.width, stretch=grid.stretch)
    regions: list[tuple[str, Region]] = []
    problems = []
    for source, read in readers:
        try:
            regions += read()
        except UserError as error:
            problems.append((source, str(error)))
    examples = []
    if grid.sampling is None or not problems:
        examples = _make_examples(image, facts, is_malignant, regions, grid)
    return ViewResult(
        examples,
        hashlib.sha256(np.ascontiguousarray(image).data).hexdigest(),
        float(image.mean(dtype=np.float64) * NETWORK_SCALE),
        dict(repairs),
        problems,
    )


def _make_examples(
    image: UInt16[np.ndarray, "height width"],
    facts: Facts,
    is_malignant: bool,
    regions: Sequence[tuple[str, Region]],
    grid: Grid,
) -> list[Example]:
    """The whole image as one example, or its patches."""
    said = dataclasses.asdict(facts)
    if grid.sampling is None:
        return [whole_example(image, said, int(is_malignant), regions)]
    del said["breast_density"]
    breast = find_breast(image)
    structures = NO_CENTRES
    if grid.sampling.hard_share:
        structures = find_bright_structures(image, breast, grid.patch_size)
    patches = sample_patches(
        [region for _, region in regions],
        breast,
        grid.patch_size,
        grid.sampling,
        make_generator(grid.seed, facts.image_id),
        structures,
    )
    return patch_examples(
        cut_patches(image, patches, grid.patch_size),
        patches,
        said,
        [name for name, _ in regions],
    )


def check_image(path: str, mammogram: Mammogram) -> None:
    """Refuses what cannot be a whole mammogram.

    Raises:
      UserError: it is tiny or of one grey.
    """
    if min(mammogram.pixels.shape) < _MIN_SIDE:
        raise UserError(
            f"{path}: {mammogram.rows}x{mammogram.columns} pixels are no whole"
            " mammogram; get the original"
        )
    darkest, brightest, *_ = cv2.minMaxLoc(mammogram.pixels)
    if darkest == brightest:
        raise UserError(f"{path}: the image is blank; get the original")
