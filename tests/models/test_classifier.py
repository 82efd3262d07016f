import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mammo_jax.common.errors import UserError
from mammo_jax.models import (
    TOPS,
    build_model,
    default_model_config,
    read_model_config,
    resnet,
    variables,
)


@pytest.fixture
def shallow_resnet(monkeypatch):
    """One or two units a stage: the same code, a quarter of the compile time."""
    stages = {
        name: (2 if name == "stage2" else 1, filters, stride)
        for name, (_, filters, stride) in resnet.STAGES.items()
    }
    monkeypatch.setattr(resnet, "STAGES", stages)


def tiny(trunk="resnet50", top="residual_512-512-1024x2", **changes):
    """A narrow model with shallow blocks, of the same kind as the named row."""
    config = default_model_config()
    config.update({"trunk": trunk, "width": 0.05, "image_size": (64, 64)} | changes)
    config.top.update(TOPS[top])
    blocks = {"residual": ("8-8-16x2", "8-8-8x1"), "vgg": ("8x2", "4x1")}
    config.top.blocks = blocks.get(config.top.kind, ())
    config.top.update({"pool": 1, "window": 1, "fc": (6, 4)})
    return read_model_config(config)


def images(batch=2, size=64, seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(0, 60, (batch, size, size, 3)), jnp.float32)


def train_step_outputs(config, x):
    """Loss, gradients and new statistics of one jitted training forward pass."""
    graphdef, params, stats = variables.split(build_model(config, 0))

    def loss(params, stats, x):
        model = variables.merge(graphdef, params, stats)
        logits = model(x, train=True)
        return (logits**2).mean(), variables.split(model)[2]

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(params, stats, x)


@pytest.mark.parametrize("trunk", ["resnet50", "vgg16", "vgg19"])
@pytest.mark.parametrize("top", ["patch", "residual_256-128x1", "vgg_512x1"])
def test_logits_are_float32_of_the_asked_classes(trunk, top):
    model = build_model(tiny(trunk, top, num_classes=3), 0)
    logits = jax.eval_shape(lambda x: model(x, train=False), images(size=128))
    assert logits.shape == (2, 3)
    assert logits.dtype == jnp.float32


def test_train_mode_moves_the_running_statistics_and_eval_mode_does_not(shallow_resnet):
    model = build_model(tiny(), 0)
    before = variables.split(model)[2]
    model(images(), train=False)
    after_eval = variables.split(model)[2]
    model(images(), train=True)
    after_train = variables.split(model)[2]
    assert all(bool((before[n] == after_eval[n]).all()) for n in before)
    assert all(bool((before[n] != after_train[n]).any()) for n in before)


def test_frozen_batch_norm_uses_and_keeps_the_running_statistics_in_training(
    shallow_resnet,
):
    model = build_model(tiny(batch_norm="frozen"), 0)
    before = variables.split(model)[2]
    in_training = model(images(), train=True)
    after = variables.split(model)[2]
    assert all(bool((before[n] == after[n]).all()) for n in before)
    np.testing.assert_array_equal(in_training, model(images(), train=False))


def test_a_frozen_trunk_leaves_the_statistics_of_the_top_to_the_batch(shallow_resnet):
    model = build_model(tiny(batch_norm="frozen_trunk"), 0)
    before = variables.split(model)[2]
    model(images(), train=True)
    after = variables.split(model)[2]
    moved = {name for name in before if bool((before[name] != after[name]).any())}
    assert moved == {name for name in before if not name.startswith("trunk/")}
    assert moved


def test_bfloat16_compute_keeps_parameters_and_statistics_in_float32(shallow_resnet):
    config = tiny(compute_dtype="bfloat16")
    (_, stats), gradients = train_step_outputs(config, images())
    assert {value.dtype for value in (stats | gradients).values()} == {
        jnp.dtype("float32")
    }


@pytest.mark.parametrize(
    ("trunk", "top"), [("resnet50", "residual_256-128x1"), ("vgg16", "vgg_512x1")]
)
def test_remat_changes_neither_names_nor_numbers(shallow_resnet, trunk, top):
    x = images(size=128)
    (loss, stats), gradients = train_step_outputs(tiny(trunk, top), x)
    (loss2, stats2), gradients2 = train_step_outputs(tiny(trunk, top, remat=True), x)
    np.testing.assert_allclose(loss, loss2, rtol=1e-5)
    assert gradients.keys() == gradients2.keys()
    for name, value in (gradients | stats).items():
        other = (gradients2 | stats2)[name]
        np.testing.assert_allclose(value, other, rtol=1e-3, atol=1e-5, err_msg=name)


