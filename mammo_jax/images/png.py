"""Writer and reader of 16-bit grey PNG, with libdeflate.

OpenCV's libpng spends nearly all its time in zlib. With libdeflate files in one piece
are as large and as fast to write, and are read in less than half the time; reading is
most of what an input pipeline does. Files of another layout go to OpenCV.
"""

import struct
import zlib

import cv2
import imagecodecs
import numpy as np
from jaxtyping import UInt16

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Marks that a row begins with: plain values, or differences from the left neighbour.
_PLAIN, _SUB = 0, 1


def encode_png(
    image: UInt16[np.ndarray, "height width"], *, compress: bool = True
) -> bytes:
    """Encodes a 16-bit grey PNG; lossless either way.

    Args:
      image: grey levels.
      compress: False stores them, which is faster to write and to read.
    """
    height, width = image.shape
    values = image.astype(">u2").view(np.uint8).reshape(height, 2 * width)
    rows = np.empty((height, 1 + 2 * width), np.uint8)
    rows[:, 0] = _SUB if compress else _PLAIN
    rows[:, 1:] = values
    if compress:
        np.subtract(values[:, 2:], values[:, :-2], out=rows[:, 3:])
    content = rows.tobytes()
    # ISA-L, which is faster, once packed the same rows into other bytes in a build.
    packed = imagecodecs.deflate_encode(content, 1) if compress else None
    pixels = _chunk(b"IDAT", bytes(packed or zlib.compress(content, 0)))
    return _start(height, width) + pixels + _chunk(b"IEND", b"")


def decode_png(data: bytes, height: int, width: int) -> UInt16[np.ndarray, "h w"]:
    """Decodes a PNG that is known to have 16 bits and this size.

    Raises:
      ValueError: it is damaged, or of another kind or size.
    """
    packed = find_pixels(data, height, width)
    rows = _inflate(packed, height, width) if packed else None
    if rows is None or (rows[:, 0] != rows[0, 0]).any() or rows[0, 0] > _SUB:
        return _decode_any(data, height, width)
    # Two bytes a value, the high one first; contiguous, which the row marks prevented.
    values = np.ascontiguousarray(rows[:, 1:])
    if rows[0, 0] == _SUB:
        pairs = values.reshape(height, width, 2)
        imagecodecs.delta_decode(pairs, axis=1, out=pairs)
    return values.view(">u2").astype(np.uint16)


def _start(height: int, width: int) -> bytes:
    # 16 bits, grey; the one compression and filter method there is; rows in order.
    header = struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, 0)
    return _SIGNATURE + _chunk(b"IHDR", header)


def _chunk(kind: bytes, content: bytes) -> bytes:
    numbers = len(content), zlib.crc32(content, zlib.crc32(kind))
    length, checksum = (struct.pack(">I", number) for number in numbers)
    return b"".join([length, kind, content, checksum])


def find_pixels(data: bytes, height: int, width: int) -> bytes:
    """Returns the compressed rows of a PNG as it is written here; else nothing."""
    start = _start(height, width) + data[(at := 33) : at + 4] + b"IDAT"
    length = int.from_bytes(data[at : at + 4], "big")
    is_own = data.startswith(start) and len(data) == len(start) + length + 16
    return data[len(start) : len(start) + length * is_own]


def _inflate(packed: bytes, height: int, width: int) -> np.ndarray:
    """Decompresses the rows with their marks."""
    size = height * (1 + 2 * width)
    # A byte of room more, so that too many show.
    rows = np.empty(size + 1, np.uint8)
    try:
        found = len(imagecodecs.deflate_decode(packed, out=rows.data))
    except imagecodecs.DeflateError:
        found = 0
    if found != size:
        raise _refusal(height, width)
    return rows[:size].reshape(height, -1)


def _decode_any(data: bytes, height: int, width: int) -> UInt16[np.ndarray, "h w"]:
    image = None
    # OpenCV would make room for whatever size the header claims.
    if data.startswith(_start(height, width)[:24]):
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None or image.shape != (height, width) or image.dtype != np.uint16:
        raise _refusal(height, width)
    return image


def _refusal(height: int, width: int) -> ValueError:
    return ValueError(f"an image is damaged or not {height}x{width} of 16 bits")
