"""The PNG of the data sets, against OpenCV's."""

import struct

import cv2
import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mammo_jax.images.png import decode_png, encode_png

IMAGES = hnp.arrays(
    np.uint16, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=24)
)
GRADIENT = np.add.outer(np.arange(40), 700 * np.arange(30)).astype(np.uint16)


def _opencv_png(image: np.ndarray, *options: int) -> bytes:
    return cv2.imencode(".png", image, options)[1].tobytes()


@given(image=IMAGES, compress=st.booleans())
def test_opencv_reads_what_is_written(image, compress):
    png = np.frombuffer(encode_png(image, compress=compress), np.uint8)
    read = cv2.imdecode(png, cv2.IMREAD_UNCHANGED)
    assert read.dtype == np.uint16
    np.testing.assert_array_equal(read, image)


@given(image=IMAGES, compress=st.booleans())
def test_what_is_written_is_read_as_it_was(image, compress):
    read = decode_png(encode_png(image, compress=compress), *image.shape)
    assert read.dtype == np.uint16
    np.testing.assert_array_equal(read, image)


@pytest.mark.parametrize("kind", ["NONE", "SUB", "UP", "AVG", "PAETH"], ids=str.lower)
@pytest.mark.parametrize("level", [0, 1, 6])
def test_every_filter_of_opencvs_files_is_read(kind, level):
    png = _opencv_png(
        GRADIENT,
        *(cv2.IMWRITE_PNG_FILTER, getattr(cv2, f"IMWRITE_PNG_FILTER_{kind}")),
        *(cv2.IMWRITE_PNG_COMPRESSION, level),
    )
    np.testing.assert_array_equal(decode_png(png, 40, 30), GRADIENT)


def test_pixels_in_several_chunks_are_read():
    noise = np.random.default_rng(0).integers(0, 65536, (300, 200)).astype(np.uint16)
    png = _opencv_png(noise)
    assert png.count(b"IDAT") > 1
    np.testing.assert_array_equal(decode_png(png, 300, 200), noise)


def test_a_view_into_another_image_is_written_as_it_looks():
    view = GRADIENT[::2, ::-3]
    np.testing.assert_array_equal(decode_png(encode_png(view), *view.shape), view)


def test_film_is_written_no_larger_than_by_opencv():
    random = np.random.default_rng(0)
    film = cv2.GaussianBlur(random.normal(30000, 20000, (576, 448)), (0, 0), 12)
    film = (film + random.normal(0, 90, film.shape)).clip(0, 65535).astype(np.uint16)
    assert len(encode_png(film)) <= 1.01 * len(_opencv_png(film))


@pytest.mark.parametrize(
    "png",
    [
        b"",
        b"no picture",
        encode_png(GRADIENT)[:-40],
        encode_png(GRADIENT)[:200],
        encode_png(GRADIENT).replace(b"IDAT", b"IXAT"),
        encode_png(GRADIENT[:-1]),
        encode_png(GRADIENT).replace(
            struct.pack(">II", 30, 40), struct.pack(">II", 60_000, 60_000)
        ),
        cv2.imencode(".tiff", GRADIENT)[1].tobytes(),
        _opencv_png(GRADIENT.astype(np.uint8)),
        _opencv_png(np.dstack([GRADIENT] * 3)),
    ],
    ids=[
        "empty",
        "text",
        "cut",
        "cut early",
        "no pixels",
        "small",
        "huge",
        "TIFF",
        "8-bit",
        "colour",
    ],
)
def test_what_is_not_the_expected_image_is_refused(png):
    with pytest.raises(ValueError, match="damaged or not 40x30"):
        decode_png(png, 40, 30)


@given(position=st.integers(0, 10_000), value=st.integers(0, 255))
def test_a_changed_byte_is_refused_or_changes_nothing(position, value):
    png = bytearray(encode_png(GRADIENT))
    png[position % len(png)] = value
    try:
        read = decode_png(bytes(png), 40, 30)
    except ValueError:
        return
    np.testing.assert_array_equal(read, GRADIENT)
