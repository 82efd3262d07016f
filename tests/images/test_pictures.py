import contextlib
import os

import cv2
import numpy as np
import pytest
from PIL import Image, TiffImagePlugin
from raw_files import write_dicom

from mammo_jax.common.errors import UserError
from mammo_jax.images.pictures import read_image

RANDOM = np.random.default_rng(0)
DEEP = RANDOM.integers(0, 65536, (70, 50)).astype(np.uint16)
SHALLOW = (DEEP >> 8).astype(np.uint8)


@pytest.mark.parametrize("ending", [".png", ".tif", ".TIFF", ".pgm", ".dcm"])
@pytest.mark.parametrize("pixels", [DEEP, SHALLOW])
def test_lossless_formats_keep_every_bit(tmp_path, ending, pixels):
    path = tmp_path / f"a{ending}"
    if ending == ".dcm":
        write_dicom(path, pixels)
    else:
        assert cv2.imwrite(str(path), pixels)

    image = read_image(path)

    np.testing.assert_array_equal(image.pixels, pixels)
    assert image.pixels.dtype == np.uint16
    assert image.bits_stored == 8 * pixels.itemsize
    assert (image.rows, image.columns) == (70, 50)


@pytest.mark.parametrize("ending", [".jpg", ".jpeg"])
def test_jpeg_is_read(tmp_path, ending):
    smooth = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / f"a{ending}", format="JPEG", quality=95)

    image = read_image(tmp_path / f"a{ending}")

    np.testing.assert_allclose(image.pixels.astype(int), smooth, atol=4)


def test_grey_stored_as_colour_is_grey(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.repeat(SHALLOW[..., None], 3, axis=2))

    np.testing.assert_array_equal(read_image(tmp_path / "a.png").pixels, SHALLOW)


def test_colour_is_refused(tmp_path):
    colour = RANDOM.integers(0, 256, (70, 50, 3)).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), colour)

    with pytest.raises(UserError, match="in colour"):
        read_image(tmp_path / "a.png")


def test_floats_are_refused(tmp_path):
    cv2.imwrite(str(tmp_path / "a.tif"), DEEP.astype(np.float32))

    with pytest.raises(UserError, match="float32 values"):
        read_image(tmp_path / "a.tif")


def test_several_pages_are_refused(tmp_path):
    pages = [Image.fromarray(SHALLOW), Image.fromarray(SHALLOW)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])

    with pytest.raises(UserError, match="holds several pictures"):
        read_image(tmp_path / "a.tif")


def test_bombs_are_refused_by_their_header(tmp_path):
    """A few bytes that claim 60000 x 60000 pixels."""
    content = bytearray(cv2.imencode(".png", SHALLOW)[1].tobytes())
    content[16:24] = (60000).to_bytes(4, "big") * 2
    (tmp_path / "a.png").write_bytes(content)
    (tmp_path / "b.pgm").write_bytes(b"P5 60000 60000 255\n\0")

    with pytest.raises(UserError):
        read_image(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"pixels|not a PNG"):
        read_image(tmp_path / "b.pgm")


def encode(ending, pixels, *options):
    return cv2.imencode(ending, pixels, options)[1].tobytes()


# A breast on black film: the black compresses to almost nothing.
SMOOTH = cv2.GaussianBlur(np.repeat(SHALLOW, 4, axis=0), (5, 5), 0)
SMOOTH[:, 30:] = 0
WHOLE = {
    ".png": encode(".png", DEEP),
    ".tif": encode(".tif", DEEP),
    ".pgm": encode(".pgm", DEEP),
    ".jpg": encode(".jpg", SMOOTH),
    ".jpeg": encode(".jpg", SMOOTH, cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
}


@pytest.mark.parametrize("ending", WHOLE)
def test_a_cut_off_picture_is_damaged(tmp_path, ending):
    whole = WHOLE[ending]
    path = tmp_path / f"a{ending}"
    path.write_bytes(whole)
    read_image(path)

    for length in np.linspace(1, len(whole) - 8, 30).astype(int):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match="export it again"):
            read_image(path)


@pytest.mark.parametrize("ending", WHOLE)
def test_damage_anywhere_ends_in_a_clear_error_or_an_image(tmp_path, ending):
    """No input makes the reader fail in a way that its callers do not expect."""
    whole = WHOLE[ending]
    random = np.random.default_rng(1)
    path = tmp_path / f"a{ending}"

    for attempt in range(150):
        content = bytearray(whole)
        start = -min(len(whole), 250) if attempt % 2 else 0  # TIFF's header is last
        for at in random.integers(start, start + 250, 4):
            content[at] = random.integers(256)
        path.write_bytes(content)
        with contextlib.suppress(UserError):
            image = read_image(path)
            assert image.pixels.shape == (image.rows, image.columns)


