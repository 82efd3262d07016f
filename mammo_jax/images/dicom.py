"""Reads a DICOM file: its pixels, and the header facts that matter.

The only module that reads DICOM files. Pixels come back as *stored values*: unsigned,
`0 .. 2**bits_stored - 1`, darker is smaller, however the file codes them. Of the
header only technical attributes and the UIDs that join files with tables are kept;
what identifies a patient is read only where a caller names the attributes.
"""

import contextlib
import dataclasses
import logging
import math
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import imagecodecs
import numpy as np
import pydicom
from jaxtyping import UInt16
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_dataset, read_preamble
from pydicom.multival import MultiValue
from pydicom.pixels.decoders.base import get_decoder
from pydicom.tag import Tag

from mammo_jax.common.errors import UserError
from mammo_jax.images import codestreams

# The largest film scan of DDSM has 40 million pixels, a digital mammogram 25.
MAX_PIXELS = 150_000_000
MAX_FILE_BYTES = 1 << 30

# The values that DICOM defines (PS3.3 C.7.6.3.1.2): others are not quoted, since any
# text may stand in a header.
_PHOTOMETRICS = re.compile(
    "MONOCHROME[12]|PALETTE COLOR|A?RGB|YBR_(FULL(_422)?|PARTIAL_42[02]|ICT|RCT)|XYB"
    "|HSV|CMYK|"
)
_LATERALITIES = {"L": "LEFT", "LEFT": "LEFT", "R": "RIGHT", "RIGHT": "RIGHT"}
_VIEWS = frozenset(["CC", "MLO", "ML", "LM", "LMO", "XCCL", "XCCM", "FB", "SIO"])

# Of pydicom's decoders the one that is strict about damage.
_PLUGINS = {uid.JPEG2000: "pylibjpeg", uid.JPEG2000Lossless: "pylibjpeg"}
# libjpeg-turbo and CharLS: whatever a damaged file holds, they raise, where the codecs
# that pydicom would use for these can abort the process.
_CODECS: dict[str, Callable[[bytes], np.ndarray]] = {
    uid.JPEGBaseline8Bit: codestreams.decode_jpeg,
    uid.JPEGExtended12Bit: codestreams.decode_jpeg,
    uid.JPEGLossless: codestreams.decode_jpeg,
    uid.JPEGLosslessSV1: codestreams.decode_jpeg,
    uid.JPEGLSLossless: imagecodecs.jpegls_decode,
    uid.JPEGLSNearLossless: imagecodecs.jpegls_decode,
}
# Pixels in these lie in their container as the header says (HighBit); all other
# codecs return them at its low end.
_RAW_CONTAINERS = frozenset(
    {
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
        uid.RLELossless,
    }
)

