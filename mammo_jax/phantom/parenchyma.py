"""The tissues of a breast: fat, fibroglandular tissue, strands and ducts.

Tissue is given as attenuation: the logarithm of how much of the X-rays it stops, in
units of the glandular tissue's over the full thickness.
"""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float32

from mammo_jax.phantom.anatomy import (
    Anatomy,
    Fields,
    Map,
    Shape,
    coordinates,
    smoothstep,
)
from mammo_jax.phantom.noise import power_law_noise

_FAT = 0.38
_MUSCLE = 0.46
_SKIN = 0.05
_NIPPLE = 0.22
_STRAND_BLUR = 0.009  # over the height


class _Composition(NamedTuple):
    """Looks of a BI-RADS density.

    Attributes:
      threshold: level that the tissue must reach to be glandular; lower is denser.
      gland: attenuation of the glandular tissue.
      strands: attenuation of Cooper's ligaments and ducts.
    """

    threshold: float
    gland: float
    strands: float


_COMPOSITIONS = {
    1: _Composition(threshold=1.10, gland=0.26, strands=0.17),
    2: _Composition(threshold=0.84, gland=0.36, strands=0.18),
    3: _Composition(threshold=0.62, gland=0.46, strands=0.18),
    4: _Composition(threshold=0.38, gland=0.54, strands=0.15),
}


def draw_tissue(
    generator: np.random.Generator,
    anatomy: Anatomy,
    shape: Shape,
    fields: Fields,
    height: int,
    width: int,
) -> Map:
    """Attenuation of a breast without lesions, about 0..1.5; 0 outside of it."""
    composition = _COMPOSITIONS[anatomy.density]
    coarse = power_law_noise(generator, *fields.depth.shape, beta=3.0, finest=144)
    texture = power_law_noise(generator, 512, 512, beta=2.6, finest=288)
    # Mean about 0, deviation about 1.
    streaks = _towards_nipple(texture, fields, 150, 260, cv2.INTER_LINEAR)
    gland = _gland_map(fields, composition, coarse, streaks)
    extent = smoothstep(fields.depth / 0.07) * (1 - fields.pectoral)

    size = (width, height)
    base = fields.thickness * (_FAT + 0.035 * coarse) + _SKIN * _skin(fields)
    base += fields.pectoral * (_MUSCLE + 0.02 * streaks)
    base += _NIPPLE * _nipple(shape, *fields.depth.shape)
    gland_full = cv2.resize(fields.thickness * gland * (1 + 0.14 * streaks), size)
    strands = _strands(generator, fields, height, width)
    # Last: how many numbers it takes depends on the size.
    fine = power_law_noise(generator, height, width, beta=2.9)
    tissue = cv2.resize(base, size)
    tissue += composition.gland * gland_full * (1.0 + 0.13 * fine)
    web = cv2.resize(fields.thickness * extent * (0.30 + 0.70 * gland), size)
    tissue += composition.strands * web * strands
    tissue += 0.015 * cv2.resize(fields.thickness, size) * fine
    return np.maximum(tissue, 0, out=tissue)


def _nipple(shape: Shape, height: int, width: int) -> Map:
    """A soft button on the skin, a part of it standing out."""
    x, y = coordinates(height, width)
    x, y = (x - shape.nipple[0] + 0.012) / 0.016, (y - shape.nipple[1]) / 0.019
    radius = x**2 + y**2
    return np.asarray(np.exp(-(radius**2)), np.float32)


def _skin(fields: Fields) -> Map:
    """A thin layer that follows the outline."""
    return np.asarray(np.exp(-(((fields.depth - 0.004) / 0.004) ** 2)), np.float32)


def _gland_map(
    fields: Fields,
    composition: _Composition,
    coarse: Map,
    streaks: Map,
) -> Map:
    """Share of glandular tissue, 0..1: a cone from the nipple, in front of fat."""
    width = np.sqrt(np.clip(fields.axial, 0, None)) * 0.21 + 0.015
    cone = np.exp(-((np.abs(fields.lateral) / width) ** 3))
    behind = 1 - smoothstep((fields.axial - 0.72) / 0.45)
    under_skin = smoothstep((fields.depth - 0.012) / 0.055)
    level = cone * (0.35 + 0.65 * behind) * under_skin
    level = level * 1.25 + 0.15 * coarse + 0.17 * streaks
    gland = smoothstep((level - composition.threshold) / 0.75 + 0.5)
    gland *= under_skin * (1 - 0.85 * fields.pectoral)
    return gland.astype(np.float32)


def _towards_nipple(
    texture: Float32[np.ndarray, "side side"],
    fields: Fields,
    around: float,
    along: float,
    interpolation: int,
) -> Map:
    """Draws a texture of 512x512 out into streaks that converge on the nipple.

    It is sampled in polar coordinates about a point before the nipple.
    """
    axial = fields.axial * 0.4 + 0.06
    distance = (np.hypot(axial, fields.lateral) * along).astype(np.float32) + 20
    angle = (np.arctan2(fields.lateral, axial) * around).astype(np.float32) + 256
    reflect = cv2.BORDER_REFLECT
    return cv2.remap(texture, angle, distance, interpolation, borderMode=reflect)


def _strands(
    generator: np.random.Generator, fields: Fields, height: int, width: int
) -> Map:
    """Thin bright curves, 0..2: where a noise passes through zero.

    Some lie as they come (Cooper's ligaments between the fat lobules), some run
    towards the nipple (ducts). All of them come and go.
    """

    def draw_blurred(size: tuple[int, ...], beta: float, finest: int) -> Map:
        # Otherwise the curves would show the noise's grid.
        noise = power_law_noise(generator, *size, beta=beta, finest=finest)
        return cv2.GaussianBlur(noise, (0, 0), _STRAND_BLUR * size[0])

    size = fields.depth.shape
    isotropic = [draw_blurred(size, beta, 36) for beta in (2.6, 3.4, 3.4)]
    texture = draw_blurred((512, 512), 3.4, 72)
    ducts = _towards_nipple(texture, fields, 240, 200, cv2.INTER_CUBIC)
    total: np.ndarray = np.zeros((height, width), np.float32)
    visible = isotropic[-1]
    for noise, sharpness in ((isotropic[0], 15.0), (isotropic[1], 16.0), (ducts, 10.0)):
        ridge: np.ndarray = cv2.resize(
            noise, (width, height), interpolation=cv2.INTER_CUBIC
        )
        np.multiply(ridge, sharpness, out=ridge)
        np.multiply(ridge, ridge, out=ridge)
        ridge += 1
        amount = np.clip(0.55 + 0.55 * visible, 0, 1)
        total += cv2.resize(amount, (width, height)) / ridge
        visible = cv2.flip(visible, 0) * np.float32(-1)
    return total
