"""One mammogram on its way into a data set: from its image and ROIs to examples.

Shared by the data sets, each of which finds and reads its files in its own way.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

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
from mammo_jax.images.grid import Grid, to_grid

_MIN_SIDE = 32
_NETWORK_SCALE = 255 / 65535  # from stored values to what networks see
# Facts of a mammogram that its example has; the density is not kept with patches.
_FACTS = ("image_id", "patient_id", "laterality", "view", "breast_density")
# Reads the patch class and the place of one region of interest or of several.
RegionReader = Callable[[], Sequence[tuple[str, Region]]]

# (image id or row, file or folder, reason) of all that is skipped.
Problems = list[tuple[str, str, str]]


@dataclasses.dataclass(frozen=True)
class Packing:
    """Form in which a data set keeps its mammograms.

    Attributes:
      grid: grid that every image is brought to.
      patch_size: height and width of a patch in pixels.
      sampling: how patches are drawn; None for whole images.
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


@runtime_checkable
class View(Protocol):
    """A mammogram that a data set has planned, before it is read; a dataclass."""

    @property
    def image_id(self) -> str:
        """Name that is unique in the data set and fit for a file's."""

    @property
    def patient_id(self) -> str:
        """The data set's own code of the patient."""

    @property
    def laterality(self) -> str:
        """LEFT or RIGHT."""

    @property
    def view(self) -> str:
        """CC or MLO."""

    @property
    def breast_density(self) -> int:
        """BI-RADS density 1..4, 0 where unknown."""

    @property
    def is_malignant(self) -> bool:
        """True if the mammogram's label is malignant."""

    @property
    def sources(self) -> tuple[str, ...]:
        """The files that will be read, the image first."""


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
    view: View,
    mammogram: Mammogram,
    readers: Sequence[tuple[str, RegionReader]],
    packing: Packing,
    repairs: Mapping[str, int],
) -> ViewResult:
    """Makes the result of a view whose image could be read.

    Regions that cannot be read are listed as problems. A whole image then keeps its
    label and lacks them. For patches every lesion must be known, or a background patch
    could show one: the view then gives none.

    Args:
      view: the view.
      mammogram: its image.
      readers: file or folder of its regions, and what reads them.
      packing: form that the data set keeps it in.
      repairs: number of things put right, by name; the readers may add to it.
    """
    height, width, stretch = packing.grid
    image = to_grid(mammogram.pixels, height, width, stretch=stretch)
    regions: list[tuple[str, Region]] = []
    problems = []
    for source, read in readers:
        try:
            regions += read()
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
    if packing.sampling is None:
        return [whole_example(image, facts, int(view.is_malignant), regions)]
    del facts["breast_density"]
    breast = find_breast(image)
    structures = NO_CENTRES
    if packing.sampling.hard_share:
        structures = find_bright_structures(image, breast, packing.patch_size)
    patches = sample_patches(
        [region for _, region in regions],
        breast,
        packing.patch_size,
        packing.sampling,
        make_generator(packing.seed, view.image_id),
        structures,
    )
    return patch_examples(
        cut_patches(image, patches, packing.patch_size),
        patches,
        facts,
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
