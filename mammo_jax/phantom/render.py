"""From attenuation to grey values: a digitised film, or a digital detector."""

import cv2
import numpy as np
from jaxtyping import UInt16

from mammo_jax.phantom.anatomy import Map

_WHITE = 65535.0


def to_film(
    generator: np.random.Generator,
    attenuation: Map,
    laterality: str,
    view: str,
) -> UInt16[np.ndarray, "height width"]:
    """Makes a digitised film as in CBIS-DDSM: 16 bits, marker, borders, dust, noise.

    The attenuation is mirrored already if it is of a right breast; laterality and view
    are written on the marker.
    """
    height, width = attenuation.shape
    # The film's characteristic curve; fog is subtracted, as the digitiser did.
    middle, slope = generator.uniform(0.62, 0.74), generator.uniform(0.19, 0.24)
    film: Map
    film = np.multiply(attenuation, -1 / slope)
    film += middle / slope
    np.exp(film, out=film)
    film += 1
    np.divide(generator.uniform(0.88, 1.0), film, out=film)
    film -= 0.045
    # From a generator of its own: what follows is then the same at every size.
    grain = generator.spawn(1)[0].standard_normal((height, width), dtype=np.float32)
    grain *= 0.004
    grain *= np.clip(film * 6, 0.15, 1)
    film += grain
    _add_marker(generator, film, f"{laterality[0]}{view}", laterality)
    _add_borders(generator, film, laterality)
    _add_dust(generator, film)
    np.clip(film, 0, 1, out=film)
    film *= _WHITE
    return film.astype(np.uint16)


def to_digital(
    generator: np.random.Generator,
    attenuation: Map,
    bits: int = 14,
) -> UInt16[np.ndarray, "height width"]:
    """A digital detector's image for presentation, as in INbreast.

    No film, no marker; the background is exactly 0; values below 2**bits, of which
    the breast takes the lower part, as the detectors' do.
    """
    height, width = attenuation.shape
    middle, slope = generator.uniform(0.55, 0.65), generator.uniform(0.22, 0.28)
    breast = attenuation > 0.03
    image: Map
    image = np.multiply(attenuation, -1 / slope)
    image += middle / slope
    np.exp(image, out=image)
    image += 1
    np.divide(generator.uniform(0.2, 0.25), image, out=image)
    noise = generator.standard_normal((height, width), dtype=np.float32)
    image += 0.0012 * noise
    image *= breast
    np.clip(image, 0, 1, out=image)
    image *= 2.0**bits - 1
    return image.astype(np.uint16)


def _add_marker(
    generator: np.random.Generator,
    film: Map,
    text: str,
    laterality: str,
) -> None:
    """Lead letters in an upper corner on the side away from the chest wall."""
    height, width = film.shape
    side = round(0.17 * height)
    letters = np.zeros((side, side), np.uint8)
    scale, thick = 0.00155 * height, max(1, round(0.0065 * height))
    (text_width, text_height), _ = cv2.getTextSize(
        text, cv2.FONT_HERSHEY_DUPLEX, scale, thick
    )
    origin = ((side - text_width) // 2, (side + text_height) // 2)
    cv2.putText(
        letters, text, origin, cv2.FONT_HERSHEY_DUPLEX, scale, 255, thick, cv2.LINE_AA
    )
    outwards = 1 if laterality == "LEFT" else -1
    angle = -outwards * generator.uniform(25, 50)
    turn = cv2.getRotationMatrix2D((side / 2, side / 2), angle, 1.0)
    label = cv2.warpAffine(letters.astype(np.float32) / 255, turn, (side, side))
    label = cv2.GaussianBlur(label, (0, 0), 0.0008 * height)
    label = label * np.float32(generator.uniform(0.6, 0.9))
    top = round(generator.uniform(0.0, 0.06) * height)
    inset = round(generator.uniform(-0.03, 0.03) * height)
    left = width - side - inset if outwards > 0 else inset
    first, last = max(0, left), min(width, left + side)
    window = film[top : top + side, first:last]
    np.maximum(window, label[:, first - left : last - left], out=window)


def _add_borders(
    generator: np.random.Generator,
    film: Map,
    laterality: str,
) -> None:
    """Unexposed or uncovered strips along some edges of the scan."""
    height = film.shape[0]
    edges = [film[:, ::-1], film.T, film[::-1].T]
    if laterality == "RIGHT":
        edges[0] = film
    for edge in edges:
        if generator.uniform() < 0.45:
            continue
        length = edge.shape[0]
        thickness = generator.uniform(0.002, 0.008) * height
        slant = generator.uniform(-0.5, 0.5) * thickness
        ends = thickness + slant * np.linspace(-1, 1, length, dtype=np.float32)
        depth = np.arange(int(2 * thickness) + 2, dtype=np.float32)
        strip = np.clip(ends[:, None] - depth, 0, 1) * generator.uniform(0.5, 0.97)
        window = edge[:, : strip.shape[1]]
        np.maximum(window, strip, out=window)


def _add_dust(generator: np.random.Generator, film: Map) -> None:
    """A few specks, white on the film's dark part."""
    height, width = film.shape
    for _ in range(generator.poisson(2)):
        centre = (int(generator.uniform(0, width)), int(generator.uniform(0, height)))
        if film[centre[1], centre[0]] > 0.02:
            continue  # on the breast it would pass for a calcification
        radius = max(1, round(generator.uniform(0.0006, 0.0016) * height))
        brightness = generator.uniform(0.4, 0.9)
        cv2.circle(film, centre, radius, brightness, -1, cv2.LINE_AA)
