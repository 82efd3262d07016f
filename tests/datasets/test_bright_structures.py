import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mammo_jax.datasets.bright_structures import find_bright_structures

SHAPE = (320, 240)


def draw_breast(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Half a disc of smooth tissue with grain, and where it is."""
    random = np.random.default_rng(seed)
    breast = np.zeros(SHAPE, np.uint8)
    cv2.circle(breast, (0, 160), 150, 1, -1)
    tissue = cv2.GaussianBlur(random.normal(0, 1, SHAPE), (0, 0), 25)
    grey = 20000 + 3000 * tissue / tissue.std() + random.normal(0, 300, SHAPE)
    return (breast * grey).clip(0, 65535).astype(np.uint16), breast.astype(bool)


def add_lump(image: np.ndarray, row: int, column: int, sigma: float) -> np.ndarray:
    rows, columns = np.indices(SHAPE)
    distance = (rows - row) ** 2 + (columns - column) ** 2
    return (image + 12000 * np.exp(-distance / (2 * sigma**2))).astype(np.uint16)


@given(
    st.integers(70, 250), st.integers(20, 80), st.floats(2.0, 6.0), st.integers(0, 99)
)
@settings(max_examples=25)
def test_the_brightest_lump_comes_first(row, column, sigma, seed):
    image, breast = draw_breast(seed)

    centres = find_bright_structures(add_lump(image, row, column, sigma), breast, 56)

    assert np.abs(centres[0] - [row, column]).max() <= 2


@pytest.mark.parametrize("factor", [1, 4])
def test_places_are_in_pixels_of_any_grid(factor):
    image, breast = draw_breast()
    image = add_lump(image, 120, 60, 5)
    size = SHAPE[1] * factor, SHAPE[0] * factor
    larger = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    inside = cv2.resize(breast.astype(np.uint8), size) > 0

    centres = find_bright_structures(larger, inside, 56 * factor)

    assert np.abs(centres[0] - np.array([120, 60]) * factor).max() <= 3 * factor


@given(st.integers(0, 10**6), st.integers(20, 200))
@settings(max_examples=25)
def test_structures_lie_apart_on_the_breast(seed, patch_size):
    image, breast = draw_breast(seed)

    centres = find_bright_structures(image, breast, patch_size)

    assert 0 < len(centres) <= 20
    near_breast = cv2.dilate(breast.astype(np.uint8), np.ones((5, 5))) > 0
    for number, centre in enumerate(centres):
        assert near_breast[tuple(centre)]
        distances = np.abs(centres[:number] - centre).max(axis=1, initial=0)
        assert (distances >= patch_size // 4 - 2).all()


def test_neither_skin_line_nor_marker_nor_film_border_is_a_structure():
    _, breast = draw_breast()
    image = 20000 * breast.astype(np.uint16)
    image[5:20, 200:230] = 65535
    image[:, :4] = 65535

    assert len(find_bright_structures(image, breast, 56)) == 0


def test_no_breast_no_structures():
    image, breast = draw_breast()

    assert len(find_bright_structures(image, np.zeros_like(breast), 56)) == 0
