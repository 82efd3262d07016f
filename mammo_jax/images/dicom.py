"""Reader of DICOM files: of the pixels, and of the header facts that matter.

The only module that reads DICOM files. Pixels come back as *stored values*: unsigned,
`0 .. 2**bits_stored - 1`, darker is smaller, however the file codes them. Of the
header only technical attributes and the UIDs that join files with tables are kept;
what identifies a patient is read only where a caller names the attributes.
"""

import contextlib
import dataclasses
import logging
import mmap
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import imagecodecs
import numpy as np
import pydicom
from jaxtyping import Bool, UInt16
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_dataset
from pydicom.pixels.common import PhotometricInterpretation
from pydicom.pixels.decoders.base import get_decoder
from pydicom.tag import Tag

from mammo_jax.common.errors import RunStoppedError, UserError, refuse
from mammo_jax.images import codestreams

# The largest film scan of DDSM has 40 million pixels, a digital mammogram 25.
MAX_PIXELS = 150_000_000
MAX_FILE_BYTES = 1 << 30

# First bytes of a data set without preamble, in explicit or implicit VR.
_BARE = re.compile(rb"\x02\0\0\0UL|\x08\0.\0(?:[A-Z]{2}|..\0\0)", re.DOTALL)
_ITEM = b"\xfe\xff\x00\xe0"  # begins compressed pixels, and items of sequences
_PIXEL_DATA = b"\xe0\x7f\x10\x00"
_MAX_ITEMS = 10_000  # of sequences in a header; pydicom takes a KB for each empty one
_MAX_SURPLUS = 2  # bytes behind a segment of RLE
# Digital mammography's SOP classes. An image that is either is raw.
_INTENTS = {
    "1.2.840.10008.5.1.4.1.1.1.2.1": "FOR PROCESSING",
    "1.2.840.10008.5.1.4.1.1.1.2": "FOR PRESENTATION",
}
_LATERALITIES = {"L": "LEFT", "LEFT": "LEFT", "R": "RIGHT", "RIGHT": "RIGHT"}
# Views by their codes in SNOMED CT and SNOMED RT (PS3.16 CID 4014).
_VIEW_CODES = {
    **dict.fromkeys(["399162004", "R-10242"], "CC"),
    **dict.fromkeys(["399368009", "R-10226"], "MLO"),
    **dict.fromkeys(["399260004", "R-10224"], "ML"),
    **dict.fromkeys(["399352003", "R-10228"], "LM"),
    **dict.fromkeys(["399099002", "R-10230"], "LMO"),
    **dict.fromkeys(["399192008", "R-1024A"], "XCCL"),
    **dict.fromkeys(["399101009", "R-1024B"], "XCCM"),
    **dict.fromkeys(["399265009", "R-102CF"], "XCC"),
    **dict.fromkeys(["399196006", "R-10244"], "FB"),
    **dict.fromkeys(["399188001", "R-102D0"], "SIO"),
    **dict.fromkeys(["441555000", "R-40AAA"], "ISO"),
}
_VIEWS = frozenset([*_VIEW_CODES.values(), "AT", "CV"])
# Codes of images that show a part of a breast (CID 4014 and 4015).
_PARTS = {
    **dict.fromkeys(["399163009", "R-102D6"], "a magnification view"),
    **dict.fromkeys(["399055006", "R-102D7"], "a spot compression view"),
    **dict.fromkeys(["127457009", "G-8310"], "a specimen"),
}

