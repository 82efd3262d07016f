"""Class maps against the model's own output and a bright spot."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from flax import nnx

from mammo_jax.common.errors import UserError
from mammo_jax.images.grid import to_grid
from mammo_jax.models import (
    build_model,
    class_map,
    default_model_config,
    flips,
    read_model_config,
    variables,
)
from mammo_jax.models.network_input import network_input

MEAN = 40.0
WINDOW = 3
IMAGES = np.random.default_rng(0).integers(0, 65536, (2, 192, 160), dtype=np.uint16)


def _config(kind: str, **changes):
    config = default_model_config()
    config.trunk, config.width = "vgg16", 1 / 16
    config.top.kind, config.top.window = kind, WINDOW
    config.top.pool, config.image_size = 2, IMAGES.shape[1:]
    config.top.blocks = ("4x1",) if kind == "vgg" else ("4-4-8x1",)
    config.num_classes = 5 if kind == "patch" else 2
    config.update(changes)
    return read_model_config(config)


def _class_maps(config, images, *, model=None, pixel_mean=MEAN):
    model = model or build_model(config, 0)
    graphdef, params, stats = variables.split(model)
    step = class_map.make_class_map_step(
        graphdef,
        window=WINDOW,
        pixel_mean=pixel_mean,
        malignant_classes=(2, 4) if config.top.kind == "patch" else (1,),
        flips=flips.NO_FLIP,
        at_once=True,
    )
    found = jax.jit(step)(params, stats, images)
    return model, np.asarray(found.scores[0]), np.asarray(found.maps[0])


def _logits(model, images):
    inputs = network_input(jnp.array(images), MEAN)
    return np.asarray(model(inputs, train=False))


@pytest.mark.parametrize("kind", ["residual", "vgg", "heatmap"])
def test_the_score_is_the_models_probability_of_malignancy(kind):
    model, scores, _ = _class_maps(_config(kind), IMAGES)
    expected = scipy.special.softmax(_logits(model, IMAGES), axis=-1)[:, 1]
    np.testing.assert_allclose(scores, expected, rtol=1e-5)


@pytest.mark.parametrize("kind", ["residual", "vgg"])
def test_the_mean_of_an_activation_map_is_the_images_log_odds(kind):
    model, _, maps = _class_maps(_config(kind), IMAGES)
    logits = _logits(model, IMAGES)
    expected = logits[:, 1] - logits[:, 0]
    np.testing.assert_allclose(maps.mean((1, 2)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["patch", "heatmap"])
def test_patch_classifiers_show_their_heatmap(kind):
    config = _config(kind)
    model, scores, maps = _class_maps(config, IMAGES)
    inputs = network_input(jnp.array(IMAGES), MEAN)
    heatmap = jax.nn.softmax(model.class_map(inputs, WINDOW).at_positions)
    expected = heatmap[..., [2, 4]].sum(-1)
    np.testing.assert_allclose(scipy.special.expit(maps), expected, rtol=1e-4)
    if kind == "patch":
        np.testing.assert_allclose(scores, expected.max((1, 2)), rtol=1e-4)


def test_flips_one_after_the_other_are_those_at_once():
    config = _config("residual")
    graphdef, params, stats = variables.split(build_model(config, 0))
    found = [
        jax.jit(
            class_map.make_class_map_step(
                graphdef,
                window=None,
                pixel_mean=MEAN,
                malignant_classes=(1,),
                flips=flips.FLIPS,
                at_once=at_once,
            )
        )(params, stats, IMAGES)
        for at_once in (True, False)
    ]
    assert found[0].scores.shape == (4, len(IMAGES))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_images_too_small_for_the_model_are_refused():
    with pytest.raises(UserError, match="too small"):
        _class_maps(_config("vgg"), IMAGES[:, :40, :40])


def test_log_odds_of_several_classes():
    logits = np.random.default_rng(0).normal(size=(7, 5))
    share = scipy.special.softmax(logits, axis=-1)[:, [2, 4]].sum(-1)
    found = class_map.log_odds(jnp.array(logits), (2, 4))
    np.testing.assert_allclose(found, scipy.special.logit(share), rtol=1e-5)


def test_strength_of_odds_and_of_probabilities():
    odds = np.log([1e-9, 1 / np.sqrt(50), 1, np.sqrt(50), 50, 1e9])
    np.testing.assert_allclose(
        class_map.strength(odds, _config("residual")),
        [-1, -0.5, 0, 0.5, 1, 1],
        atol=1e-7,
    )
    np.testing.assert_allclose(
        class_map.strength(np.log([0.25, 1, 9]), _config("patch")), [0.2, 0.5, 0.9]
    )
    with np.errstate(over="raise"):
        sure = class_map.strength(np.float32([-200, 200]), _config("patch"))
    assert sure.tolist() == [0, 1]


GRID = (512, 384)
# Neither the grid's size nor its aspect ratio.
ORIGINAL = (900, 420)


def _spots(step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Black images with a bright disc, and the discs' (row, column).

    The discs lie evenly over one position's share of the image.
    """
    number = np.arange(8)
    shares = np.stack([number, 3 * number % 8], axis=1) / 8
    centres = np.round((np.array(ORIGINAL) * 0.4) + shares * step)
    images = np.zeros((len(centres), *ORIGINAL), np.uint16)
    for image, (row, column) in zip(images, centres.astype(int).tolist(), strict=True):
        cv2.circle(image, (column, row), 6, 65535, -1)
    return images, centres


