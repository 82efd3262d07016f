import jax
import numpy as np
import pytest

from mammo_jax.common.errors import UserError
from mammo_jax.datasets.pipeline import open_dataset
from mammo_jax.models import (
    TOPS,
    build_model,
    default_model_config,
    read_model_config,
    variables,
)
from mammo_jax.models.sliding import make_heatmap_step
from mammo_jax.training.forest import describe_split, feature_names
from mammo_jax.training.step import make_eval_step

PIXEL_MEAN = 40.0
WINDOW, PATCH = 2, 64


def patch_model(**changes):
    """A narrow VGG16 patch classifier for patches of 64 pixels, and its variables."""
    config = default_model_config()
    config.update({"trunk": "vgg16", "width": 0.05, "num_classes": 5} | changes)
    config.top.update(TOPS["patch"])
    config = read_model_config(config)
    _, params, stats = variables.split(build_model(config, 0))
    return config, params, stats


def batch_of(height, width, count=2):
    rng = np.random.default_rng(0)
    return rng.integers(0, 65536, (count, height, width), dtype=np.uint16)


def test_a_whole_image_of_the_paper_gives_probabilities_at_30x22_positions():
    config, params, stats = patch_model(width=0.02)
    step = make_heatmap_step(config, 7, PIXEL_MEAN)
    found = jax.eval_shape(step, params, stats, batch_of(1152, 896, count=1))
    assert found.shape == (1, 30, 22, 5)
    assert found.dtype == np.float32
    small = step(params, stats, batch_of(256, 224))
    assert small.shape == (2, 2, 1, 5)
    np.testing.assert_allclose(np.sum(small, -1), 1, rtol=1e-5)


def test_an_image_of_one_patch_gives_the_patch_classifiers_probabilities():
    config, params, stats = patch_model()
    batch = batch_of(PATCH, PATCH)
    heatmaps = make_heatmap_step(config, WINDOW, PIXEL_MEAN)(params, stats, batch)
    graphdef = variables.split(build_model(config, 0))[0]
    eval_step = make_eval_step(graphdef, pixel_mean=PIXEL_MEAN)
    labels = np.zeros(2, np.int32)
    expected, _ = eval_step(params, stats, {"image": batch, "label": labels})
    assert heatmaps.shape == (2, 1, 1, 5)
    np.testing.assert_allclose(heatmaps[:, 0, 0], expected, rtol=1e-5)


def test_a_lesion_shows_where_it_is():
    config, params, stats = patch_model()
    dark = np.zeros((1, 256, 192), np.uint16)
    bright = dark.copy()
    bright[0, 192:, :64] = 65535
    step = make_heatmap_step(config, WINDOW, PIXEL_MEAN)
    change = np.abs(step(params, stats, bright) - step(params, stats, dark)).sum(-1)[0]
    row, column = np.unravel_index(change.argmax(), change.shape)
    # A random network may look a position to a side.
    assert row >= 5
    assert column <= 1
    assert max(change[0].max(), change[:, -1].max()) < 0.05 * change.max()


def test_models_without_a_patch_head_are_refused():
    with pytest.raises(UserError, match="this model's top is 'residual'"):
        make_heatmap_step(read_model_config({}), WINDOW, PIXEL_MEAN)


def test_images_smaller_than_a_patch_are_refused():
    config, params, stats = patch_model()
    step = make_heatmap_step(config, WINDOW, PIXEL_MEAN)
    with pytest.raises(UserError, match=r"32x64 are too small .* 2 positions"):
        step(params, stats, batch_of(32, 64))


def test_a_packaged_split_is_described(phantom_data):
    config, params, stats = patch_model()
    dataset = open_dataset("cbis_ddsm/paper_whole_h288", str(phantom_data))
    source = dataset.sources["validation"]
    step = make_heatmap_step(config, WINDOW, dataset.pixel_mean)
    found = describe_split(step, params, stats, source, batch_size=4, threads=1)
    assert found["features"].shape == (len(source), len(feature_names()))
    assert len(set(found["image_id"])) == len(source)
    assert found["label"].tolist() == [int(e["label"]) for e in source]
