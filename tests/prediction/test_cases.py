"""Files as people really have them, each with its right answer, in one table."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, RLELossless
from raw_files import make_dataset, save

from mammo_jax.images.grid import Grid
from mammo_jax.prediction.reading import Input, Problem, reading

FILM, DETECTOR = Grid(128, 96, False), Grid(128, 96, True)
FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.2.1"


def _breast() -> np.ndarray:
    """Twelve bits: a textured half ellipse on black, and a saturated spot."""
    y, x = np.mgrid[0:240, 0:180].astype(np.float32)
    inside = np.hypot((y - 120) / 100, x / 130) < 1
    texture = np.random.default_rng(0).normal(size=(9, 7)).astype(np.float32)
    value = 0.45 + 0.1 * cv2.resize(texture, (180, 240))
    value[(np.hypot(y - 100, x - 60) < 8)] = 1
    return (np.clip(value * inside, 0, 1) * 4095).astype(np.uint16)


BREAST = _breast()
WIDE = (BREAST.astype(np.uint32) * 65535 // 4095).astype(np.uint16)
PADDED = np.where(np.arange(180) >= 150, np.uint16(4095), BREAST)
BARE = np.where(np.arange(180) >= 150, np.uint16(0), BREAST)


def _dicom(pixels=BREAST, bits=12, **attributes) -> Callable[[Path], Path]:
    facts = {"BitsStored": bits, "HighBit": bits - 1} | attributes
    return lambda folder: save(make_dataset(pixels, **facts), folder / "a.dcm")


def _tiff(pixels, **options) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        tifffile.imwrite(folder / "a.tif", pixels, **options)
        return folder / "a.tif"

    return write


def _raw(name: str, content: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


def _changed(change: Callable[[bytes], bytes], **options) -> Callable[[Path], Path]:
    """A DICOM file whose bytes were changed after it was written."""

    def write(folder: Path) -> Path:
        path = _dicom(**options)(folder)
        path.write_bytes(change(path.read_bytes()))
        return path

    return write


def _framed(
    change: Callable[[bytes], bytes], syntax: str, pixels=BREAST
) -> Callable[[Path], Path]:
    """A compressed file whose frame was changed."""

    def write(folder: Path) -> Path:
        bits = 12 if pixels.itemsize == 2 else 8
        dataset = make_dataset(pixels, BitsStored=bits, HighBit=bits - 1)
        if syntax == JPEGBaseline8Bit:
            frame = cv2.imencode(".jpg", pixels)[1].tobytes()
            dataset.file_meta.TransferSyntaxUID = syntax
        else:
            plugin = "pydicom" if syntax == RLELossless else "pylibjpeg"
            dataset.compress(syntax, encoding_plugin=plugin)
            frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
        dataset.PixelData = encapsulate([change(frame)])
        dataset["PixelData"].VR = "OB"
        dataset["PixelData"].is_undefined_length = True
        return save(dataset, folder / "a.dcm")

    return write


def _surplus(surplus: bytes) -> Callable[[bytes], bytes]:
    """Puts bytes behind the first segment of an RLE frame."""

    def change(frame: bytes) -> bytes:
        header = np.frombuffer(frame[:64], "<u4").copy()
        second = int(header[2])
        header[2] += len(surplus)
        return header.tobytes() + frame[64:second] + surplus + frame[second:]

    return change


def _code(value: str, modifier: str = "") -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", "x"
    if modifier:
        item.ViewModifierCodeSequence = [_code(modifier)]
    return item


def _without_syntax(content: bytes) -> bytes:
    """Calls TransferSyntaxUID by the number of a private element of the same group."""
    return content.replace(b"\x02\0\x10\0UI", b"\x02\0\x11\0UI", 1)


def _says(syntax: bytes) -> Callable[[bytes], bytes]:
    plain = b"UI\x14\x001.2.840.10008.1.2.1\0"
    return lambda content: content.replace(
        plain, b"UI" + len(syntax).to_bytes(2, "little") + syntax, 1
    )


def _many_scans(content: bytes) -> bytes:
    start = content.rindex(b"\xff\xda")
    return content[:start] + content[start:-2] * 40 + content[-2:]


def _pgm(maximum: int, pixels: np.ndarray) -> bytes:
    size = f"P5\n# made up\n{pixels.shape[1]} {pixels.shape[0]}\n{maximum}\n"
    return size.encode() + pixels.astype(">u2").tobytes()


def _multi_frame(folder: Path) -> Path:
    path = _dicom(NumberOfFrames=3)(folder)
    path.write_bytes(path.read_bytes().replace(b"IS\x02\x003 ", b"IS\x02\x00JD"))
    return path


# Name: how the file is written, the grid, and the pixels that it must equal or a part
# of what must be said.
CASES = {
    # polarity
    "plain": (_dicom(), FILM, BREAST),
    "MONOCHROME1": (
        _dicom(4095 - BREAST, PhotometricInterpretation="MONOCHROME1"),
        *(FILM, BREAST),
    ),
    "negative slope": (
        _dicom(4095 - BREAST, RescaleSlope="-1", RescaleIntercept="4095"),
        *(FILM, BREAST),
    ),
    "negative slope of MONOCHROME1": (
        _dicom(
            BREAST,
            RescaleSlope="-1",
            PhotometricInterpretation="MONOCHROME1",
        ),
        *(FILM, BREAST),
    ),
    "two slopes": (_dicom(RescaleSlope=["-1", "1"]), FILM, BREAST),
    "positive slope": (
        _dicom(RescaleSlope="2", RescaleIntercept="-1000"),
        *(FILM, BREAST),
    ),
    "16-bit TIFF, black is zero": (_tiff(WIDE), FILM, WIDE),
    "16-bit TIFF, white is zero": (
        _tiff(65535 - WIDE, photometric="miniswhite"),
        *(FILM, WIDE),
    ),
    "8-bit TIFF, white is zero": (
        _tiff((255 - (WIDE >> 8)).astype(np.uint8), photometric="miniswhite"),
        *(FILM, (WIDE >> 8) * np.uint16(257)),
    ),
    "compressed TIFF, white is zero": (
        _tiff(65535 - WIDE, photometric="miniswhite", compression="zlib"),
        *(FILM, WIDE),
    ),
    "Modality LUT": (
        _dicom(ModalityLUTSequence=[Dataset()]),
        *(FILM, "has a Modality LUT"),
    ),
    # range
    "12 bits in 16, film's model": (_dicom(bits=16), FILM, "a sixteenth of the range"),
    "12 bits in 16, stretching model": (_dicom(bits=16), DETECTOR, BREAST),
    "12 bits in int16, film's model": (
        _dicom(BREAST.astype(np.int16), bits=16),
        *(FILM, "a sixteenth of the range"),
    ),
    "12 bits in int16, stretching model": (
        _dicom(BREAST.astype(np.int16), bits=16),
        *(DETECTOR, BREAST),
    ),
    "14 bits in 16": (_dicom(BREAST * 4, bits=16), FILM, WIDE // 4),
    "PGM of 12 bits": (_raw("a.pgm", _pgm(4095, BREAST)), FILM, BREAST),
    "PGM of 16 bits": (_raw("a.pgm", _pgm(65535, WIDE)), FILM, WIDE),
    "PGM of 12 bits that says 16": (
        _raw("a.pgm", _pgm(65535, BREAST)),
        *(FILM, "a sixteenth of the range"),
    ),
    "TIFF with the highest value": (
        _tiff(BREAST, extratags=[(281, "H", 1, 4095, True)]),
        *(FILM, BREAST),
    ),
    "TIFF of 12 bits that says 16": (_tiff(BREAST), FILM, "a sixteenth of the range"),
    # padding and intent
    "white padding": (_dicom(PADDED, PixelPaddingValue=4095), FILM, BARE),
    "white padding, stretched": (
        _dicom(PADDED, PixelPaddingValue=4095),
        DETECTOR,
        BARE,
    ),
    "a range of padding": (
        _dicom(
            np.where(np.arange(180) >= 150, np.uint16(4000), BREAST),
            PixelPaddingValue=3990,
            PixelPaddingRangeLimit=4010,
        ),
        *(FILM, BARE),
    ),
    "padding of MONOCHROME1": (
        _dicom(
            4095 - np.where(np.arange(180) >= 150, np.uint16(4095), BREAST),
            PhotometricInterpretation="MONOCHROME1",
            PixelPaddingValue=0,
        ),
        *(FILM, BARE),
    ),
    "signed padding": (
        _dicom(
            np.where(np.arange(180) >= 150, -2048, BREAST.astype(np.int16) // 2).astype(
                np.int16
            ),
            PixelPaddingValue=-2048,
        ),
        *(DETECTOR, BARE // 2),
    ),
    "saturated tissue is no padding": (
        _dicom(PixelPaddingValue=4095),
        *(FILM, BREAST),
    ),
    "padding that does not occur": (_dicom(PixelPaddingValue=4094), FILM, BREAST),
    "raw by intent": (
        _dicom(PresentationIntentType="FOR PROCESSING"),
        *(FILM, "FOR PROCESSING"),
    ),
    "raw by class": (_dicom(SOPClassUID=FOR_PROCESSING), FILM, "FOR PROCESSING"),
    "a window": (_dicom(WindowCenter=9, WindowWidth=2), FILM, BREAST),
    # which images count
    "magnified": (
        _dicom(ViewCodeSequence=[_code("399162004", "399163009")]),
        *(FILM, "a magnification view"),
    ),
    "magnified, old code": (
        _dicom(ViewCodeSequence=[_code("R-10242", "R-102D6")]),
        *(FILM, "a magnification view"),
    ),
    "spot": (
        _dicom(ViewCodeSequence=[_code("399162004", "399055006")]),
        *(FILM, "a spot compression view"),
    ),
    "specimen": (_dicom(ViewCodeSequence=[_code("127457009")]), FILM, "a specimen"),
    # good files
    "RLE with a zero behind a segment": (
        _framed(_surplus(b"\0\0"), RLELossless),
        *(FILM, BREAST),
    ),
    "RLE with a byte behind a segment": (
        _framed(_surplus(b"\x05"), RLELossless),
        *(FILM, BREAST),
    ),
    "RLE with a segment too many": (
        _framed(lambda frame: b"\3" + frame[1:], RLELossless),
        *(FILM, "truncated or damaged"),
    ),
    "RLE without half a segment": (
        _framed(lambda frame: frame[: len(frame) * 3 // 4], RLELossless),
        *(FILM, "truncated or damaged"),
    ),
    "JPEG 2000 with bytes behind its end": (
        _framed(lambda frame: frame + bytes(500), JPEG2000Lossless),
        *(FILM, BREAST),
    ),
    "JPEG 2000 without its end": (
        _framed(lambda frame: frame[:-40], JPEG2000Lossless),
        *(FILM, "truncated or damaged"),
    ),
    "JPEG with its end in a comment only": (
        _framed(
            lambda frame: frame[:2] + b"\xff\xfe\x00\x04\xff\xd9" + frame[2:-200],
            *(JPEGBaseline8Bit, (BREAST >> 4).astype(np.uint8)),
        ),
        *(FILM, "truncated or damaged"),
    ),
    "no preamble": (_changed(lambda content: content[132:]), FILM, BREAST),
    "no preamble, no file meta": (
        _changed(lambda content: content[content.index(b"\x08\0\x16\0UI") :]),
        *(FILM, BREAST),
    ),
    "no TransferSyntaxUID": (_changed(_without_syntax), FILM, BREAST),
    "raw pixels called JPEG": (
        _changed(_says(b"1.2.840.10008.1.2.4.50")),
        *(FILM, "not compressed, but its TransferSyntaxUID says otherwise"),
    ),
    # hostile
    "text for the number of frames": (_multi_frame, FILM, "holds several frames"),
    "a JPEG of many scans": (
        _framed(_many_scans, JPEGBaseline8Bit, (BREAST >> 4).astype(np.uint8)),
        *(FILM, "in more than 32 scans"),
    ),
    "a picture of many scans": (
        _raw("a.jpg", _many_scans(cv2.imencode(".jpg", BREAST >> 4)[1].tobytes())),
        *(FILM, "in more than 32 scans"),
    ),
    "thousands of empty items": (
        _dicom(ViewCodeSequence=[Dataset()] * 10_001),
        *(FILM, "more than 10000 items"),
    ),
    "a TIFF of two pictures": (
        _tiff(np.stack([WIDE, WIDE]), photometric="minisblack"),
        *(FILM, "holds several pictures"),
    ),
    "text": (_raw("a.dcm", b"no image at all"), FILM, "not a DICOM file"),
    "empty": (_raw("a.dcm", b""), FILM, "not a DICOM file"),
    "wider than OpenCV takes": (
        _tiff(np.zeros((2, (1 << 20) + 8), np.uint8), compression="zlib"),
        *(FILM, "damaged picture, or too large"),
    ),
}


def _read(path: Path, *grids: Grid) -> Input | Problem:
    with reading([path], grids, with_original=False) as found:
        (one,) = found
    return one


@pytest.mark.parametrize("name", CASES)
def test_a_file_has_its_pixels_or_a_reason(tmp_path, name):
    write, grid, right = CASES[name]
    found = _read(write(tmp_path), grid)
    if isinstance(right, str):
        assert isinstance(found, Problem)
        assert right in found.reason
        return
    folder = tmp_path / "reference"
    bits = 12 if right.max() < 4096 else 16
    expected = _read(_dicom(right, bits=bits)(folder), grid)
    assert isinstance(found, Input), found.reason
    difference = found.grids[grid].astype(int) - expected.grids[grid]
    assert np.abs(difference).max() <= 16  # rounding, of 65535


@pytest.mark.parametrize(
    ("attributes", "laterality", "view"),
    [
        ({"ViewPosition": "MLO", "ImageLaterality": "L"}, "LEFT", "MLO"),
        ({"ViewPosition": "CC", "Laterality": "R"}, "RIGHT", "CC"),
        ({"ViewCodeSequence": [_code("399162004")]}, "", "CC"),
        ({"ViewCodeSequence": [_code("399368009")]}, "", "MLO"),
        ({"ViewCodeSequence": [_code("R-10226")]}, "", "MLO"),
        ({"ViewCodeSequence": [_code("399260004")], "ViewPosition": ""}, "", "ML"),
        ({"ViewCodeSequence": [_code("399352003")]}, "", "LM"),
        ({"ViewCodeSequence": [_code("399099002")]}, "", "LMO"),
        ({"ViewCodeSequence": [_code("399192008")]}, "", "XCCL"),
        ({"ViewPosition": "AT"}, "", "AT"),
        ({"ViewPosition": "CC", "ViewCodeSequence": [_code("399368009")]}, "", "CC"),
        ({"ViewCodeSequence": [_code("0")]}, "", ""),
        ({"ViewCodeSequence": []}, "", ""),
        ({"PatientOrientation": "MLO", "ViewPosition": ""}, "", "MLO"),
        ({"PatientOrientation": ["A", "R"]}, "", ""),
    ],
)
def test_side_and_view_wherever_the_standard_has_them(
    tmp_path, attributes, laterality, view
):
    found = _read(_dicom(**attributes)(tmp_path))
    assert isinstance(found, Input)
    assert (found.laterality, found.view) == (laterality, view)
