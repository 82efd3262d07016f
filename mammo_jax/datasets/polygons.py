"""Regions of interest drawn as points: polygons, dots and circles."""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float

from mammo_jax.datasets.sampling import Region, find_region

Points = Float[np.ndarray, "points 2"]  # x, y

_FRACTION_BITS = 4  # of a pixel, in OpenCV's drawing
_CIRCLE_CORNERS = 64


def draw_polygon(
    points: Points, image_shape: tuple[int, int], grid_shape: tuple[int, int]
) -> Bool[np.ndarray, "height width"]:
    """Draws a polygon of image coordinates (x, y) in pixels on a grid.

    What lies outside the image is brought to its edge; one or two points are dots.
    """
    (rows, columns), (height, width) = image_shape, grid_shape
    inside = np.clip(points, 0, [columns - 1, rows - 1])
    placed = (inside + 0.5) * [width / columns, height / rows] - 0.5
    mask = np.zeros((height, width), np.uint8)
    if len(placed) < 3:
        for x, y in np.clip(np.rint(placed), 0, [width - 1, height - 1]).astype(int):
            mask[y, x] = 1
    else:
        fixed = np.rint(placed * (1 << _FRACTION_BITS)).astype(np.int32)
        cv2.fillPoly(mask, [fixed], 1, shift=_FRACTION_BITS)
    return mask.astype(bool)


def polygon_regions(
    points: Points, image_shape: tuple[int, int], grid_shape: tuple[int, int]
) -> list[Region]:
    """Returns the region of a polygon, or of each dot, on a grid."""
    parts = [points] if len(points) > 2 else [point[None] for point in points]
    masks = [draw_polygon(part, image_shape, grid_shape) for part in parts]
    return [region for mask in masks if (region := find_region(mask)) is not None]


def circle_points(x: float, y: float, radius: float) -> Points:
    """Returns a circle as a polygon, in the same pixels."""
    angles = np.linspace(0, 2 * np.pi, _CIRCLE_CORNERS, endpoint=False)
    return np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], axis=1)


def parse_points(texts: Sequence[str]) -> Points:
    """Parses points written as "(12.5, 80)", "12.5 80" or "12,5 80".

    Raises:
      ValueError: a text is not two finite numbers.
    """
    return np.array([parse_numbers(text, 2) for text in texts], float).reshape(-1, 2)


def parse_numbers(text: str, count: int) -> list[float]:
    """Parses numbers with blanks or commas between them.

    A comma is a decimal one where the blanks alone give as many numbers as there are.

    Raises:
      ValueError: they are not so many finite numbers.
    """
    words = [word.strip(",") for word in text.strip(" ()").split()]
    if len(words) == count:
        words = [word.replace(",", ".") for word in words]
    else:
        words = text.strip(" ()").replace(",", " ").split()
    numbers = [float(word) for word in words]
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise ValueError(f"not {count} numbers")
    return numbers
