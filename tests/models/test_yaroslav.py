"""YaroslavNet: its sizes, its one channel, and a step of its training."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mammo_jax.common.errors import UserError
from mammo_jax.config import apply_preset, whole_config
from mammo_jax.models import abstract_model, build_model, read_model_config, variables
from mammo_jax.models.classifier import feature_size
from mammo_jax.models.groups import GROUPS, groups_of
from mammo_jax.training.settings import read_settings
from mammo_jax.training.stage_step import make_train_step

SIZE = (448, 384)


def settings(**changes):
    config = apply_preset(whole_config(), "yaroslav")
    config.model.update({"width": 1 / 16, "image_size": SIZE, **changes})
    return read_settings(config)


def test_the_preset_is_the_network_of_the_paper_s_size():
    found = read_settings(apply_preset(whole_config(), "yaroslav"))
    model = abstract_model(found.model)
    assert model.feature_size == (18, 14)
    assert feature_size(model.trunk, (224, 224)) == (3, 3)
    assert found.model.top.fc == (16, 8)
    assert (found.patch.model.trunk, found.patch.model.stride) == ("yaroslav", 64)
    _, params, _ = variables.split(model)
    channels = [1, 32, 64, 128, 256, 256, 512]
    kernels = [params[f"trunk/block{n}/conv1/kernel"].shape for n in range(1, 7)]
    pairs = itertools.pairwise(channels)
    assert kernels == [(3, 3, before, after) for before, after in pairs]


def test_it_sees_one_channel():
    model = build_model(settings().model, 0)
    drawn = np.random.default_rng(0).normal(0, 50, (1, *SIZE, 3))
    image = jnp.asarray(drawn, jnp.float32)
    other = image.at[..., 1:].set(7)
    np.testing.assert_array_equal(model(image, False), model(other, False))
    other = other.at[..., 0].add(9)
    assert np.abs(model(image, False) - model(other, False)).max() > 0


@pytest.mark.parametrize("stride", [32, 16])
def test_it_ends_earlier_for_smaller_images(stride):
    fields = {"trunk": "yaroslav", "stride": stride, "top": {"kind": "patch"}}
    model = abstract_model(read_model_config(fields))
    assert feature_size(model.trunk, (448, 384)) == (448 // stride, 384 // stride)


def test_no_other_trunk_ends_at_64():
    with pytest.raises(UserError, match="stride is 64, which only the trunk yaroslav"):
        read_model_config({"trunk": "vgg16", "stride": 64})


def test_it_has_no_published_weights(tmp_path):
    config = apply_preset(whole_config(), "yaroslav")
    config.patch.pretrained = str(tmp_path / "none.safetensors")
    with pytest.raises(UserError, match=r"none\.safetensors; set the field to ''"):
        read_settings(config)


def test_a_step_of_training_moves_every_group():
    model = build_model(settings().model, 0)
    rates = dict.fromkeys(GROUPS, 1e-3)
    stages = {"stage1": {"epochs": 1, "rates": rates, "l2": 0.0}}
    train_step, state = make_train_step(model, stages=stages, pixel_mean=50.0)
    before = jax.tree.map(np.asarray, state.params)
    grey = np.random.default_rng(0).integers(0, 65536, (4, *SIZE), np.uint16)
    labels = jnp.array([0, 1, 0, 1], jnp.int32)
    state, loss = train_step(state, {"image": grey, "label": labels})
    assert np.isfinite(float(loss))
    moved = {
        groups_of(name, "yaroslav", 64)
        for name, value in before.items()
        if np.abs(value - np.asarray(state.params[name])).max() > 0
    }
    assert moved == {*GROUPS}
