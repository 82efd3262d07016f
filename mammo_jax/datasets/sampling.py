"""Patches from regions of interest and from background (paper, section 2.1).

Two deviations from what the authors did, both in the background patches: they are
tested against *all* lesions of the image, not only the first, and at least a share
of them lies on the breast (`PatchSampling.minimum_breast`; 0 is the authors' way).

Coordinates are (row, column) in pixels of the grid. A patch may reach over the
image's edge, where it is black.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt16

# Centres drawn before a demand that none of them met is lowered.
MISSES_PER_STEP = 1000
# Share of the brightest grey by which the breast stands out from the film's black.
_BREAST_THRESHOLD = 0.05
_SHRINK = 4
# A hard patch's centre lies within this share of its size of a bright structure, along
# either axis.
HARD_REACH = 0.25
NO_CENTRES = np.zeros((0, 2), int)
Centres = Int[np.ndarray, "n 2"]  # row, column


@dataclasses.dataclass(frozen=True)
class PatchSampling:
    """Numbers of patches, and what they must overlap with.

    Attributes:
      per_roi: patches of each ROI, and of background for each ROI; the one of 1 is
        centred on it (s1).
      positive_overlap: an ROI's patch must overlap it by more than this share, of the
        ROI or of the patch; lowered by `overlap_step` where its shape demands it.
      negative_overlap: a background patch may overlap no ROI by more than this share.
      minimum_breast: share of a background patch that must lie on the breast; lowered
        likewise.
      overlap_step: see above.
      hard_share: share of the background patches whose centre lies near a bright
        structure (`bright_structures`); the others lie anywhere.
    """

    per_roi: int
    positive_overlap: float = 0.9
    negative_overlap: float = 0.35
    minimum_breast: float = 0.5
    overlap_step: float = 0.05
    hard_share: float = 0.0


@dataclasses.dataclass(frozen=True)
class Region:
    """An abnormality's region in the grid: the largest connected part of its mask.

    Attributes:
      box: top, left, bottom, right; the last two are outside.
      area: pixels.
      outline: corners (row, column) of its outer border.
      counts: integral image of the box, for counting its pixels in any rectangle.
    """

    box: tuple[int, int, int, int]
    area: int
    outline: Int[np.ndarray, "corners 2"]
    counts: Int[np.ndarray, "box_height_plus_1 box_width_plus_1"]


@dataclasses.dataclass(frozen=True)
class Patch:
    """A place for a patch.

    Attributes:
      centre: row and column.
      region: number of the region it shows, None for background.
      overlap: the larger of the shares of the region and of the patch that they have
        in common; for background, with the region that it overlaps most.
    """

    centre: tuple[int, int]
    region: int | None
    overlap: float


def find_region(mask: Bool[np.ndarray, "height width"]) -> Region | None:
    """Finds the largest connected part of a mask, holes filled; None if it is empty."""
    contours, _ = cv2.findContours(
        mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
    )
    if not contours:
        return None
    # Ties of zero area (lines, dots) are broken by length.
    contour = max(contours, key=lambda c: (cv2.contourArea(c), len(c)))
    left, top, width, height = cv2.boundingRect(contour)
    filled = np.zeros((height, width), np.uint8)
    cv2.drawContours(filled, [contour], -1, 1, cv2.FILLED, offset=(-left, -top))
    return Region(
        box=(top, left, top + height, left + width),
        area=int(filled.sum()),
        outline=contour[:, 0, ::-1].astype(np.int32),
        counts=cv2.integral(filled),
    )


def find_breast(
    image: UInt16[np.ndarray, "height width"],
) -> Bool[np.ndarray, "height width"]:
    """Finds the largest connected part brighter than 5 % of the brightest grey.

    Found at a quarter of the resolution, where film grain no longer tears it apart.
    """
    height, width = image.shape
    small = cv2.resize(
        image,
        (max(1, width // _SHRINK), max(1, height // _SHRINK)),
        interpolation=cv2.INTER_AREA,
    )
    bright = (small > _BREAST_THRESHOLD * int(np.max(small))).astype(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(bright, connectivity=4)
    if len(stats) < 2:
        return np.zeros(image.shape, bool)
    breast = labels == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    enlarged = cv2.resize(
        breast.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST
    )
    return np.asarray(enlarged != 0)


def sample_patches(
    regions: Sequence[Region],
    breast: Bool[np.ndarray, "height width"],
    patch_size: int,
    sampling: PatchSampling,
    generator: np.random.Generator,
    structures: Int[np.ndarray, "structures 2"] = NO_CENTRES,
) -> list[Patch]:
    """Draws the patches of one image: those of each region, then as many background.

    An image whose lesions leave no room gets fewer background patches. Hard ones that
    find no place become ordinary ones. Equal generators give equal patches.

    Args:
      regions: all lesions of the image; without any there are no patches.
      breast: mask of the breast.
      patch_size: height and width of a patch in pixels.
      sampling: numbers of patches, and their distances.
      generator: gives all numbers.
      structures: centres of bright structures, for `sampling.hard_share`.
    """
    patches = []
    for number, region in enumerate(regions):
        if sampling.per_roi == 1:
            top, left, bottom, right = region.box
            centres = np.array([[(top + bottom) // 2, (left + right) // 2]])
        else:
            centres = _draw_on_region(region, patch_size, sampling, generator)
        overlaps = overlap_with(region, centres, patch_size)
        patches += _make_patches(centres, number, overlaps)

    breast_counts = cv2.integral(breast.astype(np.uint8))

    def is_background(centres: np.ndarray, least: float) -> np.ndarray:
        overlaps = _largest_overlap(regions, centres, patch_size)
        on_breast = _count_in_patches(breast_counts, (0, 0), centres, patch_size)
        is_clear = overlaps <= sampling.negative_overlap
        return np.asarray(is_clear & (on_breast >= least * patch_size**2))

    def anywhere() -> np.ndarray:
        return generator.integers(0, breast.shape, size=(MISSES_PER_STEP, 2))

    def near_structures() -> np.ndarray:
        reach = int(HARD_REACH * patch_size)
        chosen = structures[generator.integers(len(structures), size=MISSES_PER_STEP)]
        shifts = generator.integers(-reach, reach + 1, size=(MISSES_PER_STEP, 2))
        return np.clip(chosen + shifts, 0, np.asarray(breast.shape) - 1)

    demands = (is_background, sampling.minimum_breast, 0.0, sampling.overlap_step)
    hard = round(sampling.hard_share * len(patches)) if len(structures) else 0
    centres = _draw_centres(hard, near_structures, *demands)
    rest = _draw_centres(len(patches) - len(centres), anywhere, *demands)
    centres = np.concatenate([centres, rest])
    overlaps = _largest_overlap(regions, centres, patch_size)
    return patches + _make_patches(centres, None, overlaps)


def _draw_on_region(
    region: Region,
    patch_size: int,
    sampling: PatchSampling,
    generator: np.random.Generator,
) -> Centres:
    top_left, bottom_right = region.box[:2], region.box[2:]
    return _draw_centres(
        sampling.per_roi,
        lambda: generator.integers(top_left, bottom_right, size=(MISSES_PER_STEP, 2)),
        lambda centres, least: overlap_with(region, centres, patch_size) > least,
        *(sampling.positive_overlap, -1.0, sampling.overlap_step),
    )


def _draw_centres(
    count: int,
    propose: Callable[[], np.ndarray],
    accept: Callable[[np.ndarray, float], np.ndarray],
    least: float,
    lowest: float,
    step: float,
) -> Centres:
    """Proposes centres until so many are accepted, or none is at the lowest demand.

    Whenever none of a thousand is accepted, the demand is lowered by a step.
    """
    accepted: list[np.ndarray] = []
    while len(accepted) < count:
        centres = propose()
        hits = centres[accept(centres, least)]
        accepted.extend(hits)
        if not len(hits):
            if least <= lowest:
                break  # lesions fill the image
            least = max(lowest, least - step)
    return np.array(accepted[:count], int).reshape(-1, 2)


def _make_patches(
    centres: Centres, region: int | None, overlaps: np.ndarray
) -> list[Patch]:
    return [
        Patch((int(row), int(column)), region, float(overlap))
        for (row, column), overlap in zip(centres, overlaps, strict=True)
    ]


def make_generator(seed: int, image_id: str) -> np.random.Generator:
    """Makes the generator of one image: the same in whatever order they are read."""
    digest = hashlib.sha256(image_id.encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "little")])


def cut_patches(
    image: UInt16[np.ndarray, "height width"],
    patches: Sequence[Patch],
    patch_size: int,
) -> list[UInt16[np.ndarray, "size size"]]:
    """Cuts the patches out; black beyond the image's edge."""
    margin = patch_size // 2 + 1
    padded = cv2.copyMakeBorder(
        image, margin, margin, margin, margin, cv2.BORDER_CONSTANT, value=0
    )
    cut = []
    for patch in patches:
        top, left = patch.centre[0] + 1, patch.centre[1] + 1
        cut.append(padded[top : top + patch_size, left : left + patch_size])
    return cut


def overlap_with(
    region: Region, centres: Centres, patch_size: int
) -> Float[np.ndarray, " n"]:
    """Returns the larger of the shares of region and patch that they have in common."""
    shared = _count_in_patches(region.counts, region.box[:2], centres, patch_size)
    return shared / min(region.area, patch_size**2)


def _count_in_patches(
    counts: Int[np.ndarray, "height_plus_1 width_plus_1"],
    corner: tuple[int, int],
    centres: Centres,
    patch_size: int,
) -> Int[np.ndarray, " n"]:
    """Counts the pixels of patches in an integral image whose corner is `corner`."""
    first = centres - patch_size // 2 - np.asarray(corner)
    limits = np.asarray(counts.shape) - 1
    top, left = np.clip(first, 0, limits).T
    bottom, right = np.clip(first + patch_size, 0, limits).T
    right_part = counts[bottom, right] - counts[top, right]
    return np.asarray(right_part - counts[bottom, left] + counts[top, left])


def _largest_overlap(
    regions: Sequence[Region], centres: Centres, patch_size: int
) -> Float[np.ndarray, " n"]:
    overlaps = [overlap_with(region, centres, patch_size) for region in regions]
    return np.max(overlaps, axis=0) if overlaps else np.zeros(len(centres))
