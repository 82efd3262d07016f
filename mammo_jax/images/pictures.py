"""Readers of pictures, which return what the DICOM reader returns."""

import io
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from mammo_jax.common.errors import UserError
from mammo_jax.images.codestreams import check_scans, decode_jpeg
from mammo_jax.images.dicom import MAX_PIXELS, Mammogram, check_file, read_mammogram

_TIFF_PHOTOMETRIC, _TIFF_MAXIMUM = 262, 281
_PGM_MAXIMUM = re.compile(rb"P[25]\s+(?:#.*\n\s*)*\d+\s+\d+\s+(\d{1,5})\s")
_FORMATS = ("PNG", "JPEG", "TIFF", "PPM")


def read_picture(path: str | Path) -> Mammogram:
    """Reads a grey PNG, JPEG, TIFF or PGM of 8 to 16 bits.

    A grey picture stored as colour (three equal channels) is taken for what it is.
    Laterality, view and UIDs are empty: a picture has none.

    Raises:
      UserError: the file is missing, damaged, too large, in colour, or of another
        format.
    """
    path = Path(path)
    check_file(path)
    content = path.read_bytes()
    bits, is_white_zero = _check_picture(path, content)
    # From memory: OpenCV crashes on a file's name that is not UTF-8.
    try:
        pixels = cv2.imdecode(
            np.frombuffer(content, np.uint8), cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR
        )
    except cv2.error:
        pixels = None
    if pixels is None:
        raise UserError(f"{path}: damaged picture, or too large; export it again")
    if pixels.ndim == 3:
        if (pixels != pixels[..., :1]).any():
            raise UserError(f"{path}: a picture in colour; export it as grey")
        pixels = pixels[..., 0]
    if pixels.dtype not in (np.uint8, np.uint16):
        raise UserError(
            f"{path}: holds {pixels.dtype} values; export it with 8 or 16 bits"
        )
    if is_white_zero and pixels.dtype == np.uint16:  # OpenCV inverts 8 bits itself
        pixels = np.uint16(65535) - pixels
    container = 8 * pixels.itemsize
    # A picture may say less than it has.
    bits = max(bits, int(np.max(pixels)).bit_length())
    return Mammogram(
        rows=pixels.shape[0],
        columns=pixels.shape[1],
        bits_allocated=container,
        bits_stored=container if is_white_zero else min(bits, container),
        photometric="MONOCHROME2",
        pixels=np.ascontiguousarray(pixels, np.uint16),
    )


PICTURE_NAMES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".pgm")


def read_image(path: str | Path, identifying: Sequence[str] = ()) -> Mammogram:
    """Reads a mammogram by its name's ending: DICOM unless it is a picture's.

    Args:
      path: the file.
      identifying: see `dicom.read_mammogram`; a picture has none.

    Raises:
      UserError: what `read_picture` and `dicom.read_mammogram` raise.
    """
    path = Path(path)
    if path.suffix.lower() in PICTURE_NAMES:
        return read_picture(path)
    return read_mammogram(path, identifying)


def _check_picture(path: Path, content: bytes) -> tuple[int, bool]:
    """Refuses what must not be decoded, and damage that OpenCV passes over.

    Returns:
      Bits of the highest value that the picture says it may have, 16 if it says
      nothing; and True if it is a TIFF in which 0 is white.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its own limit is lower than ours
            with Image.open(io.BytesIO(content), formats=_FORMATS) as picture:
                width, height = picture.size
                name = str(picture.format)
                tags = getattr(picture, "tag_v2", {})
                maximum = int(np.max(tags.get(_TIFF_MAXIMUM, 0)))
                is_white_zero = tags.get(_TIFF_PHOTOMETRIC) == 0
                is_alone = _is_alone(picture)
    except Image.DecompressionBombError:
        is_alone, width, height = True, MAX_PIXELS, MAX_PIXELS
    except MemoryError:
        raise
    except Exception as error:  # malformed headers fail in too many ways to list
        raise UserError(
            f"{path}: not a PNG, JPEG, TIFF or PGM picture ({type(error).__name__});"
            " export it again"
        ) from error
    if not is_alone:
        raise UserError(f"{path}: holds several pictures; keep one")
    if width * height > MAX_PIXELS:
        raise UserError(
            f"{path}: claims more pixels than any mammogram has; check the file"
        )
    if name == "JPEG":
        check_scans(path, content)
    if name in _CHECKS:
        try:
            _CHECKS[name](content)
        except Exception as error:  # damage shows in too many ways to list
            raise UserError(
                f"{path}: damaged {name} ({type(error).__name__}); export it again"
            ) from None
    if found := _PGM_MAXIMUM.match(content):
        # OpenCV stretches plain text of less than 8 bits to 8.
        maximum = max(int(found[1]), 255 if content[:2] == b"P2" else 0)
    bits = maximum.bit_length() if maximum > 0 else 16
    return bits, is_white_zero


def _is_alone(picture: Image.Image) -> bool:
    if picture.format != "TIFF":
        return int(getattr(picture, "n_frames", 1)) == 1
    try:
        picture.seek(1)  # Counting hundreds of thousands of them would take long.
    except EOFError:
        return True
    return False


def _verify_png(content: bytes) -> None:
    """Compares all checksums: OpenCV does not, and libpng prints what it finds."""
    with Image.open(io.BytesIO(content)) as picture:
        picture.verify()


# OpenCV fills a damaged JPEG with grey.
_CHECKS: dict[str, Callable[[bytes], object]] = {
    "JPEG": decode_jpeg,
    "PNG": _verify_png,
}

# A damaged picture is told in the one line of its error.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
