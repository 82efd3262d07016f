"""A patch classifier slid over whole images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mammo_jax.common.errors import UserError
from mammo_jax.models import TOPS, build_model, default_model_config, read_model_config
from mammo_jax.models.network_input import network_input

PIXEL_MEAN = 40.0
WINDOW, PATCH = 2, 64


def patch_model(**changes):
    """A narrow VGG16 patch classifier for patches of 64 pixels."""
    config = default_model_config()
    config.update({"trunk": "vgg16", "width": 0.05, "num_classes": 5} | changes)
    config.top.update(TOPS["patch"])
    return build_model(read_model_config(config), 0)


def batch_of(height, width, count=2):
    rng = np.random.default_rng(0)
    return rng.integers(0, 65536, (count, height, width), dtype=np.uint16)


def heatmaps_of(model, batch, window=WINDOW):
    inputs = network_input(jnp.asarray(batch), PIXEL_MEAN)
    return jax.nn.softmax(model.class_map(inputs, window).at_positions)


def test_a_whole_image_of_the_paper_gives_probabilities_at_30x22_positions():
    model = patch_model(width=0.02)
    image = jax.ShapeDtypeStruct((1, 1152, 896, 3), np.float32)
    found = jax.eval_shape(lambda x: model.class_map(x, 7).at_positions, image)
    assert found.shape == (1, 30, 22, 5)
    assert found.dtype == np.float32
    small = heatmaps_of(model, batch_of(256, 224), 7)
    assert small.shape == (2, 2, 1, 5)
    np.testing.assert_allclose(np.sum(small, -1), 1, rtol=1e-5)


def test_an_image_of_one_patch_gives_the_patch_classifiers_probabilities():
    model, batch = patch_model(), batch_of(PATCH, PATCH)
    heatmaps = heatmaps_of(model, batch)
    inputs = network_input(jnp.asarray(batch), PIXEL_MEAN)
    expected = jax.nn.softmax(model(inputs, train=False))
    assert heatmaps.shape == (2, 1, 1, 5)
    np.testing.assert_allclose(heatmaps[:, 0, 0], expected, rtol=1e-5)


def test_a_lesion_shows_where_it_is():
    model = patch_model()
    dark = np.zeros((1, 256, 192), np.uint16)
    bright = dark.copy()
    bright[0, 192:, :64] = 65535
    change = np.abs(heatmaps_of(model, bright) - heatmaps_of(model, dark)).sum(-1)[0]
    row, column = np.unravel_index(change.argmax(), change.shape)
    # A random network may look a position to a side.
    assert row >= 5
    assert column <= 1
    assert max(change[0].max(), change[:, -1].max()) < 0.05 * change.max()


def test_images_smaller_than_a_patch_are_refused():
    with pytest.raises(UserError, match=r"32x64 are too small .* 2 positions"):
        heatmaps_of(patch_model(), batch_of(32, 64))
