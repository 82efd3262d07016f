"""Pictures of where the models looked, on the original image."""

import cv2
import numpy as np
from jaxtyping import Float, UInt8

# Rows that are drawn at once: in floating point a whole mammogram would need a GB.
_BAND = 256
# Of the full colour.
_OPACITY = 0.5
_THUMBNAIL_HEIGHT = 240


def draw_overlay(
    picture: UInt8[np.ndarray, "height width"],
    strength: Float[np.ndarray, "height width"],
) -> UInt8[np.ndarray, "height width 3"]:
    """The picture with the evidence for and against malignancy in colour (RGB).

    Args:
      picture: the mammogram.
      strength: from -1, blue, over 0, no colour, to 1, red; see
        `mammo_jax.models.class_map.strength`.
    """
    drawn = np.empty((*picture.shape, 3), np.uint8)
    for start in range(0, len(picture), _BAND):
        rows = slice(start, start + _BAND)
        levels = np.rint(127.5 * (strength[rows] + 1)).astype(np.uint8)
        opacity = _OPACITY * np.abs(strength[rows])[..., None]
        grey = picture[rows, :, None].astype(np.float32)
        drawn[rows] = np.rint(grey * (1 - opacity) + _COLOURS[levels] * opacity)
    return drawn


def enlarge(
    strength: Float[np.ndarray, "height width"], size: tuple[int, int]
) -> Float[np.ndarray, "height2 width2"]:
    """The strength over a picture, over the same picture in another size.

    Args:
      strength: see `draw_overlay`.
      size: height and width.
    """
    if strength.shape == size:
        return strength
    return cv2.resize(
        strength.astype(np.float32), size[::-1], interpolation=cv2.INTER_LINEAR
    )


def _colour_table() -> UInt8[np.ndarray, "256 3"]:
    """Blue, light blue; yellow, orange, red (RGB)."""
    places = [-1, -0.02, 0.02, 0.5, 1]
    stops = np.array(
        [[20, 60, 255], [90, 170, 255], [255, 235, 60], [255, 140, 0], [225, 0, 25]]
    )
    strengths = np.linspace(-1, 1, 256)
    channels = [np.interp(strengths, places, channel) for channel in stops.T]
    return np.rint(np.stack(channels, axis=1)).astype(np.uint8)


_COLOURS = _colour_table()


def encode(picture: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """As PNG."""
    _, content = cv2.imencode(".png", picture[..., ::-1])
    return content.tobytes()


def thumbnail(
    picture: UInt8[np.ndarray, "height width 3"],
) -> UInt8[np.ndarray, "height2 width2 3"]:
    """The picture made small."""
    height, width = picture.shape[:2]
    small = max(1, round(width * _THUMBNAIL_HEIGHT / height)), _THUMBNAIL_HEIGHT
    return cv2.resize(picture, small, interpolation=cv2.INTER_AREA)
