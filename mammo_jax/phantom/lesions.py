"""Masses and calcifications, benign and malignant.

A malignant mass has an irregular, rough core that fades out into spicules; a benign
one is round or oval, even, and sharply bounded. Malignant calcifications are many,
fine, of all shapes, and clustered; benign ones are few, coarse and round, some with a
lucent centre. (BI-RADS descriptors, as in CBIS-DDSM's tables.)
"""

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float

from mammo_jax.phantom.anatomy import Fields, Map, Point, coordinates
from mammo_jax.phantom.noise import power_law_noise

Outline = Float[np.ndarray, "point 2"]

# Diameter as drawn by the annotator, over the image's height: 72 to 200 pixels of
# 4000 (paper, section 1: regions of interest of about 100 pixels).
DIAMETERS = (0.018, 0.05)
_OUTLINE_POINTS = 64
# Distance of a lesion's edge from the skin, and between the edges of two lesions.
_CLEARANCE = 0.015


class Lesion(NamedTuple):
    """One abnormality of a breast, the same in all its views.

    Attributes:
      kind: "mass" or "calc".
      malignant: True for a cancer.
      diameter: the diameter of its outline, in image heights.
      conspicuity: 0 (subtle) to 1 (obvious).
      axial: place between nipple (0) and chest wall (1).
      lateral: place across the breast, -1..1.
    """

    kind: str
    malignant: bool
    diameter: float
    conspicuity: float
    axial: float
    lateral: float


def draw_lesion(generator: np.random.Generator, kind: str, malignant: bool) -> Lesion:
    """A lesion whose size, conspicuity and place do not depend on what it is."""
    low, high = DIAMETERS
    diameter = float(np.exp(generator.uniform(np.log(low), np.log(high))))
    conspicuity, axial = generator.uniform(), generator.uniform()
    lateral = generator.uniform(-1, 1)
    return Lesion(kind, malignant, diameter, conspicuity, axial, lateral)


class _Canvas(NamedTuple):
    """The square around a lesion; lengths are over half its diameter.

    Attributes:
      radius: distance from the centre.
      angle: radians.
      x: distance to the right.
      y: distance downwards.
      pixel: size of one pixel.
    """

    radius: Map
    angle: Map
    x: Map
    y: Map
    pixel: float


def place_lesion(
    generator: np.random.Generator,
    lesion: Lesion,
    fields: Fields,
    taken: list[tuple[Point, float]],
) -> Point:
    """Finds the centre (x, y) of a lesion in one view, in image heights.

    Its wished-for place is approached as far as the breast allows, and the (centre,
    diameter) of the lesions that are there already.
    """
    height, width = fields.depth.shape
    x, y = coordinates(height, width)
    # The whole lesion lies on the image and under the skin.
    room = np.minimum(fields.depth, np.minimum(x, np.minimum(y, 1 - y)))
    room = room - lesion.diameter / 2 - _CLEARANCE - 0.3 * fields.pectoral
    for centre, diameter in taken:
        gap = np.hypot(x - centre[0], y - centre[1]) - (diameter + lesion.diameter) / 2
        room = np.minimum(room, gap - _CLEARANCE)
    axial = 0.20 + 0.60 * lesion.axial + generator.normal(0, 0.03)
    lateral = 0.24 * (lesion.lateral + generator.normal(0, 0.25)) * np.sqrt(axial)
    distance = 0.4 * np.abs(fields.axial - axial) + np.abs(fields.lateral - lateral)
    best = np.argmin(distance + 100 * np.maximum(-room, 0))
    row, column = np.unravel_index(best, room.shape)
    return float(column) / height, float(row) / height


def add_lesion(
    generator: np.random.Generator,
    lesion: Lesion,
    contrast: float,
    centre: Point,
    tissue: Map,
) -> Outline:
    """Adds a lesion's attenuation to `tissue`; contrast 1 looks like real ones.

    Returns:
      The outline as an annotator would draw it: (x, y) in image heights.
    """
    height, width = tissue.shape
    half = lesion.diameter * height / 2
    reach = int(np.ceil(1.5 * half)) + 1
    column, row = round(centre[0] * height), round(centre[1] * height)
    top, left = max(0, row - reach), max(0, column - reach)
    bottom, right = min(height, row + reach + 1), min(width, column + reach + 1)
    y, x = np.mgrid[top - row : bottom - row, left - column : right - column]
    x, y = (x / half).astype(np.float32), (y / half).astype(np.float32)
    canvas = _Canvas(np.hypot(x, y), np.arctan2(y, x), x, y, 1 / half)
    attenuation, outline = _DRAWINGS[lesion.kind, lesion.malignant](generator, canvas)
    low, high = _CONTRASTS[lesion.kind]
    contrast *= low + (high - low) * lesion.conspicuity
    tissue[top:bottom, left:right] += np.float32(contrast) * attenuation
    return np.array(centre) + outline * lesion.diameter / 2


# Attenuation of a lesion and its outline, over half its diameter.
Drawing = tuple[Map, Outline]

# Attenuation of the subtlest and the most obvious.
_CONTRASTS = {"mass": (0.24, 0.38), "calc": (0.60, 0.95)}


def _benign_mass(generator: np.random.Generator, canvas: _Canvas) -> Drawing:
    border = _draw_border(generator, roughness=0.06, elongation=0.22)
    relative = canvas.radius / (0.86 * border(canvas.angle))
    dome = np.sqrt(np.clip(1 - relative**2, 0, 1))
    edge = np.clip((1 - relative) / max(0.16, 1.2 * canvas.pixel) + 0.5, 0, 1)
    # The thin dark rim of fat that marks a circumscribed mass.
    rim = -0.09 * np.exp(-(((relative - 1.16) / 0.08) ** 2))
    body = edge * (0.45 + 0.55 * dome) + rim
    return body.astype(np.float32), _trace(border)


