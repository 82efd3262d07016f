"""The paper's transformations, against scipy and against hand-made cases."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from mammo_jax.datasets import augment

ONLY_FLIPS = augment.Augmentation(0.0, 0.0, (1.0, 1.0), 0.0)


def _smooth_image(height: int, width: int) -> np.ndarray:
    noise = np.random.default_rng(0).uniform(0, 65535, (height, width))
    return cv2.GaussianBlur(noise, (0, 0), 3).astype(np.uint16)


@given(
    rotation=st.floats(-0.44, 0.44),
    shear=st.floats(-0.2, 0.2),
    zoom=st.tuples(st.floats(0.8, 1.2), st.floats(0.8, 1.2)),
)
def test_warp_equals_scipys_nearest_affine_with_edge_fill(rotation, shear, zoom):
    image = _smooth_image(48, 36)
    matrix = augment.affine_matrix(rotation, shear, zoom, *image.shape)
    expected = ndimage.affine_transform(
        image, matrix[:, :2], matrix[:, 2], order=0, mode="nearest"
    )
    # A sample within OpenCV's fixed-point step of the middle between two pixels
    # may be rounded either way; everywhere else the two agree exactly.
    rows, columns = np.indices(image.shape)
    source = np.einsum("ij,jhw->ihw", matrix, [rows, columns, np.ones_like(rows)])
    tie = (np.abs(source % 1 - 0.5) < 1 / 64).any(0)
    warped = augment.warp_nearest(image, matrix)
    np.testing.assert_array_equal(warped[~tie], expected[~tie])


def test_identity_leaves_the_image_alone():
    image = _smooth_image(20, 30)
    result, shift = augment.augment_image(
        image, np.random.default_rng(1), augment.NO_AUGMENTATION
    )
    np.testing.assert_array_equal(result, image)
    np.testing.assert_array_equal(shift, np.zeros(3))


def test_zoom_above_one_shows_more_of_the_image():
    image = np.zeros((41, 41), np.uint16)
    image[10:31, 10:31] = 1000
    matrix = augment.affine_matrix(0.0, 0.0, (1.2, 0.8), 41, 41)
    square = augment.warp_nearest(image, matrix) > 0
    assert (
        np.ptp(np.flatnonzero(square.any(1)))
        < 20
        < np.ptp(np.flatnonzero(square.any(0)))
    )


def test_all_four_flips_occur_equally_often():
    image = np.arange(6, dtype=np.uint16).reshape(2, 3)
    corners = [
        int(augment.augment_image(image, np.random.default_rng(i), ONLY_FLIPS)[0][0, 0])
        for i in range(400)
    ]
    counts = [corners.count(value) for value in (0, 2, 3, 5)]
    assert sum(counts) == 400
    assert min(counts) > 70


@pytest.mark.parametrize("seed", range(3))
def test_channel_shift_is_drawn_per_channel_within_its_range(seed):
    _, shift = augment.augment_image(
        _smooth_image(8, 8), np.random.default_rng(seed), augment.Augmentation()
    )
    assert shift.shape == (3,)
    assert len(set(shift.tolist())) == 3
    assert np.abs(shift).max() <= 20


def test_same_generator_state_gives_the_same_image():
    image = _smooth_image(32, 32)
    first, second = (
        augment.augment_image(image, np.random.default_rng(5), augment.Augmentation())
        for _ in range(2)
    )
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