@pytest.mark.parametrize("ending", [".jpg", ".jpeg"])
def test_a_jpeg_with_an_end_but_without_its_rest_is_damaged(tmp_path, ending):
    """As a tool leaves it that closes what was cut off; codecs fill it with grey."""
    whole = WHOLE[ending]
    path = tmp_path / f"a{ending}"

    for share in (0.5, 0.7, 0.9):
        path.write_bytes(whole[: int(share * len(whole))] + b"\xff\xd9")
        with pytest.raises(UserError, match="damaged JPEG"):
            read_image(path)


@pytest.mark.parametrize("ending", [".png", ".jpg"])
def test_a_picture_with_a_hole_is_damaged(tmp_path, ending):
    """As a disk or a transfer leaves it that lost a block."""
    whole = WHOLE[ending]
    half = len(whole) // 2
    path = tmp_path / f"a{ending}"
    path.write_bytes(whole[:half] + whole[half + 200 :])

    with pytest.raises(UserError, match="export it again"):
        read_image(path)


def test_a_jpeg_with_something_behind_its_end_is_read(tmp_path):
    (tmp_path / "a.jpg").write_bytes(WHOLE[".jpg"] + bytes(500))

    assert read_image(tmp_path / "a.jpg").pixels.shape == SMOOTH.shape


@pytest.mark.parametrize("content", [b"", b"GIF89a" + bytes(99), b"\x89PNG\r\n\x1a\n"])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)

    with pytest.raises(UserError, match="not a PNG, JPEG, TIFF or PGM"):
        read_image(tmp_path / "a.png")


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("ending", WHOLE)
def test_a_name_that_is_not_utf_8_is_read(tmp_path, ending):
    path = tmp_path / os.fsdecode(b"a\xff" + ending.encode())
    path.write_bytes(WHOLE[ending])

    assert read_image(path).pixels.ndim == 2
    path.write_bytes(WHOLE[ending][:-20])
    with pytest.raises(UserError, match="export it again"):
        read_image(path)


def test_changed_pixels_of_a_png_do_not_pass(tmp_path):
    """A changed byte of stored data decodes; only the checksum tells."""
    content = bytearray(encode(".png", SMOOTH, cv2.IMWRITE_PNG_COMPRESSION, 0))
    content[len(content) // 2 | 1] ^= 1
    (tmp_path / "a.png").write_bytes(content)

    with pytest.raises(UserError, match="damaged PNG"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("ending", WHOLE)
def test_libraries_say_nothing_beside_the_error(tmp_path, capfd, ending):
    path = tmp_path / f"a{ending}"
    path.write_bytes(WHOLE[ending][: len(WHOLE[ending]) * 2 // 3])

    with pytest.raises(UserError, match="export it again"):
        read_image(path)
    assert capfd.readouterr() == ("", "")


VALUES = np.array([[0, 50], [100, 120]], np.uint16)


def _write_pgm(path, kind, maximum, pixels):
    values = pixels.astype("u1" if maximum < 256 else ">u2").tobytes()
    body = values if kind == "P5" else " ".join(map(str, pixels.ravel())).encode()
    path.write_bytes(f"{kind}\n2 2\n{maximum}\n".encode() + body + b"\n")


@pytest.mark.parametrize(
    ("kind", "maximum", "factor", "bits"),
    [
        ("P5", 127, 1, 7),
        ("P5", 63, 1, 7),  # less than there is
        ("P5", 4095, 10, 12),
        ("P5", 1000, 10, 11),  # less than there is
        ("P2", 4095, 10, 12),
        ("P2", 120, 1, 8),  # OpenCV stretches it to 255
    ],
)
def test_the_bits_hold_the_values_of_a_pgm(tmp_path, kind, maximum, factor, bits):
    _write_pgm(tmp_path / "a.pgm", kind, maximum, VALUES * factor)

    image = read_image(tmp_path / "a.pgm")

    assert image.bits_stored == bits
    assert image.pixels.max() < 1 << bits


def test_the_bits_hold_the_values_of_a_tiff(tmp_path):
    Image.fromarray(DEEP).save(tmp_path / "a.tif", tiffinfo={281: 4095})

    assert read_image(tmp_path / "a.tif").bits_stored == 16


def test_a_tiff_whose_maximum_is_text_is_refused(tmp_path):
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[281], tags.tagtype[281] = "high", 2
    Image.fromarray(DEEP).save(tmp_path / "a.tif", tiffinfo=tags)

    with pytest.raises(UserError, match="not a PNG"):
        read_image(tmp_path / "a.tif")
