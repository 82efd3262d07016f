"""Mapping of stored values to the network's pixel grid.

The paper squeezes every mammogram to one grid (1152x896, section 2.1) without keeping
its aspect ratio and does nothing else: no crop, no flip, no removal of markers.
"""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Shaped, UInt16


class Grid(NamedTuple):
    """Grid that a network's images have.

    Attributes:
      height: rows.
      width: columns.
      stretch: True if each image is stretched to the full range first.
    """

    height: int
    width: int
    stretch: bool


def to_grid(
    pixels: UInt16[np.ndarray, "rows columns"],
    height: int,
    width: int,
    *,
    stretch: bool = False,
) -> UInt16[np.ndarray, "height width"]:
    """Squeezes an image to `height` x `width` pixels, aspect ratio not kept.

    Bicubic on the integers, as the authors did: no smoothing before shrinking, results
    rounded and clipped to 0..65535.

    Args:
      pixels: stored values.
      height: rows of the grid.
      width: columns of the grid.
      stretch: first stretch the darkest..brightest value to 0..65535. For detectors
        of 12 to 14 bits, whose images would be almost black on film's scale.
    """
    if stretch:
        pixels = stretch_to_full_range(pixels)
    if pixels.shape == (height, width):
        return pixels
    return np.asarray(
        cv2.resize(pixels, (width, height), interpolation=cv2.INTER_CUBIC)
    )


def stretch_to_full_range(
    pixels: UInt16[np.ndarray, "rows columns"],
) -> UInt16[np.ndarray, "rows columns"]:
    """Maps the darkest..brightest value linearly to 0..65535; flat images to 0."""
    stretched = np.empty_like(pixels)
    cv2.normalize(pixels, stretched, 0, 65535, cv2.NORM_MINMAX, cv2.CV_16U)
    return stretched


def mask_to_grid(
    mask: Shaped[np.ndarray, "rows columns"], height: int, width: int
) -> Bool[np.ndarray, "height width"]:
    """Squeezes a mask (nonzero inside) to the grid: cells at least half covered.

    A mask of another size than its image is thereby resized to it. A lesion too small
    to cover half of any cell keeps the cells it covers most.
    """
    inside: np.ndarray = np.asarray(mask) != 0
    if inside.shape == (height, width):
        return inside
    # Bytes of 255: the rounding of the area average is then fine enough.
    coverage: np.ndarray = cv2.resize(
        inside * np.uint8(255), (width, height), interpolation=cv2.INTER_AREA
    )
    if not inside.any():
        return np.zeros((height, width), bool)
    if not coverage.any():  # so small that the average rounds to nothing
        row, column = (int(np.mean(where)) for where in np.nonzero(inside))
        coverage[row * height // len(inside), column * width // inside.shape[1]] = 1
    covered: np.ndarray = coverage >= min(128, int(coverage.max()))
    return covered


def shrink(
    image: Shaped[np.ndarray, "height width *channels"], scale: float
) -> Shaped[np.ndarray, "height2 width2 *channels"]:
    """Averages the image to `scale` times its size; returns it itself from 1 on.

    For pictures and for what looks at coarse structures, not for the networks' images.
    """
    if scale >= 1:
        return image
    height, width = (max(1, round(scale * side)) for side in image.shape[:2])
    shrunk: np.ndarray = cv2.resize(
        image, (width, height), interpolation=cv2.INTER_AREA
    )
    return shrunk