# Fields of `Header` and their attributes.
_NUMBERS = {
    "rows": "Rows",
    "columns": "Columns",
    "bits_allocated": "BitsAllocated",
    "bits_stored": "BitsStored",
}
_TEXTS = {
    "modality": "Modality",
    "sop_instance_uid": "SOPInstanceUID",
    "series_instance_uid": "SeriesInstanceUID",
    "study_instance_uid": "StudyInstanceUID",
}
_HEADER_KEYWORDS = (
    *_NUMBERS.values(),
    *_TEXTS.values(),
    *("Laterality", "ImageLaterality", "ViewPosition", "PatientOrientation"),
    *("PhotometricInterpretation", "SamplesPerPixel", "NumberOfFrames"),
    *("HighBit", "PixelRepresentation"),
)
_PIXEL_KEYWORDS = ("PixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Header:
    """Technical facts of a file; strings are empty where it has none.

    Attributes:
      rows: height in pixels, Rows (0028,0010).
      columns: width in pixels, Columns (0028,0011).
      bits_allocated: container size, BitsAllocated (0028,0100), 8 or 16.
      bits_stored: bits in use, BitsStored (0028,0101), 1 to 16.
      photometric: "MONOCHROME1" or "MONOCHROME2" (0028,0004).
      laterality: "LEFT", "RIGHT" or "".
      view: "CC", "MLO", another view's DICOM name, or "".
      modality: Modality (0008,0060), "MG" for mammograms, also "RG" or "CR".
      sop_instance_uid: SOPInstanceUID (0008,0018), for joining with tables.
      series_instance_uid: SeriesInstanceUID (0020,000E), likewise.
      study_instance_uid: StudyInstanceUID (0020,000D), likewise.
      identifying: the further attributes that the reader was asked for. In clinical
        data they identify: a caller must not let them out unless the user asks for
        it (`predict --keep_identifiers`).
    """

    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    photometric: str
    laterality: str = ""
    view: str = ""
    modality: str = ""
    sop_instance_uid: str = ""
    series_instance_uid: str = ""
    study_instance_uid: str = ""
    identifying: Dataset = dataclasses.field(
        default_factory=Dataset, repr=False, compare=False
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mammogram(Header):
    """A header with its pixels.

    Attributes:
      pixels: stored values, `0 .. 2**bits_stored - 1`, brighter is larger
        (MONOCHROME1 is inverted, signed values are shifted up).
    """

    pixels: UInt16[np.ndarray, "rows columns"]


def read_header(path: str | Path, identifying: Sequence[str] = ()) -> Header:
    """Reads the header facts of a DICOM file, not its pixels.

    Args:
      path: the file.
      identifying: keywords of what else to read, into `Header.identifying`.

    Raises:
      UserError: the file is missing, is not DICOM, or its header is not that of a
        single-frame grey-scale image of a sensible size.
    """
    dataset = _read_dataset(Path(path), _HEADER_KEYWORDS, identifying)
    return Header(**_header_facts(dataset, Path(path), identifying))


def read_mammogram(path: str | Path, identifying: Sequence[str] = ()) -> Mammogram:
    """Reads a DICOM mammogram, mask or crop.

    Args:
      path: the file; uncompressed, RLE, JPEG (lossless too), JPEG-LS or JPEG 2000.
      identifying: keywords of what else to read, into `Header.identifying`.

    Raises:
      UserError: what `read_header` raises, and: no pixel data, truncated or damaged
        pixel data, a codec that cannot be read.
    """
    path = Path(path)
    keywords = (*_HEADER_KEYWORDS, *_PIXEL_KEYWORDS)
    dataset = _read_dataset(path, keywords, identifying)
    facts = _header_facts(dataset, path, identifying)
    values = _unsigned(_decode(dataset, path), dataset)
    if facts["photometric"] == "MONOCHROME1":
        values = np.uint16((1 << facts["bits_stored"]) - 1) - values
    return Mammogram(**facts, pixels=values)


def _read_dataset(
    path: Path, keywords: Sequence[str], identifying: Sequence[str]
) -> Dataset:
    """Reads the named attributes; whatever a damaged file does ends as UserError."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; check the path")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise UserError(
            f"{path}: larger than {MAX_FILE_BYTES >> 20} MiB, too large for one"
            " mammogram; extract the single image from it"
        )
    try:
        # pydicom's warnings and log lines may quote values of the header.
        with warnings.catch_warnings(), path.open("rb") as file:
            warnings.simplefilter("ignore")
            syntax = _transfer_syntax(file)
            if syntax == uid.DeflatedExplicitVRLittleEndian:
                # Inflating has no limit in pydicom.
                raise UserError(
                    f"{path}: deflated DICOM is not read; convert it first, for"
                    " example with `gdcmconv --raw IN OUT`"
                )
            dataset = pydicom.dcmread(
                file,
                stop_before_pixels="PixelData" not in keywords,
                specific_tags=[Tag(keyword) for keyword in (*keywords, *identifying)],
            )
            for keyword in keywords:  # parses every value, so errors show up here
                dataset.get(keyword)
    except UserError:
        raise
    except InvalidDicomError:
        raise UserError(
            f"{path}: not a DICOM file (no DICM mark at byte 128); download it again"
            " or remove it"
        ) from None
    except PermissionError:
        raise UserError(f"{path}: not readable; check its permissions") from None
    except Exception as error:  # a damaged header fails in too many ways to list
        raise UserError(
            f"{path}: damaged DICOM header ({type(error).__name__}); download it again"
        ) from None
    return dataset


def _transfer_syntax(file: BinaryIO) -> str:
    """Reads TransferSyntaxUID (0002,0010), and goes back to the start."""
    read_preamble(file, force=False)
    meta = read_dataset(
        file,
        is_implicit_VR=False,
        is_little_endian=True,
        stop_when=lambda tag, vr, length: tag >> 16 != 2,
    )
    file.seek(0)
    return str(meta.get("TransferSyntaxUID", ""))


def _header_facts(
    dataset: Dataset, path: Path, identifying: Sequence[str]
) -> dict[str, Any]:
    """Checks the header and returns the fields of `Header`."""
    facts = {
        name: _positive_integer(dataset, keyword, path)
        for name, keyword in _NUMBERS.items()
    }
    photometric = str(dataset.get("PhotometricInterpretation", ""))
    quoted = (
        repr(photometric) if _PHOTOMETRICS.fullmatch(photometric) else "an unknown one"
    )
    frames = dataset.get("NumberOfFrames") or 1
    for is_wrong, complaint in (
        (
            frames != 1,
            f"holds {frames} frames (tomosynthesis or a series); use the"
            " single-frame 2-D mammogram",
        ),
        (
            dataset.get("SamplesPerPixel", 1) != 1
            or photometric not in ("MONOCHROME1", "MONOCHROME2"),
            f"is not a grey-scale image (PhotometricInterpretation {quoted});"
            " use the original mammogram, not a screen capture",
        ),
        (
            facts["rows"] * facts["columns"] > MAX_PIXELS,
            f"claims {facts['rows']}x{facts['columns']} pixels, more than any"
            " mammogram has; check the file",
        ),
        (
            facts["bits_allocated"] not in (8, 16)
            or facts["bits_stored"] > facts["bits_allocated"],
            f"has {facts['bits_stored']} bits stored in {facts['bits_allocated']};"
            " 1 to 16 bits in 8 or 16 are read; export it again as 16-bit",
        ),
    ):
        if is_wrong:
            raise UserError(f"{path}: {complaint}")
    texts = {name: str(dataset.get(key) or "") for name, key in _TEXTS.items()}
    return {
        **facts,
        **texts,
        "photometric": photometric,
        "laterality": _laterality(dataset),
        "view": _view(dataset),
        "identifying": _pick(dataset, identifying),
    }


def _pick(dataset: Dataset, keywords: Sequence[str]) -> Dataset:
    """Copies those of the attributes whose values are valid."""
    picked = Dataset()
    for keyword in keywords:
        with contextlib.suppress(Exception):  # invalid ones fail in too many ways
            picked[keyword] = dataset[keyword]
    return picked


def _positive_integer(dataset: Dataset, keyword: str, path: Path) -> int:
    value = dataset.get(keyword)
    if not isinstance(value, int) or value <= 0:
        raise UserError(
            f"{path}: the header has no usable {keyword}; it is not an image or it is"
            " damaged: download or export it again"
        )
    return value


def _laterality(dataset: Dataset) -> str:
    value = dataset.get("ImageLaterality") or dataset.get("Laterality") or ""
    return _LATERALITIES.get(str(value).strip().upper(), "")


def _view(dataset: Dataset) -> str:
    """Reads ViewPosition (0018,5101), in CBIS-DDSM PatientOrientation."""
    for keyword in ("ViewPosition", "PatientOrientation"):
        value = dataset.get(keyword) or ""
        if not isinstance(value, MultiValue) and str(value).strip().upper() in _VIEWS:
            return str(value).strip().upper()
    return ""


def _decode(dataset: Dataset, path: Path) -> np.ndarray:
    """Decodes the one frame as it lies in its container."""
    if "PixelData" not in dataset:
        raise UserError(
            f"{path}: holds no pixel data, only a header; download the image itself"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            syntax = uid.UID(dataset.file_meta.TransferSyntaxUID)
            if syntax in _PLAIN:
                return _PLAIN[syntax](dataset)
            if syntax.is_encapsulated:
                frame = _find_codestream(dataset, path)
                if syntax in _CODECS:
                    return _decode_frame(frame, _CODECS[syntax], dataset)
            values, _ = get_decoder(syntax).as_array(
                dataset,
                raw=True,
                correct_unused_bits=False,  # type: ignore[arg-type]
                decoding_plugin=_PLUGINS.get(syntax, ""),
            )
    except (UserError, KeyboardInterrupt, SystemExit):
        raise
    except NotImplementedError:
        raise UserError(
            f"{path}: no decoder for its transfer syntax; convert it first, for example"
            " with `gdcmconv --raw IN OUT`"
        ) from None
    except BaseException as error:  # each codec has its own ways to fail; Rust panics
        raise UserError(
            f"{path}: truncated or damaged pixel data ({type(error).__name__});"
            " download it again"
        ) from error
    return values


def _read_uncompressed(dataset: Dataset) -> np.ndarray:
    """Returns the pixels where they lie; pydicom would copy them."""
    shape = dataset.Rows, dataset.Columns
    values = np.frombuffer(
        dataset.PixelData, _container_type(dataset), math.prod(shape)
    )
    return values.reshape(shape)


def _decode_rle(dataset: Dataset) -> np.ndarray:
    """Decodes RLE Lossless in half the time that pydicom's decoders take.

    The decoder refuses segments that are too short or too long for the image.
    """
    container = _container_type(dataset)
    shape = dataset.Rows, dataset.Columns
    out = bytearray(math.prod(shape) * container.itemsize)
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    decoded = imagecodecs.dicomrle_decode(frame, container, out=out)
    if len(decoded) != len(out):
        raise ValueError("the decoded image is too small")
    return np.frombuffer(out, container).reshape(shape)


def _container_type(dataset: Dataset) -> np.dtype:
    kind = "i" if dataset.get("PixelRepresentation") == 1 else "u"
    return np.dtype(f"<{kind}{dataset.BitsAllocated // 8}")


# Read without pydicom's decoders.
_PLAIN = {
    uid.ImplicitVRLittleEndian: _read_uncompressed,
    uid.ExplicitVRLittleEndian: _read_uncompressed,
    uid.RLELossless: _decode_rle,
}


def _decode_frame(
    frame: bytes, decode: Callable[[bytes], np.ndarray], dataset: Dataset
) -> np.ndarray:
    values = decode(frame)
    if values.shape != (dataset.Rows, dataset.Columns):
        raise ValueError("the decoded image has another shape")
    if 8 * values.itemsize > dataset.BitsAllocated:
        raise ValueError("the decoded image has more bits")
    return values


def _find_codestream(dataset: Dataset, path: Path) -> bytes:
    """Returns the compressed frame, unless it is cut off or of another size."""
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    size = codestreams.find_size(frame)
    if size is None:
        raise ValueError("the codestream has no header")
    if size != (dataset.Rows, dataset.Columns):
        raise UserError(
            f"{path}: the compressed image is {size[0]}x{size[1]} but the header says"
            f" {dataset.Rows}x{dataset.Columns}; download it again"
        )
    if not codestreams.has_end(frame):
        raise ValueError("the codestream has no end")
    return frame


def _unsigned(values: np.ndarray, dataset: Dataset) -> UInt16[np.ndarray, "h w"]:
    """Takes overlay bits off, and shifts signed values up."""
    bits_stored = dataset.BitsStored
    unsigned = values.view(values.dtype.str.replace("i", "u"))  # keeps the byte order
    container = unsigned.astype(np.uint16, copy=False)
    if dataset.file_meta.TransferSyntaxUID in _RAW_CONTAINERS:
        high_bit = dataset.get("HighBit")
        if isinstance(high_bit, int) and high_bit >= bits_stored:
            container = container >> np.uint16(high_bit + 1 - bits_stored)
    mask = np.uint16((1 << bits_stored) - 1)
    if bits_stored < 16:
        container = container & mask
    if dataset.get("PixelRepresentation") == 1:
        container = container ^ np.uint16(1 << (bits_stored - 1))
    return container


# Its log lines may quote values of a header.
logging.getLogger("pydicom").setLevel(logging.CRITICAL)
