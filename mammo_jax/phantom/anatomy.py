"""The shape of a compressed breast: outline, nipple, pectoral muscle.

Coordinates are (x, y) in image heights, x from the chest wall (the image's left edge)
towards the nipple, y downwards. Right breasts are drawn as left ones and mirrored.
"""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Float32
from scipy.interpolate import CubicSpline

Map = Float32[np.ndarray, "height width"]
Point = tuple[float, float]
# Height in pixels of the grid for all that is smooth, in images higher than that.
SMOOTH_HEIGHT = 576
# Depth below the skin, in image heights, at which the compressed breast reaches its
# full thickness.
_ROUNDED_MARGIN = 0.095
# Beyond this width over height, detectors leave more background, not more breast.
_WIDEST = 0.66
_SUBPIXEL_BITS = 4


class Anatomy(NamedTuple):
    """Traits that the two views of a breast share.

    Attributes:
      density: BI-RADS density, 1 (fatty) to 4 (dense).
      size: 0 (small) to 1 (large).
      pointedness: 0 (round) to 1 (conical).
    """

    density: int
    size: float
    pointedness: float


class Shape(NamedTuple):
    """One view's geometry.

    Attributes:
      outline: closed polygon of the breast, (point, xy); may leave the image.
      nipple: xy.
      axis_end: xy where the axis from the nipple meets the chest wall.
      pectoral: xy of the muscle's corner points on the top edge and on the chest
        wall; None in CC.
    """

    outline: Float[np.ndarray, "point 2"]
    nipple: Point
    axis_end: Point
    pectoral: tuple[Point, Point] | None


class Fields(NamedTuple):
    """Smooth maps of one view, at most `SMOOTH_HEIGHT` high.

    Attributes:
      depth: distance from the skin in image heights, negative outside the breast.
      thickness: the thickness of the compressed breast, 0..1.
      axial: distance from the nipple along the breast's axis, over the axis length.
      lateral: distance from the axis, signed, in image heights.
      pectoral: thickness of the pectoral muscle, 0..1.
    """

    depth: Map
    thickness: Map
    axial: Map
    lateral: Map
    pectoral: Map


def draw_anatomy(generator: np.random.Generator, density: int) -> Anatomy:
    """A breast of the given density."""
    return Anatomy(density, generator.uniform(0, 1), generator.uniform(0, 1))


def draw_shape(
    generator: np.random.Generator, anatomy: Anatomy, view: str, aspect: float
) -> Shape:
    """Positions a breast for a view ("CC" or "MLO"); aspect is width over height."""
    draw = {"CC": _draw_craniocaudal, "MLO": _draw_mediolateral_oblique}[view]
    least, more = {"CC": (0.50, 0.25), "MLO": (0.54, 0.24)}[view]
    share = least + more * anatomy.size + generator.uniform(-0.03, 0.03)
    return draw(generator, anatomy, share * min(aspect, _WIDEST))


def _draw_craniocaudal(
    generator: np.random.Generator, anatomy: Anatomy, depth: float
) -> Shape:
    half = 0.29 + 0.13 * anatomy.size + generator.uniform(-0.02, 0.02)
    centre = generator.uniform(0.47, 0.53)
    angle = np.linspace(-np.pi / 2, np.pi / 2, 81)
    # Superellipse: exponent 1 is a half-ellipse, larger ones are more conical.
    exponent = 0.92 + 0.30 * anatomy.pointedness
    x = depth * np.cos(angle) ** exponent
    skew = 1 + generator.uniform(-0.08, 0.08) * np.sign(angle)
    y = centre + half * skew * np.sign(angle) * np.abs(np.sin(angle)) ** 0.95
    tilt = generator.uniform(-0.04, 0.04)
    y = y + tilt * x / depth
    # Behind the chest wall, so that the outline does not end inside the image.
    outline = np.concatenate(
        [[[-0.2, y[0]]], np.stack([x, y], axis=1), [[-0.2, y[-1]]]]
    )
    return Shape(outline, (depth, centre + tilt), (0.0, centre), None)


