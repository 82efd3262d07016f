"""The tissues of a breast: fat, fibroglandular tissue, strands and ducts.

Tissue is given as attenuation: the logarithm of how much of the X-rays it stops, in
units of the glandular tissue's over the full thickness.
"""

import dataclasses

import cv2
import numpy as np
from jaxtyping import Float32

from mammo_jax.phantom.anatomy import Anatomy, Fields, Shape
from mammo_jax.phantom.noise import power_law_noise

_FAT = 0.38
_MUSCLE = 0.46
_SKIN = 0.05
_NIPPLE = 0.22
_STRAND_BLUR = 0.009  # over the height


@dataclasses.dataclass(frozen=True)
class _Composition:
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
) -> Float32[np.ndarray, "height width"]:
    """Attenuation of a breast without lesions, about 0..1.5; 0 outside of it."""
    composition = _COMPOSITIONS[anatomy.density]
    smooth_height, smooth_width = fields.depth.shape
    coarse = power_law_noise(
        generator, smooth_height, smooth_width, beta=3.0, finest=144
    )
    streaks = _towards_nipple(generator, fields)
    gland = _gland_map(fields, composition, coarse, streaks)
    extent = _smoothstep(fields.depth / 0.07) * (1 - fields.pectoral)

    size = (width, height)
    base = fields.thickness * (_FAT + 0.035 * coarse) + _SKIN * _skin(fields)
    base += fields.pectoral * (_MUSCLE + 0.02 * streaks)
    base += _NIPPLE * _nipple(shape, smooth_height, smooth_width)
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


def _nipple(
    shape: Shape, height: int, width: int
) -> Float32[np.ndarray, "height width"]:
    """A soft button on the skin, a part of it standing out."""
    y, x = np.mgrid[:height, :width].astype(np.float32) / np.float32(height)
    x, y = (x - shape.nipple[0] + 0.012) / 0.016, (y - shape.nipple[1]) / 0.019
    radius = x**2 + y**2
    return np.asarray(np.exp(-(radius**2)), np.float32)


def _smoothstep(x: Float32[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
    x = np.asarray(np.clip(x, 0, 1))
    return np.asarray(x * x * (3 - 2 * x))


def _skin(fields: Fields) -> Float32[np.ndarray, "height width"]:
    """A thin layer that follows the outline."""
    return np.asarray(np.exp(-(((fields.depth - 0.004) / 0.004) ** 2)), np.float32)


def _gland_map(
    fields: Fields,
    composition: _Composition,
    coarse: Float32[np.ndarray, "height width"],
    streaks: Float32[np.ndarray, "height width"],
) -> Float32[np.ndarray, "height width"]:
    """Share of glandular tissue, 0..1: a cone from the nipple, in front of fat."""
    width = np.sqrt(np.clip(fields.axial, 0, None)) * 0.21 + 0.015
    cone = np.exp(-((np.abs(fields.lateral) / width) ** 3))
    behind = 1 - _smoothstep((fields.axial - 0.72) / 0.45)
    under_skin = _smoothstep((fields.depth - 0.012) / 0.055)
    level = cone * (0.35 + 0.65 * behind) * under_skin
    level = level * 1.25 + 0.15 * coarse + 0.17 * streaks
    gland = _smoothstep((level - composition.threshold) / 0.75 + 0.5)
    gland *= under_skin * (1 - 0.85 * fields.pectoral)
    return gland.astype(np.float32)


def _polar(
    fields: Fields, around: float, along: float
) -> tuple[Float32[np.ndarray, "height width"], Float32[np.ndarray, "height width"]]:
    """Coordinates (distance, angle) about a point before the nipple, to sample noise.

    A texture sampled there is drawn out into streaks that converge on the nipple.
    """
    axial = fields.axial * 0.4 + 0.06
    distance = np.hypot(axial, fields.lateral)
    angle = np.arctan2(fields.lateral, axial)
    return (distance * along).astype(np.float32), (angle * around).astype(np.float32)


def _towards_nipple(
    generator: np.random.Generator, fields: Fields
) -> Float32[np.ndarray, "height width"]:
    """Streaky noise, mean about 0, deviation about 1."""
    texture = power_law_noise(generator, 512, 512, beta=2.6, finest=288)
    distance, angle = _polar(fields, around=150, along=260)
    return cv2.remap(
        texture,
        angle + 256,
        distance + 20,
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT,
    )


def _strands(
    generator: np.random.Generator, fields: Fields, height: int, width: int
) -> Float32[np.ndarray, "height width"]:
    """Thin bright curves, 0..2: where a noise passes through zero.

    Some lie as they come (Cooper's ligaments between the fat lobules), some run
    towards the nipple (ducts). All of them come and go.
    """
    smooth_height, smooth_width = fields.depth.shape
    # Blurred: the curves would show the noise's grid.
    isotropic = [
        cv2.GaussianBlur(
            power_law_noise(
                generator, smooth_height, smooth_width, beta=beta, finest=36
            ),
            (0, 0),
            _STRAND_BLUR * smooth_height,
        )
        for beta in (2.6, 3.4, 3.4)
    ]
    texture = power_law_noise(generator, 512, 512, beta=3.4, finest=72)
    texture = cv2.GaussianBlur(texture, (0, 0), _STRAND_BLUR * len(texture))
    distance, angle = _polar(fields, around=240, along=200)
    ducts = cv2.remap(
        texture,
        angle + 256,
        distance + 20,
        cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_REFLECT,
    )
    total = np.zeros((height, width), np.float32)
    visible = isotropic[-1]
    for noise, sharpness in ((isotropic[0], 15.0), (isotropic[1], 16.0), (ducts, 10.0)):
        ridge = cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
        np.multiply(ridge, sharpness, out=ridge)
        np.multiply(ridge, ridge, out=ridge)
        ridge += 1
        amount = np.clip(0.55 + 0.55 * visible, 0, 1)
        total += cv2.resize(amount, (width, height)) / ridge
        visible = cv2.flip(visible, 0) * np.float32(-1)
    return total
