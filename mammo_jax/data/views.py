"""One mammogram on its way into a data set: from its image and ROIs to examples.

Shared by the data sets, each of which finds and reads its files in its own way.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt16

from mammo_jax.data.bright_structures import find_bright_structures
from mammo_jax.data.dicom import Mammogram
from mammo_jax.data.preprocess import to_grid
from mammo_jax.data.records import Example, patch_examples, whole_example
from mammo_jax.data.sampling import (
    NO_CENTRES,
    PatchSampling,
    Region,
    cut_patches,
    find_breast,
    make_generator,
    sample_patches,
)
from mammo_jax.errors import UserError

_MIN_SIDE = 32
NETWORK_SCALE = 255 / 65535  # stored values to what networks see


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


def grid_image(mammogram: Mammogram, grid: Grid) -> UInt16[np.ndarray, "height width"]:
    """The image on its grid."""
    return to_grid(mammogram.pixels, grid.height, grid.width, stretch=grid.stretch)


def sum_up(
    image: UInt16[np.ndarray, "height width"],
    examples: list[Example],
    repairs: Mapping[str, int],
    problems: list[tuple[str, str]],
) -> ViewResult:
    """The result of a view whose gridded image could be read."""
    return ViewResult(
        examples,
        hashlib.sha256(image.tobytes()).hexdigest(),
        float(image.mean(dtype=np.float64) * NETWORK_SCALE),
        dict(repairs),
        problems,
    )


def make_examples(
    image: UInt16[np.ndarray, "height width"],
    facts: Facts,
    is_malignant: bool,
    regions: Sequence[tuple[str, Region]],
    grid: Grid,
) -> list[Example]:
    """The whole image as one example, or its patches.

    Args:
      image: gridded.
      facts: of the mammogram.
      is_malignant: its label.
      regions: patch class and place of each region of interest.
      grid: whole image or patches.
    """
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
            " mammogram; download it again"
        )
    if mammogram.pixels.min() == mammogram.pixels.max():
        raise UserError(f"{path}: the image is blank; download it again")