def _draw_mediolateral_oblique(
    generator: np.random.Generator, anatomy: Anatomy, depth: float
) -> Shape:
    nipple_y = 0.55 + 0.06 * anatomy.size + generator.uniform(-0.03, 0.04)
    top = depth * (0.66 - 0.10 * anatomy.pointedness) + generator.uniform(-0.02, 0.03)
    bottom = min(0.97, nipple_y + 0.26 + 0.08 * anatomy.size)
    bulge = 0.93 - 0.06 * anatomy.pointedness
    points = np.array(
        [
            [top + 0.02, -0.15],
            [top, 0.0],
            [top + 0.42 * (depth - top), 0.40 * nipple_y],
            [bulge * depth, 0.77 * nipple_y],
            [depth, nipple_y],
            [0.84 * depth, nipple_y + 0.45 * (bottom - nipple_y)],
            [0.47 * depth, nipple_y + 0.84 * (bottom - nipple_y)],
            [0.07 * depth, bottom],
            # The fold under the breast, and the wall of the abdomen.
            [0.05 * depth, bottom + 0.05],
            [0.10 * depth, 1.12],
        ]
    )
    chord = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
    outline = CubicSpline(chord, points)(np.linspace(0, chord[-1], 121))
    outline = np.concatenate([[[-0.2, -0.15]], outline, [[-0.2, 1.12]]])
    width = min(0.80 * top, generator.uniform(0.17, 0.26))
    muscle = ((width, 0.0), (0.0, nipple_y * generator.uniform(0.70, 1.02)))
    axis_end = (0.0, nipple_y - generator.uniform(0.06, 0.14))
    return Shape(outline, (depth, nipple_y), axis_end, muscle)


def smooth_fields(shape: Shape, rows: int, columns: int) -> Fields:
    """Maps of a shape for an image of the given size."""
    height = min(SMOOTH_HEIGHT, rows)
    width = max(2, round(height * columns / rows))
    # A margin on all sides: the image's edge is not the breast's.
    margin = height // 4
    depth = _signed_distance(shape.outline, height, width, margin) / height
    x, y = coordinates(height, width)
    nipple, end = np.array(shape.nipple), np.array(shape.axis_end)
    length = np.hypot(*(end - nipple))
    along = (end - nipple) / length
    axial = (x - nipple[0]) * along[0] + (y - nipple[1]) * along[1]
    lateral = (y - nipple[1]) * along[0] - (x - nipple[0]) * along[1]
    pectoral = np.zeros_like(depth)
    if shape.pectoral is not None:
        pectoral = _muscle(shape.pectoral, x, y)
    inward = np.clip(depth / _ROUNDED_MARGIN, 0, 1)
    thickness = np.sqrt(1 - (1 - inward) ** 2)
    maps = (depth, thickness, axial / length, lateral, pectoral)
    return Fields(*(each.astype(np.float32) for each in maps))


def coordinates(height: int, width: int) -> tuple[Map, Map]:
    """Maps of x and y in image heights."""
    y, x = np.mgrid[:height, :width].astype(np.float32) / np.float32(height)
    return x, y


def smoothstep(x: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Rises from 0 at 0 to 1 at 1, level at both ends."""
    x = np.asarray(np.clip(x, 0, 1))
    return np.asarray(x * x * (3 - 2 * x))


def _signed_distance(
    outline: Float[np.ndarray, "point 2"], height: int, width: int, margin: int
) -> Map:
    """Distance from a polygon, in pixels; positive inside."""
    inside = np.zeros((height + 2 * margin, width + 2 * margin), np.uint8)
    corners = (outline * height + margin) * 2**_SUBPIXEL_BITS
    cv2.fillPoly(inside, [np.round(corners).astype(np.int32)], 1, shift=_SUBPIXEL_BITS)
    distance = cv2.distanceTransform(inside, cv2.DIST_L2, 5)
    distance = distance - cv2.distanceTransform(1 - inside, cv2.DIST_L2, 5)
    # The distance to pixels is a staircase; the skin is not.
    distance = cv2.GaussianBlur(distance, (0, 0), 2.0 * height / SMOOTH_HEIGHT)
    return distance[margin : margin + height, margin : margin + width]


def _muscle(
    corners: tuple[Point, Point], x: Map, y: Map
) -> Float[np.ndarray, "height width"]:
    """A triangle in the upper corner, thicker away from its slightly convex edge."""
    top, wall = corners[0][0], corners[1][1]
    normal = np.hypot(1 / top, 1 / wall)
    within = (1 - x / top - y / wall) / normal
    within = within + 0.012 * np.sin(np.pi * np.clip(y / wall, 0, 1))
    thick = 0.75 + 0.25 * np.clip(within / 0.15, 0, 1)
    return np.asarray(smoothstep(within / 0.012 + 0.5) * thick)
