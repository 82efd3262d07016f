"""Pictures that are not DICOM, read as the DICOM reader reads a mammogram."""

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from mammo_jax.common.errors import UserError
from mammo_jax.images.codestreams import decode_jpeg
from mammo_jax.images.dicom import (
    MAX_FILE_BYTES,
    MAX_PIXELS,
    Mammogram,
    read_mammogram,
)

_TOO_LARGE = "claims more pixels than any mammogram has; check the file"
_FORMATS = ("PNG", "JPEG", "TIFF", "PPM")
# Of a PNG: what it begins with, and the length and kind of each of its chunks.
_PNG_SIGNATURE, _CHUNK = b"\x89PNG\r\n\x1a\n", struct.Struct(">I4s")


def read_picture(path: str | Path) -> Mammogram:
    """Reads a grey PNG, JPEG, TIFF or PGM of 8 to 16 bits.

    A grey picture stored as colour (three equal channels) is taken for what it is.
    Laterality, view and UIDs are empty: a picture has none.

    Raises:
      UserError: the file is missing, damaged, too large, in colour, or of another
        format.
    """
    path = Path(path)
    content = _read_bytes(path)
    _CHECKS.get(_check_picture(path, content), _no_check)(path, content)
    # From memory: OpenCV crashes on a file's name that is not UTF-8.
    pixels = cv2.imdecode(
        np.frombuffer(content, np.uint8), cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR
    )
    if pixels is None:
        raise UserError(f"{path}: damaged picture; export it again")
    if pixels.ndim == 3:
        if (pixels != pixels[..., :1]).any():
            raise UserError(f"{path}: a picture in colour; export it as grey")
        pixels = pixels[..., 0]
    if pixels.dtype not in (np.uint8, np.uint16):
        raise UserError(
            f"{path}: holds {pixels.dtype} values; export it with 8 or 16 bits"
        )
    bits = 8 * pixels.itemsize
    return Mammogram(
        rows=pixels.shape[0],
        columns=pixels.shape[1],
        bits_allocated=bits,
        bits_stored=bits,
        photometric="MONOCHROME2",
        laterality="",
        view="",
        modality="",
        sop_instance_uid="",
        series_instance_uid="",
        study_instance_uid="",
        pixels=np.ascontiguousarray(pixels, np.uint16),
    )


READERS: dict[str, Callable[[Path], Mammogram]] = dict.fromkeys(
    [".png", ".jpg", ".jpeg", ".tif", ".tiff", ".pgm"], read_picture
)


def read_image(path: str | Path) -> Mammogram:
    """Reads a mammogram by its name's ending: DICOM unless it is a picture's.

    Raises:
      UserError: what `read_picture` and `dicom.read_mammogram` raise.
    """
    path = Path(path)
    return READERS.get(path.suffix.lower(), read_mammogram)(path)


def _read_bytes(path: Path) -> bytes:
    if not path.is_file():
        raise UserError(f"{path}: no such file; check the path")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise UserError(f"{path}: too large for one mammogram")
    return path.read_bytes()


def _check_picture(path: Path, content: bytes) -> str:
    """The format; refuses what must not be decoded, by the header alone."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its own limit is lower than ours
            with Image.open(io.BytesIO(content), formats=_FORMATS) as picture:
                width, height = picture.size
                frames = getattr(picture, "n_frames", 1)
                name = str(picture.format)
    except Image.DecompressionBombError as error:
        raise UserError(f"{path}: {_TOO_LARGE}") from error
    except Exception as error:  # malformed headers fail in too many ways to list
        raise UserError(
            f"{path}: not a PNG, JPEG, TIFF or PGM picture ({type(error).__name__});"
            " export it again"
        ) from error
    if frames != 1:
        raise UserError(f"{path}: holds {frames} pictures; keep one")
    if width * height > MAX_PIXELS:
        raise UserError(f"{path}: {_TOO_LARGE}")
    return name


def _check_jpeg(path: Path, content: bytes) -> None:
    """Refuses a damaged JPEG, which OpenCV fills with grey; it finds other damage."""
    try:
        decode_jpeg(content)
    except (ValueError, RuntimeError) as error:
        raise UserError(f"{path}: damaged JPEG ({error}); export it again") from error


def _check_png(path: Path, content: bytes) -> None:
    """Refuses a cut off or changed PNG by its checksums.

    OpenCV does not look at them, and libpng prints what it finds by itself.
    """
    at, kind = len(_PNG_SIGNATURE), b""
    while kind != b"IEND":
        length, kind = _CHUNK.unpack(content[at : at + 8].ljust(8, b"\0"))
        end = at + 8 + length
        checksum = zlib.crc32(memoryview(content)[at + 4 : end]).to_bytes(4, "big")
        is_whole = end + 4 <= len(content)
        # Small letters begin what a reader may do without.
        if not is_whole or (kind[:1].isupper() and content[end : end + 4] != checksum):
            raise UserError(f"{path}: damaged PNG; export it again")
        at = end + 4


def _no_check(path: Path, content: bytes) -> None:
    del path, content


_CHECKS: dict[str, Callable[[Path, bytes], None]] = {
    "JPEG": _check_jpeg,
    "PNG": _check_png,
}

# A damaged picture is told in the one line of its error.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
