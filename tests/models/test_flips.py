"""Four-flip averaging against flipping by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mammo_jax.models.flips import FLIPS, NO_FLIP, average_over_flips, on_flips

IMAGES = np.random.default_rng(0).normal(size=(3, 5, 4, 2)).astype(np.float32)
WEIGHTS = np.random.default_rng(1).normal(size=(5, 4, 2)).astype(np.float32)


def _score(images):
    return {"score": jnp.tanh((images * WEIGHTS).sum((1, 2, 3))), "map": images[..., 0]}


@pytest.mark.parametrize("at_once", [True, False])
def test_the_average_is_that_of_four_flipped_images(at_once):
    by_hand = np.mean(
        [
            _score(np.stack([flip(image) for image in IMAGES]))["score"]
            for flip in (np.array, np.fliplr, np.flipud, lambda x: np.rot90(x, 2))
        ],
        axis=0,
    )
    found = jax.jit(lambda x: average_over_flips(_score, x, at_once=at_once))(IMAGES)
    np.testing.assert_allclose(found["score"], by_hand, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("flips", [FLIPS, NO_FLIP])
def test_every_flip_is_seen_once_in_its_place(flips, at_once):
    found = on_flips(_score, jnp.array(IMAGES), flips, at_once=at_once)
    assert found["map"].shape == (len(flips), *IMAGES.shape[:3])
    for axes, seen in zip(flips, found["map"], strict=True):
        np.testing.assert_array_equal(np.flip(seen, list(axes)), IMAGES[..., 0])
    assert len({np.asarray(seen).tobytes() for seen in found["map"]}) == len(flips)


def test_a_symmetric_image_scores_as_without_flips():
    flat = jnp.full((1, 4, 4, 1), 3.0)
    score = lambda x: x.mean((1, 2, 3))  # noqa: E731
    assert average_over_flips(score, flat, at_once=True) == score(flat)