def _averaging_model(config):
    """Every convolution averages what it sees; malignant is what is bright."""
    model = build_model(config, 0)
    for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        value = variable[...]
        if path[-1] == "kernel":
            filled = jnp.full_like(value, 1 / np.prod(value.shape[:-1]))
            if path[-2] in ("head", "output"):
                filled = jnp.zeros_like(value).at[:, -1].set(1e4)
            variable[...] = filled
    return model


@pytest.mark.parametrize(
    ("trunk", "wiring", "kind", "stem"),
    [
        ("resnet50", "keras2017", "residual", "standard"),
        ("resnet50", "keras", "residual", "standard"),
        ("resnet50", "torchvision", "residual", "standard"),
        ("resnet50", "keras2017", "residual", "gentle"),
        ("resnet50", "torchvision", "residual", "gentle"),
        ("vgg16", "keras2017", "vgg", "standard"),
        ("vgg16", "keras2017", "patch", "standard"),
    ],
)
def test_the_map_peaks_at_a_bright_spot_of_the_original(trunk, wiring, kind, stem):
    config = _config(kind, trunk=trunk, wiring=wiring, stem=stem, width=1 / 64)
    positions = class_map.map_positions(config, WINDOW, GRID[0])
    step = np.array(positions.step) * ORIGINAL / GRID
    images, centres = _spots(step)
    gridded = np.stack([to_grid(image, *GRID) for image in images])
    model = _averaging_model(config)
    _, _, maps = _class_maps(config, gridded, model=model, pixel_mean=0.0)
    picture = (450, 210)
    peaks = []
    for one in maps:
        shown = class_map.project(one, config, WINDOW, GRID, picture)
        peak = np.unravel_index(shown.argmax(), picture)
        peaks.append((np.array(peak) + 0.5) * ORIGINAL / picture - 0.5)
    errors = (np.array(peaks) - centres) / step
    # A map cannot tell where in a position's share of the image the spot lies.
    assert np.abs(errors).max() < 0.75, errors
    # But it does not lean to a side.
    assert np.abs(errors.mean(0)).max() < 0.2, errors


def test_positions_of_vgg_lie_in_the_middle_of_their_share():
    found = class_map.map_positions(_config("vgg"), None, 1152)
    assert found == class_map.Positions(first=31.5, step=64)


def test_positions_of_the_papers_model_lie_off_the_middle():
    config = read_model_config({})
    # The 7x7 convolution, then the pool: one and two pixels; nothing after them.
    assert class_map.map_positions(config, None, 1152) == class_map.Positions(3.0, 128)


def test_a_flat_map_is_flat_over_the_picture():
    shown = class_map.project(
        np.full((6, 5), 2.5), _config("vgg"), None, (384, 320), (70, 31)
    )
    assert shown.shape == (70, 31)
    np.testing.assert_allclose(shown, 2.5, rtol=1e-6)
