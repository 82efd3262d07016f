"""The paper's random image transformations (section 2.1), on the host.

The order and the details follow Keras 2.0.8's image generator, which the paper
used: one affine with nearest-neighbour sampling and edge fill, the channel
shift, the flips. The channel shift needs three channels, which only exist on
the device, so here its three offsets are drawn and travel with the image
(`mammo_jax.models.network_input` adds them).
"""

import dataclasses
import math

import cv2
import numpy as np
from jaxtyping import Float, UInt16


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Ranges of the random transformations; zeros and (1, 1) switch them off.

    Attributes:
      rotation: largest angle in degrees, drawn from U(-rotation, rotation).
      shear: largest shear in radians, drawn likewise.
      zoom: range of the zoom, drawn for each axis on its own.
      channel_shift: largest shift (0..255), drawn for each channel on its own.
      horizontal_flip: mirror left and right, with probability one half.
      vertical_flip: mirror top and bottom, with probability one half.
    """

    rotation: float = 25.0
    shear: float = 0.2
    zoom: tuple[float, float] = (0.8, 1.2)
    channel_shift: float = 20.0
    horizontal_flip: bool = True
    vertical_flip: bool = True


# (mirror left and right, mirror top and bottom): OpenCV's code.
_FLIPS = {(True, False): 1, (False, True): 0, (True, True): -1}
NO_AUGMENTATION = Augmentation(0.0, 0.0, (1.0, 1.0), 0.0, False, False)


def affine_matrix(
    rotation: float, shear: float, zoom: tuple[float, float], height: int, width: int
) -> Float[np.ndarray, "2 3"]:
    """Maps a pixel of the result to the pixel of the source it shows.

    Both are (row, column); rotation, then shear, then zoom, about the middle of
    the image, which Keras 2.0.8 puts at (height / 2 + 0.5, width / 2 + 0.5). Angles
    are in radians; zoom factors of rows and columns above 1 show more.
    """
    # The product of the three matrices, written out, which takes an eighth of the time.
    to_row = math.cos(rotation) * zoom[0], -math.sin(rotation + shear) * zoom[1]
    to_column = math.sin(rotation) * zoom[0], math.cos(rotation + shear) * zoom[1]
    middle = height / 2 + 0.5, width / 2 + 0.5
    shift = (
        middle[0] - to_row[0] * middle[0] - to_row[1] * middle[1],
        middle[1] - to_column[0] * middle[0] - to_column[1] * middle[1],
    )
    return np.array([[*to_row, shift[0]], [*to_column, shift[1]]])


def warp_nearest(
    image: UInt16[np.ndarray, "height width"], matrix: Float[np.ndarray, "2 3"]
) -> UInt16[np.ndarray, "height width"]:
    """Applies `affine_matrix`: nearest neighbour, edges continued outwards."""
    # OpenCV counts (column, row), so both axes of the map change places.
    swapped = matrix[::-1][:, [1, 0, 2]]
    return cv2.warpAffine(
        image,
        swapped,
        (image.shape[1], image.shape[0]),
        flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )


def augment_image(
    image: UInt16[np.ndarray, "height width"],
    rng: np.random.Generator,
    ranges: Augmentation,
) -> tuple[UInt16[np.ndarray, "height width"], Float[np.ndarray, "3"]]:
    """Applies one drawn transformation, but for its channel shifts (0..255)."""
    rotation = math.radians(rng.uniform(-ranges.rotation, ranges.rotation))
    shear = rng.uniform(-ranges.shear, ranges.shear)
    zoom = rng.uniform(*ranges.zoom), rng.uniform(*ranges.zoom)
    channel_shift = rng.uniform(-ranges.channel_shift, ranges.channel_shift, size=3)
    # Drawn always, used when asked for: one option does not move the others' draws.
    mirror_columns, mirror_rows = rng.random() < 0.5, rng.random() < 0.5
    matrix = affine_matrix(rotation, shear, zoom, *image.shape)
    image = warp_nearest(image, matrix)
    flip = _FLIPS.get(
        (
            mirror_columns and ranges.horizontal_flip,
            mirror_rows and ranges.vertical_flip,
        )
    )
    if flip is not None:
        image = cv2.flip(image, flip)
    return image, channel_shift.astype(np.float32)
