"""Class maps drawn over mammograms."""

import cv2
import numpy as np
from jaxtyping import Float, UInt8

# Rows that are drawn at once: in floating point a whole mammogram would need a GB.
_BAND = 256
# Share of the full colour that covers the picture.
_OPACITY = 0.5


def draw_overlay(
    picture: UInt8[np.ndarray, "height width"],
    class_map: Float[np.ndarray, "rows columns"],
) -> UInt8[np.ndarray, "height width 3"]:
    """Draws a class map over the picture in colour (RGB).

    Args:
      picture: the mammogram.
      class_map: over the whole picture, whatever its size; from -1 (against
        malignancy), blue, over 0, no colour, to 1, red; see
        `mammo_jax.models.class_map.strength`.
    """
    if class_map.shape != picture.shape:
        class_map = cv2.resize(class_map.astype(np.float32), picture.shape[::-1])
    drawn = np.empty((*picture.shape, 3), np.uint8)
    for start in range(0, len(picture), _BAND):
        rows = slice(start, start + _BAND)
        levels = np.rint(127.5 * (class_map[rows] + 1)).astype(np.uint8)
        opacity = _OPACITY * np.abs(class_map[rows])[..., None]
        grey = picture[rows, :, None].astype(np.float32)
        drawn[rows] = np.rint(grey * (1 - opacity) + _COLOURS[levels] * opacity)
    return drawn


def _colour_table() -> UInt8[np.ndarray, "256 3"]:
    """Makes the colours (RGB) from blue over light blue and yellow to red."""
    places = [-1, -0.02, 0.02, 0.5, 1]
    stops = np.array(
        [[20, 60, 255], [90, 170, 255], [255, 235, 60], [255, 140, 0], [225, 0, 25]]
    )
    strengths = np.linspace(-1, 1, 256)
    channels = [np.interp(strengths, places, channel) for channel in stops.T]
    colours: np.ndarray = np.rint(np.stack(channels, axis=1)).astype(np.uint8)
    return colours


_COLOURS = _colour_table()


def draw_scale() -> UInt8[np.ndarray, "height width 3"]:
    """Draws the colours of class maps, from -1 to 1, over grey (RGB)."""
    strengths = np.broadcast_to(np.linspace(-1, 1, 240), (24, 240))
    return draw_overlay(np.full(strengths.shape, 128, np.uint8), strengths)


def encode(picture: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """Encodes a picture (RGB) as PNG."""
    _, content = cv2.imencode(".png", picture[..., ::-1])
    return content.tobytes()
