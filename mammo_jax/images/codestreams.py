"""Headers of JPEG and JPEG 2000 codestreams, by which one is judged unseen.

The codecs allocate what the codestream claims, so a small hostile file could claim any
amount of memory; and some fill what is missing of an image with grey.
"""

import re
from pathlib import Path

import imagecodecs
import numpy as np
from openjpeg.utils import get_parameters

from mammo_jax.common.errors import UserError

# Every scan of a progressive JPEG goes through the whole image; encoders write ten.
_MAX_SCANS = 32
_END = b"\xff\xd9"  # the end marker of all of them
# Start of a scan of JPEG and JPEG-LS, and of a tile's data of JPEG 2000.
_STARTS_OF_DATA = (b"\xff\xda", b"\xff\x93")
_WITHOUT_LENGTH = frozenset([0x01, *range(0xD0, 0xD9)])
_MORE_DATA = b"\xb6" * 64


def find_size(codestream: bytes) -> tuple[int, int] | None:
    """Reads height and width of JPEG, JPEG-LS or JPEG 2000; None of others."""
    return _jpeg_size(codestream) or _jpeg_2000_size(codestream)


def check_scans(path: Path, codestream: bytes) -> None:
    """Refuses a JPEG whose decoding would take very long.

    Raises:
      UserError: it comes in more scans than any encoder writes.
    """
    if codestream.count(_STARTS_OF_DATA[0]) > _MAX_SCANS:
        raise UserError(
            f"{path}: a JPEG in more than {_MAX_SCANS} scans, which would take very"
            " long to decode; save it again, not progressively"
        )


def cut_at_end(codestream: bytes) -> bytes | None:
    """Takes off what stands behind the end marker; returns None if there is none."""
    end = codestream.rfind(_END)
    # Before the image's data the same bytes may stand in a comment.
    start = max(map(codestream.rfind, _STARTS_OF_DATA))
    return codestream[: end + len(_END)] if end > start else None


def decode_jpeg(codestream: bytes) -> np.ndarray:
    """Decodes a JPEG, lossless or not, and makes sure that all of it is there.

    libjpeg takes zeros for data that is missing before the end marker, and says so
    nowhere that its callers can see. Here more data is put there: for a whole image it
    is left over, and changes nothing.

    Raises:
      ValueError: the image needs more data than there is.
      RuntimeError: it is damaged in another way.
    """
    pixels = imagecodecs.jpeg8_decode(codestream)
    end = codestream.rindex(_END)
    longer = codestream[:end] + _MORE_DATA + codestream[end:]
    if not np.array_equal(pixels, imagecodecs.jpeg8_decode(longer)):
        raise ValueError("the codestream ends too early")
    return pixels


def _jpeg_2000_size(codestream: bytes) -> tuple[int, int] | None:
    try:
        found = get_parameters(codestream)  # as the decoder reads them
    except (RuntimeError, ValueError):
        return None
    # A mammogram has one component; memory is taken for each.
    is_grey = found["samples_per_pixel"] == 1
    return (int(found["rows"]), int(found["columns"])) if is_grey else None


def _jpeg_size(codestream: bytes) -> tuple[int, int] | None:
    """Reads the frame header of JPEG or JPEG-LS (ISO 10918-1 B.2.2)."""
    if codestream[:2] != b"\xff\xd8":
        return None
    at = 2
    while at + 9 <= len(codestream) and codestream[at] == 0xFF:
        marker = codestream[at + 1]
        if marker == 0xFF or marker in _WITHOUT_LENGTH:
            at += 1 if marker == 0xFF else 2  # 0xFF is a fill byte
            continue
        if re.match(rb"[\xc0-\xc3\xc5-\xc7\xc9-\xcb\xcd-\xcf\xf7]", bytes([marker])):
            height = int.from_bytes(codestream[at + 5 : at + 7], "big")
            return height, int.from_bytes(codestream[at + 7 : at + 9], "big")
        at += 2 + int.from_bytes(codestream[at + 2 : at + 4], "big")
    return None
