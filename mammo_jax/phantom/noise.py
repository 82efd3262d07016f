"""Power-law noise, the texture of breast tissue."""

import cv2
import numpy as np
from jaxtyping import Float32

# Each octave's grid doubles the one before. The grids do not depend on the
# image's size, so the same seed gives the same tissue at every size.
_COARSEST = 9


def power_law_noise(
    generator: np.random.Generator,
    height: int,
    width: int,
    *,
    beta: float = 3.0,
    finest: int = 1152,
) -> Float32[np.ndarray, "height width"]:
    """Draws noise whose power falls as 1/frequency^beta; mean about 0, deviation 1.

    Mammographic texture has beta of about 3 (Burgess, Jacobson and Judy, 2001,
    "Human observer detection experiments with mammograms and power-law noise"). In two
    dimensions an octave's deviation is proportional to its scale to the power
    beta / 2 - 1; octaves stop at `finest` grid lines along the height.
    """
    lines = _COARSEST
    aspect = width / height
    field: np.ndarray = _white(generator, lines, aspect)
    amplitude, power = 1.0, 1.0
    while lines < min(finest, height):
        lines *= 2
        amplitude *= 2.0 ** (1.0 - beta / 2.0)
        power += amplitude**2
        octave = _white(generator, lines, aspect)
        field = cv2.resize(field, octave.shape[::-1], interpolation=cv2.INTER_CUBIC)
        field = field + np.float32(amplitude) * octave
    if field.shape != (height, width):
        field = cv2.resize(field, (width, height), interpolation=cv2.INTER_LINEAR)
    field *= np.float32(1.0 / np.sqrt(power))
    return field


def _white(
    generator: np.random.Generator, lines: int, aspect: float
) -> Float32[np.ndarray, "height width"]:
    shape = (lines, max(2, round(lines * aspect)))
    return generator.standard_normal(shape, dtype=np.float32)