# This one of pydicom's decoders is strict about damage.
_PLUGINS = dict.fromkeys((uid.JPEG2000, uid.JPEG2000Lossless), "pylibjpeg")
# libjpeg-turbo and CharLS: whatever a damaged file holds, they raise, where the codecs
# that pydicom would use for these can abort the process.
_CODECS: dict[str, Callable[[bytes], np.ndarray]] = {
    **dict.fromkeys(uid.JPEGTransferSyntaxes, codestreams.decode_jpeg),
    **dict.fromkeys(uid.JPEGLSTransferSyntaxes, imagecodecs.jpegls_decode),
}

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
    *("HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("ModalityLUTSequence", "RescaleSlope", "SOPClassUID", "PresentationIntentType"),
    "ViewCodeSequence",
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
      intent: "FOR PRESENTATION" of a detector's image, "" of films and where nothing
        says so: PresentationIntentType (0008,0068) or SOPClassUID (0008,0016).
      not_whole: the reason why it is no mammogram for presentation of a whole breast,
        such as "a specimen"; empty for most.
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
    intent: str = ""
    not_whole: str = ""
    identifying: Dataset = dataclasses.field(
        default_factory=Dataset, repr=False, compare=False
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mammogram(Header):
    """A header with its pixels.

    Attributes:
      pixels: stored values, `0 .. 2**bits_stored - 1`, brighter is larger
        (MONOCHROME1 and a negative RescaleSlope invert, signed values are shifted up,
        padding at the edges has the darkest value).
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
    padding = _find_padding(values, dataset)
    slope = dataset.get("RescaleSlope")
    is_falling = isinstance(slope, int | float) and slope < 0
    if (facts["photometric"] == "MONOCHROME1") != is_falling:
        values = np.uint16((1 << facts["bits_stored"]) - 1) - values
    if padding is not None:
        values = np.where(padding, values.min(where=~padding, initial=65535), values)
    return Mammogram(**facts, pixels=values)


def check_file(path: Path) -> None:
    """Refuses what is no file, or too large for one mammogram.

    Raises:
      UserError: it is.
    """
    if not path.is_file():
        there = " (a folder, pipe or device is there)" if path.exists() else ""
        raise UserError(f"{path}: no such file{there}; check the path")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise UserError(
            f"{path}: larger than {MAX_FILE_BYTES >> 20} MiB, too large for one"
            " mammogram; extract the single image from it"
        )


def _read_dataset(
    path: Path, keywords: Sequence[str], identifying: Sequence[str]
) -> Dataset:
    """Reads the named attributes; whatever a damaged file does ends as UserError."""
    check_file(path)
    try:
        # pydicom's warnings and log lines may quote values of the header.
        with warnings.catch_warnings(), path.open("rb") as file:
            warnings.simplefilter("ignore")
            syntax = _check_start(file)
            refuse(
                {
                    # Inflating has no limit in pydicom.
                    f"{path}: deflated DICOM is not read; convert it first, for"
                    " example with `gdcmconv --raw IN OUT`": (
                        syntax == uid.DeflatedExplicitVRLittleEndian
                    ),
                    f"{path}: its header has more than {_MAX_ITEMS} items of sequences,"
                    " far more than any mammogram's; export it again": (
                        _count_items(file) > _MAX_ITEMS
                    ),
                }
            )
            dataset = pydicom.dcmread(
                file,
                force=True,
                stop_before_pixels="PixelData" not in keywords,
                specific_tags=[Tag(keyword) for keyword in (*keywords, *identifying)],
            )
            for keyword in keywords:  # parses every value, so errors show up here
                dataset.get(keyword)
    except (UserError, MemoryError):
        raise
    except InvalidDicomError:
        raise UserError(
            f"{path}: not a DICOM file (no DICM mark at byte 128, no attribute at the"
            " start); download it again or remove it"
        ) from None
    except PermissionError:
        raise UserError(f"{path}: not readable; check its permissions") from None
    except Exception as error:  # a damaged header fails in too many ways to list
        raise UserError(
            f"{path}: damaged DICOM header ({type(error).__name__}); download it again"
        ) from None
    return dataset


def _check_start(file: BinaryIO) -> str:
    """Reads TransferSyntaxUID (0002,0010), or "", and goes back to the start."""
    start = file.read(132)
    if start[128:] != b"DICM":
        if not _BARE.match(start):
            raise InvalidDicomError
        file.seek(0)
    meta = read_dataset(
        file,
        is_implicit_VR=False,
        is_little_endian=True,
        stop_when=lambda tag, vr, length: tag >> 16 != 2,
    )
    file.seek(0)
    return str(meta.get("TransferSyntaxUID", ""))


def _count_items(file: BinaryIO) -> int:
    """Counts the items before the pixels, and whatever looks like one."""
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        end = content.find(_PIXEL_DATA)
        header = content[: end if end >= 0 else len(content)]
    return header.count(_ITEM) + header.count(_ITEM[1::-1] + _ITEM[:1:-1])


def _header_facts(
    dataset: Dataset, path: Path, identifying: Sequence[str]
) -> dict[str, Any]:
    """Checks the header and returns the fields of `Header`."""
    facts = {
        name: _positive_integer(dataset, keyword, path)
        for name, keyword in _NUMBERS.items()
    }
    photometric = str(dataset.get("PhotometricInterpretation", ""))
    # Any text may stand in a header: only DICOM's own words are quoted.
    is_known = photometric in [*PhotometricInterpretation, ""]
    quoted = repr(photometric) if is_known else "an unknown one"
    frames = dataset.get("NumberOfFrames") or 1
    many = frames if isinstance(frames, int) else "several"
    complaints = {
        f"holds {many} frames (tomosynthesis or a series); use the single-frame 2-D"
        " mammogram": frames != 1,
        f"is not a grey-scale image (PhotometricInterpretation {quoted}); use the"
        " original mammogram, not a screen capture": (
            dataset.get("SamplesPerPixel", 1) != 1
            or photometric not in ("MONOCHROME1", "MONOCHROME2")
        ),
        "has a Modality LUT, which is not applied; export it without": bool(
            dataset.get("ModalityLUTSequence")
        ),
        f"claims {facts['rows']}x{facts['columns']} pixels, more than any mammogram"
        " has; check the file": facts["rows"] * facts["columns"] > MAX_PIXELS,
        f"has {facts['bits_stored']} bits stored in {facts['bits_allocated']}; 1 to 16"
        " bits in 8 or 16 are read; export it again as 16-bit": (
            facts["bits_allocated"] not in (8, 16)
            or facts["bits_stored"] > facts["bits_allocated"]
        ),
    }
    refuse({f"{path}: {text}": holds for text, holds in complaints.items()})
    texts = {name: str(dataset.get(key) or "") for name, key in _TEXTS.items()}
    return {
        **facts,
        **texts,
        "photometric": photometric,
        "laterality": _laterality(dataset),
        "view": _view(dataset),
        "intent": _intent(dataset),
        "not_whole": _not_whole(dataset),
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
    """Reads ViewPosition (0018,5101), else ViewCodeSequence (0054,0220).

    CBIS-DDSM has neither, but CC or MLO in PatientOrientation (0020,0020).
    """
    position, orientation = (
        str(dataset.get(keyword) or "").strip().upper()
        for keyword in ("ViewPosition", "PatientOrientation")
    )
    codes = [_VIEW_CODES.get(code, "") for code in _codes(dataset)]
    known = [view for view in (position, *codes, orientation) if view in _VIEWS]
    return known[0] if known else ""


def _intent(dataset: Dataset) -> str:
    """Reads PresentationIntentType (0008,0068), or what SOPClassUID says of it."""
    said = str(dataset.get("PresentationIntentType") or "").strip().upper()
    of_class = _INTENTS.get(str(dataset.get("SOPClassUID") or ""), "")
    known = [intent for intent in _INTENTS.values() if intent in (said, of_class)]
    return known[0] if known else ""


def _not_whole(dataset: Dataset) -> str:
    if _intent(dataset) == "FOR PROCESSING":
        return "raw data of the detector (FOR PROCESSING)"
    return next((_PARTS[code] for code in _codes(dataset) if code in _PARTS), "")


def _codes(dataset: Dataset) -> list[str]:
    """Lists the codes of the view and of its modifiers."""
    views = list(dataset.get("ViewCodeSequence") or [])
    modifiers = [
        modifier
        for view in views
        for modifier in view.get("ViewModifierCodeSequence") or []
    ]
    return [str(item.get("CodeValue", "")) for item in (*views, *modifiers)]


def _decode(dataset: Dataset, path: Path) -> np.ndarray:
    """Decodes the one frame as it lies in its container."""
    if "PixelData" not in dataset:
        raise UserError(
            f"{path}: holds no pixel data, only a header; download the image itself"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            syntax = _find_syntax(dataset, path)
            if syntax in _PLAIN:
                return _PLAIN[syntax](dataset)
            if syntax.is_encapsulated:
                frame = _find_codestream(dataset, path)
                codestreams.check_scans(path, frame)
                if syntax in _CODECS:
                    values = _CODECS[syntax](frame)
                    if values.shape != (dataset.Rows, dataset.Columns):
                        raise ValueError("the decoded image has another shape")
                    if 8 * values.itemsize > dataset.BitsAllocated:
                        raise ValueError("the decoded image has more bits")
                    return values
            values, _ = get_decoder(syntax).as_array(
                dataset,
                raw=True,
                correct_unused_bits=False,  # type: ignore[arg-type]
                decoding_plugin=_PLUGINS.get(syntax, ""),
            )
    except (UserError, MemoryError, KeyboardInterrupt, RunStoppedError, SystemExit):
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


def _find_syntax(dataset: Dataset, path: Path) -> uid.UID:
    """Returns the transfer syntax, after comparing it with the pixels."""
    is_compressed = dataset.PixelData[:4] == _ITEM
    found = uid.UID(dataset.file_meta.get("TransferSyntaxUID", ""))
    if not found and not is_compressed:
        found = dataset.file_meta.TransferSyntaxUID = (
            uid.ExplicitVRLittleEndian
            if dataset.original_encoding[1]
            else uid.ExplicitVRBigEndian
        )
    claims = found.is_transfer_syntax and found.is_encapsulated
    if not found or claims != is_compressed:
        said = "says otherwise" if found else "is missing"
        kind = "compressed" if is_compressed else "not compressed"
        raise UserError(
            f"{path}: its pixels are {kind}, but its TransferSyntaxUID {said}; export"
            " it again from where it came from, or correct the attribute"
        )
    return found


def _find_padding(
    pixels: UInt16[np.ndarray, "h w"], dataset: Dataset
) -> Bool[np.ndarray, "h w"] | None:
    """Finds the pixels of PixelPaddingValue (0028,0120) that are connected to an edge.

    Others with the same value are saturated tissue.
    """
    first = dataset.get("PixelPaddingValue")
    if not isinstance(first, int):
        return None
    last = dataset.get("PixelPaddingRangeLimit")
    values = (first, last if isinstance(last, int) else first)
    is_signed = dataset.get("PixelRepresentation") == 1
    lowest, highest = (
        value + (1 << (dataset.BitsStored - 1)) * is_signed for value in sorted(values)
    )
    padding: np.ndarray = (pixels >= lowest) & (pixels <= highest)
    if not padding.any() or padding.all():
        return None
    count, labels = cv2.connectedComponents(padding.astype(np.uint8), connectivity=4)
    at_edge = np.zeros(count, bool)
    for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        at_edge[edge] = True
    padding &= at_edge[labels]
    return padding


def _read_uncompressed(dataset: Dataset) -> np.ndarray:
    """Returns the pixels where they lie; pydicom would copy them."""
    rows, columns = dataset.Rows, dataset.Columns
    kind = _container_type(dataset)
    return np.frombuffer(dataset.PixelData, kind, rows * columns).reshape(rows, columns)


def _decode_rle(dataset: Dataset) -> np.ndarray:
    """Decodes RLE Lossless (PS3.5 Annex G): a segment a byte of a value, high first.

    In half the time of pydicom's decoders, and with surplus bytes behind a segment.

    Raises:
      ValueError: a segment is damaged, or they are of another number or size.
    """
    container, size = _container_type(dataset), dataset.Rows * dataset.Columns
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    header = frame[: 4 * (container.itemsize + 1)]
    said, *offsets = np.frombuffer(header, "<u4").tolist()
    if said != container.itemsize:
        raise ValueError("the frame has another number of segments")
    ends = (*offsets[1:], len(frame))
    segments = [frame[a:b] for a, b in zip(offsets, ends, strict=True)]
    planes = [_decode_segment(segment, size) for segment in reversed(segments)]
    values = np.stack([np.frombuffer(plane, np.uint8) for plane in planes], axis=1)
    return values.view(container).reshape(dataset.Rows, dataset.Columns)


def _decode_segment(segment: bytes, size: int) -> bytes:
    for surplus in range(_MAX_SURPLUS + 1):
        with contextlib.suppress(imagecodecs.PackbitsError):
            packed = segment[: len(segment) - surplus]
            decoded = imagecodecs.packbits_decode(packed, out=size + _MAX_SURPLUS)
            if len(decoded) >= size:
                return bytes(decoded[:size])
    raise ValueError("a segment is damaged")


def _container_type(dataset: Dataset) -> np.dtype:
    kind = "i" if dataset.get("PixelRepresentation") == 1 else "u"
    return np.dtype(f"<{kind}{dataset.BitsAllocated // 8}")


# Read without pydicom's decoders.
_PLAIN = {
    uid.ImplicitVRLittleEndian: _read_uncompressed,
    uid.ExplicitVRLittleEndian: _read_uncompressed,
    uid.RLELossless: _decode_rle,
}


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
    whole = codestreams.cut_at_end(frame)
    if whole is None:
        raise ValueError("the codestream has no end")
    return whole


def _unsigned(values: np.ndarray, dataset: Dataset) -> UInt16[np.ndarray, "h w"]:
    """Takes overlay bits off, and shifts signed values up."""
    bits_stored = dataset.BitsStored
    unsigned = values.view(values.dtype.str.replace("i", "u"))  # keeps the byte order
    container = unsigned.astype(np.uint16, copy=False)
    syntax = dataset.file_meta.TransferSyntaxUID
    # The other codecs return the bits at the low end of their container.
    if syntax == uid.RLELossless or not syntax.is_encapsulated:
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