def _malignant_mass(generator: np.random.Generator, canvas: _Canvas) -> Drawing:
    border = _draw_border(generator, roughness=0.60, elongation=0.25)
    relative = canvas.radius / (0.50 * border(canvas.angle))
    rough = power_law_noise(generator, *canvas.radius.shape, beta=2.0, finest=18)
    core = np.exp(-(relative**2) * 0.75) * (1.0 + 0.30 * rough)
    spicules = np.zeros_like(canvas.radius)
    count = int(generator.integers(13, 20))
    angles = np.linspace(-np.pi, np.pi, count, endpoint=False)
    angles = angles + generator.normal(0, 1.6 / count, count)
    for angle in angles:
        length = generator.uniform(0.75, 1.35)
        bend = generator.normal(0, 0.25)
        width = max(generator.uniform(0.04, 0.08), 0.55 * canvas.pixel)
        turn = canvas.angle - angle - bend * canvas.radius
        turn = (turn + np.pi) % (2 * np.pi) - np.pi
        across = np.where(np.abs(turn) < np.pi / 2, canvas.radius * np.sin(turn), 9.0)
        taper = np.clip(1 - canvas.radius / length, 0, 1) ** 0.6
        strand = np.exp(-((across / width) ** 2)) * taper
        spicules = np.maximum(spicules, strand * generator.uniform(0.5, 1.0))
    core = np.maximum(core, 0)
    body = 1.15 * core + 0.75 * spicules * (1 - 0.5 * np.minimum(core, 1))
    return body.astype(np.float32), _trace(_draw_border(generator, 0.08, 0.1))


def _benign_calcifications(generator: np.random.Generator, canvas: _Canvas) -> Drawing:
    total = np.zeros_like(canvas.radius)
    count = int(generator.integers(2, 6))
    turn = generator.uniform(0, 2 * np.pi)
    for index in range(count):
        # Spread over the region; the golden angle keeps them apart.
        place = 0.70 * np.sqrt((index + generator.uniform(0.2, 0.8)) / count)
        angle = turn + 2.4 * index + generator.normal(0, 0.25)
        size = generator.uniform(0.10, 0.28) / np.sqrt(count / 3)
        x = canvas.x - place * np.cos(angle)
        y = canvas.y - place * np.sin(angle)
        shape = _draw_border(generator, roughness=0.10, elongation=0.2)
        relative = np.hypot(x, y) / (size * shape(np.arctan2(y, x)))
        soft = max(0.3, 1.5 * canvas.pixel / size)
        body = np.clip((1 - relative) / soft + 0.5, 0, 1)
        lucent = generator.uniform(0, 0.75) * np.exp(-((relative / 0.5) ** 2))
        body = body * (1 - lucent) * generator.uniform(0.75, 1)
        total = np.maximum(total, body)
    return total.astype(np.float32), _trace(_draw_border(generator, 0.08, 0.15))


def _malignant_calcifications(
    generator: np.random.Generator, canvas: _Canvas
) -> Drawing:
    total = np.zeros_like(canvas.radius)
    stretch = generator.uniform(0.65, 1.0)
    tilt = generator.uniform(0, np.pi)
    for _ in range(int(generator.integers(22, 38))):
        place = 0.86 * np.sqrt(generator.uniform(0, 1))
        angle = generator.uniform(0, 2 * np.pi)
        along, across = place * np.cos(angle), stretch * place * np.sin(angle)
        x = canvas.x - (along * np.cos(tilt) - across * np.sin(tilt))
        y = canvas.y - (along * np.sin(tilt) + across * np.cos(tilt))
        turn = generator.uniform(0, np.pi)
        u, v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
        thin = max(generator.uniform(0.018, 0.055), 0.42 * canvas.pixel)
        long = thin * generator.choice([1.0, 1.3, 1.8, 3.0])
        speck = np.exp(-((u / long) ** 2) - (v / thin) ** 2)
        total = np.maximum(total, speck * generator.uniform(0.45, 1.0))
    return total.astype(np.float32), _trace(_draw_border(generator, 0.08, 0.15))


_DRAWINGS: dict[tuple[str, bool], Callable[[np.random.Generator, _Canvas], Drawing]] = {
    ("mass", False): _benign_mass,
    ("mass", True): _malignant_mass,
    ("calc", False): _benign_calcifications,
    ("calc", True): _malignant_calcifications,
}


def _draw_border(
    generator: np.random.Generator, roughness: float, elongation: float
) -> Callable[[np.ndarray], np.ndarray]:
    """Draws a closed curve about the centre: its radius, at most about 1, by angle."""
    orders = np.arange(3, 9)
    amplitudes = generator.normal(0, roughness, orders.size) / orders
    phases = generator.uniform(0, 2 * np.pi, orders.size)
    stretch, tilt = generator.uniform(0, elongation), generator.uniform(0, 2 * np.pi)

    def measure_radius(angle: np.ndarray) -> np.ndarray:
        radius = 1 - stretch * np.sin(angle - tilt) ** 2
        for order, amplitude, phase in zip(orders, amplitudes, phases, strict=True):
            radius = radius + amplitude * np.cos(order * angle + phase)
        return radius

    return measure_radius


def _trace(border: Callable[[np.ndarray], np.ndarray]) -> Outline:
    """Lists points of a border."""
    angle = np.linspace(0, 2 * np.pi, _OUTLINE_POINTS, endpoint=False)
    radius = border(angle)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def region_mask(outline: Outline, height: int, width: int) -> np.ndarray:
    """The region within an outline: 255 inside, 0 outside, 8 bits, in pixels."""
    mask = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask, [np.round(outline * height).astype(np.int32)], 255)
    return mask
