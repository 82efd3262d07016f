"""The last part of the preprocessing, on the device: grey image to network input."""

import functools
import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt16

# 16-bit grey levels to the networks' 0..255.
GREY_SCALE = 255.0 / 65535.0
# The most strips that an image is cut into to find its range: of columns, since the
# rows may be spread over devices.
_STRIPS = 8


def network_input(
    images: UInt16[Array | np.ndarray, "batch height width"],
    pixel_mean: float | Float[Array, ""],
    channel_shift: Float[Array | np.ndarray, "batch 3"] | None = None,
) -> Float[Array, "batch height width 3"]:
    """Makes three channels, each shifted and clipped to the image's range, centred.

    Args:
      images: grey levels 0..65535.
      pixel_mean: the training set's mean grey level on the scale 0..255.
      channel_shift: offset of each channel on the scale 0..255; None in evaluation,
        where the three channels are equal.

    Returns:
      Grey levels on the scale 0..255 less `pixel_mean`; not divided by a
      standard deviation, and not ImageNet's preprocessing (paper section 2.1).
    """
    grey = images.astype(jnp.float32)[..., None] * GREY_SCALE
    if channel_shift is None:
        # The bound changes nothing; it keeps a compiler from joining product and
        # difference, whose rounding would then not be that of training.
        return jnp.repeat(jnp.maximum(grey, 0) - pixel_mean, 3, axis=-1)
    # The integers are compared: XLA's CPU compiler takes several times as long for
    # floats.
    strips = _strips(images)
    lowest, highest = (
        bound.astype(jnp.float32)[:, None, None, None] * GREY_SCALE
        for bound in (
            functools.reduce(jnp.minimum, strips).min((1, 2)),
            functools.reduce(jnp.maximum, strips).max((1, 2)),
        )
    )
    shifted = jnp.clip(grey + channel_shift[:, None, None, :], lowest, highest)
    return shifted - pixel_mean


def _strips(
    images: UInt16[Array | np.ndarray, "batch height width"],
) -> list[UInt16[Array | np.ndarray, "batch height columns"]]:
    """Cuts the columns of the images into equal parts.

    XLA's CPU compiler compares whole strips several values at a time, and one value
    with its neighbours one by one.
    """
    batch, height, width = images.shape
    strips = math.gcd(width, _STRIPS)
    cut = images.reshape(batch, height, strips, width // strips)
    return [cut[:, :, number] for number in range(strips)]
