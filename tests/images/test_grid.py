import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mammo_jax.images.grid import (
    mask_to_grid,
    shrink,
    stretch_to_full_range,
    to_grid,
)


def bicubic_matrix(size: int, new_size: int) -> np.ndarray:
    """Weights of Keys's cubic convolution with a = -0.75, edges repeated."""
    a = -0.75
    matrix = np.zeros((new_size, size))
    for row in range(new_size):
        position = (row + 0.5) * size / new_size - 0.5
        for tap in range(int(np.floor(position)) - 1, int(np.floor(position)) + 3):
            x = abs(position - tap)
            near = (a + 2) * x**3 - (a + 3) * x**2 + 1
            far = a * (x**3 - 5 * x**2 + 8 * x - 4)
            weight = near if x <= 1 else far if x < 2 else 0
            matrix[row, np.clip(tap, 0, size - 1)] += weight
    return matrix


@pytest.mark.parametrize(
    ("shape", "grid"),
    [((173, 131), (48, 40)), ((30, 20), (48, 40)), ((96, 80), (48, 40))],
)
def test_grid_is_bicubic_on_the_integers(shape, grid):
    pixels = np.random.default_rng(0).integers(0, 65536, shape).astype(np.uint16)

    gridded = to_grid(pixels, *grid)

    exact = (
        bicubic_matrix(shape[0], grid[0])
        @ pixels.astype(float)
        @ bicubic_matrix(shape[1], grid[1]).T
    )
    assert gridded.dtype == np.uint16
    np.testing.assert_allclose(gridded, np.clip(exact, 0, 65535), atol=1)


def test_an_image_on_the_grid_is_left_alone():
    pixels = np.arange(48 * 40, dtype=np.uint16).reshape(48, 40)

    np.testing.assert_array_equal(to_grid(pixels, 48, 40), pixels)


def test_overshoot_is_clipped_and_does_not_wrap():
    pixels = np.zeros((40, 40), np.uint16)
    pixels[:, 20:] = 65535

    gridded = to_grid(pixels, 100, 100)

    assert gridded[:, :40].max() < 5000
    assert gridded[:, 60:].min() > 60000


@given(arrays.arrays(np.uint16, (7, 5)))
def test_stretch_reaches_both_ends_and_keeps_order(pixels):
    stretched = stretch_to_full_range(pixels)

    if pixels.min() == pixels.max():
        assert not stretched.any()
    else:
        assert (stretched.min(), stretched.max()) == (0, 65535)
        span = int(pixels.max()) - int(pixels.min())
        exact = (pixels.astype(float) - pixels.min()) * 65535 / span
        np.testing.assert_allclose(stretched, exact, atol=0.51)


def test_stretch_comes_before_the_grid():
    pixels = np.random.default_rng(0).integers(100, 4000, (60, 50)).astype(np.uint16)

    stretched = to_grid(pixels, 30, 20, stretch=True)

    np.testing.assert_array_equal(
        stretched, to_grid(stretch_to_full_range(pixels), 30, 20)
    )


@given(
    st.integers(20, 200),
    st.integers(20, 200),
    st.integers(0, 10**6),
    st.sampled_from([1, 255]),
)
def test_masks_cover_the_same_share_of_the_grid(height, width, seed, value):
    random = np.random.default_rng(seed)
    mask = np.zeros((height, width), np.uint8)
    centre = (int(random.integers(width)), int(random.integers(height)))
    axes = (int(random.integers(width // 4, width)), int(random.integers(5, height)))
    cv2.ellipse(mask, centre, axes, 0, 0, 360, value, -1)

    gridded = mask_to_grid(mask, 48, 40)

    assert gridded.dtype == bool
    assert abs(gridded.mean() - (mask != 0).mean()) < 0.06
    large = cv2.resize(gridded.astype(np.uint8), (width, height), interpolation=0)
    assert (large != (mask != 0)).mean() < 0.12


@given(st.integers(0, 199), st.integers(0, 149), st.integers(1, 3))
def test_the_smallest_lesion_stays_where_it_is(row, column, size):
    mask = np.zeros((200, 150), np.uint8)
    mask[row : row + size, column : column + size] = 255

    gridded = mask_to_grid(mask, 20, 15)

    rows, columns = np.nonzero(gridded)
    assert len(rows)
    assert abs(rows.mean() - row / 10) <= 1.2
    assert abs(columns.mean() - column / 10) <= 1.2


def test_an_empty_mask_stays_empty():
    assert not mask_to_grid(np.zeros((50, 40)), 20, 15).any()


@pytest.mark.parametrize(
    ("shape", "scale", "expected"),
    [
        ((40, 30), 0.5, (20, 15)),
        ((40, 30, 3), 0.5, (20, 15, 3)),
        ((40, 1), 0.1, (4, 1)),
    ],
)
def test_shrinking_averages(shape, scale, expected):
    image = np.full(shape, 0.25, np.float32)
    image[::2] = 0.75
    small = shrink(image, scale)
    assert small.shape == expected
    np.testing.assert_allclose(small, 0.5)


def test_an_image_is_not_enlarged():
    image = np.arange(12, dtype=np.uint16).reshape(3, 4)
    assert shrink(image, 1.7) is image