def test_parameter_paths_are_readable():
    _, params, stats = variables.split(build_model(tiny(), 0))
    assert {
        "trunk/conv1/kernel",
        "trunk/stage5/unit3/conv2/kernel",
        "trunk/stage2/unit1/shortcut_conv/kernel",
        "top/block1/unit1/conv1/kernel",
        "top/output/kernel",
    } <= params.keys()
    assert {"trunk/bn1/mean", "top/block2/unit1/shortcut_bn/var"} <= stats.keys()


def test_too_small_images_are_refused_with_the_size_needed():
    model = build_model(tiny("vgg16", "vgg_512x1"), 0)
    with pytest.raises(UserError, match=r"64x64 are too small .* at least 128x128"):
        model(images(), train=False)


@pytest.mark.parametrize("trunk", ["resnet50", "vgg16", "vgg19"])
def test_images_too_small_for_a_trunk_are_refused_with_the_size_needed(trunk):
    model = build_model(tiny(trunk, "patch"), 0)
    with pytest.raises(
        UserError, match=rf"31x64 are too small for {trunk} .* at least 32x32"
    ):
        model(jnp.zeros((1, 31, 64, 3)), train=False)


def test_too_small_heatmap_is_refused_with_the_size_needed():
    config = tiny(top="heatmap_5x5")
    top = dataclasses.replace(config.top, pool=5, window=7)
    with pytest.raises(UserError, match="at least 352 pixels"):
        build_model(dataclasses.replace(config, top=top), 0)


@pytest.mark.parametrize("size", [(64, 96), (128, 64), (32, 32)])
def test_a_heatmap_model_refuses_images_of_another_size(size):
    model = build_model(tiny("vgg16", "heatmap_1x1"), 0)
    message = rf"images of {size[0]}x{size[1]}.* 64x64 \(model.image_size\)"
    with pytest.raises(UserError, match=message):
        model(jnp.zeros((1, *size, 3)), train=False)
    # As many positions: the network cannot tell them apart.
    assert model(jnp.zeros((1, 70, 95, 3)), train=False).shape == (1, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trunk": "resnet101"}, "trunk is 'resnet101'; it must be one of resnet50"),
        ({"wiring": "caffe"}, "wiring is 'caffe'"),
        ({"width": 0.0}, "width is 0.0"),
        ({"batchnorm": "frozen"}, "batchnorm"),
        ({"top": {"kind": "residual", "blocks": ("512x1",)}}, "'512-512-1024x2'"),
        ({"width": float("nan")}, "width is nan"),
        ({"width": float("inf")}, "width is inf; it must be above 0, at most 16"),
        ({"width": 1e9}, "width is 1000000000.0"),
        ({"width": 10**400}, "int too large"),
        ({"num_classes": 0}, "num_classes is 0; it must be at least 2"),
        ({"image_size": (1152,)}, r"image_size is \(1152,\); it must be 2 whole"),
        ({"image_size": (0, 896)}, r"image_size is \(0, 896\)"),
        ({"image_size": ("a", 1)}, "image_size is"),
        ({"image_size": "big"}, "image_size"),
        ({"width": None}, "width has no value"),
        ({"top": {"pool": None}}, "top.pool has no value"),
        ({"top": 5}, "config.model.top is 5"),
        ({"top": {"pool": 0}}, "top.pool is 0; it must be at least 1"),
        ({"top": {"pool": -1}}, "top.pool is -1"),
        ({"top": {"window": 0}}, "top.window is 0"),
        ({"top": {"fc": (64,)}}, r"top.fc is \(64,\); it must be 2 whole numbers"),
        ({"top": {"fc": (64, 0)}}, "top.fc is"),
        ({"top": {"kind": "residual", "blocks": ()}}, "top.blocks is empty"),
        ({"top": {"kind": "vgg", "blocks": (5,)}}, "5 is not a vgg block"),
        ({"top": {"kind": "vgg", "blocks": ("512x0",)}}, "'512x1'"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_wrong_configuration_is_refused_by_name(change, message):
    with pytest.raises(UserError, match=message) as caught:
        read_model_config(change)
    assert "\n" not in str(caught.value)
