"""The train step: balance, accumulation, what is trained and what is not."""

import copy
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_sample_weight

from mammo_jax.common.errors import UserError
from mammo_jax.models import (
    build_model,
    default_model_config,
    read_model_config,
    variables,
)
from mammo_jax.models.groups import GROUPS
from mammo_jax.models.network_input import network_input
from mammo_jax.training import step
from mammo_jax.training.stage_step import make_train_step
from mammo_jax.training.state import TrainState

SIZE, CLASSES, MEAN = 64, 5, 40.0


@functools.cache
def _network(kind: str = "patch", batch_norm: str = "batch"):
    """A tiny VGG classifier."""
    config = default_model_config()
    config.batch_norm = batch_norm
    config.trunk, config.width, config.num_classes = "vgg16", 1 / 16, CLASSES
    config.top.kind, config.top.blocks = kind, ("4-4-8x1",)
    return build_model(read_model_config(config), 0)


def _stages(group: str = "") -> dict:
    """A table of one stage, which trains all layers or one group only."""
    rates = {name: 1e-3 * (group in ("", name)) for name in GROUPS}
    return {"stage1": {"epochs": 1, "rates": rates}}


def _batch(size: int = 8) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 65536, (size, SIZE, SIZE), dtype=np.uint16),
        "label": rng.integers(0, CLASSES, size).astype(np.int32),
        "channel_shift": rng.uniform(-20, 20, (size, 3)).astype(np.float32),
    }


@functools.cache
def _stepper(kind: str, group: str, accum_steps: int, unroll: bool, batch_norm: str):
    return make_train_step(
        _network(kind, batch_norm),
        stages=_stages(group),
        accum_steps=accum_steps,
        pixel_mean=MEAN,
        unroll=unroll,
    )


def _step(
    kind: str = "patch",
    group: str = "",
    *,
    accum_steps: int = 1,
    unroll: bool = False,
    batch_norm: str = "batch",
):
    """One step on the batch; the state before stays as it was."""
    train_step, state = _stepper(kind, group, accum_steps, unroll, batch_norm)
    return train_step(jax.tree.map(jnp.copy, state), _batch())


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40))
def test_balanced_weights_are_sklearns_up_to_the_number_of_classes(labels):
    weights = step.balanced_weights(jnp.asarray(labels), 5)
    expected = compute_sample_weight("balanced", labels) * len(set(labels))
    np.testing.assert_allclose(weights, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("kind", "batch_norm"), [("patch", "batch"), ("residual", "frozen")]
)
@pytest.mark.parametrize("unroll", [False, True])
def test_accumulation_equals_the_full_batch_without_batch_statistics(
    kind, batch_norm, unroll
):
    full, full_loss = _step(kind, batch_norm=batch_norm)
    accumulated, loss = _step(kind, batch_norm=batch_norm, accum_steps=4, unroll=unroll)
    np.testing.assert_allclose(loss, full_loss, rtol=1e-6)
    # Adam's first moment is a tenth of the gradient.
    expected, found = (
        np.concatenate([value.ravel() for _, value in sorted(moments.items())])
        for moments in (_first_moments(full), _first_moments(accumulated))
    )
    assert np.linalg.norm(found - expected) <= 1e-6 * np.linalg.norm(expected)


def test_microbatches_have_batch_statistics_of_their_own():
    _, full_loss = _step("residual")
    _, loss = _step("residual", accum_steps=4)
    assert abs(loss / full_loss - 1) > 1e-3


def _first_moments(state: TrainState) -> dict[str, np.ndarray]:
    moments: dict[str, np.ndarray] = {}
    for inner in state.opt_state.inner_states.values():
        for part in jax.tree.leaves(
            inner, is_leaf=lambda x: isinstance(x, optax.ScaleByAdamState)
        ):
            if isinstance(part, optax.ScaleByAdamState):
                moments |= {
                    k: np.asarray(v) for k, v in part.mu.items() if hasattr(v, "shape")
                }
    return moments


def test_loss_is_the_weighted_mean_over_the_batch():
    _, loss = _step()
    batch = _batch()
    model = copy.deepcopy(_network())
    inputs = network_input(batch["image"], batch["channel_shift"], MEAN)
    logits = np.asarray(model(inputs, train=True), np.float64)
    log_probabilities = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    losses = -log_probabilities[np.arange(8), batch["label"]]
    shares = np.bincount(batch["label"], minlength=CLASSES)[batch["label"]] / 8
    np.testing.assert_allclose(loss, np.mean(losses / shares), rtol=1e-5)


def test_untrained_groups_keep_their_values_bit_for_bit():
    _, before, _ = variables.split(_network("residual"))
    after, _ = _step("residual", "new_layers", accum_steps=2)
    for name, value in before.items():
        same = np.array_equal(value, after.params[name])
        assert same == (not name.startswith("top/")), name


def test_batch_statistics_move_in_every_layer():
    _, _, before = variables.split(_network("residual"))
    after, _ = _step("residual", "new_layers", accum_steps=2)
    assert before
    for name, value in before.items():
        assert not np.array_equal(value, after.batch_stats[name]), name


def test_metrics_are_means_over_the_epoch():
    train_step, state = _stepper("patch", "", 1, False, "batch")
    state = jax.tree.map(jnp.copy, state)
    losses = []
    for _ in range(3):
        state, loss = train_step(state, _batch())
        losses.append(float(loss))
    assert float(state.metrics.compute()["loss"]) == pytest.approx(np.mean(losses))


def test_input_is_three_shifted_channels_clipped_to_the_image_and_centred():
    image = np.array([[[0, 13107], [26214, 65535]]], np.uint16)
    shift = np.array([[0.0, 20.0, -20.0]], np.float32)
    got = network_input(image, shift, 10.0)
    grey = np.array([[0.0, 51.0], [102.0, 255.0]])
    expected = np.stack([np.clip(grey + s, 0, 255) - 10 for s in (0, 20, -20)], -1)
    np.testing.assert_allclose(got[0], expected, rtol=1e-5)


@pytest.mark.parametrize("width", [1, 2, 7, 24, 32, 48])
def test_every_channel_is_clipped_to_the_range_of_its_own_image(width):
    random = np.random.default_rng(width)
    image = random.integers(9000, 50000, (3, 5, width)).astype(np.uint16)
    shift = random.uniform(-20, 20, (3, 3)).astype(np.float32)
    grey = image[..., None] / 257.0
    expected = np.stack(
        [
            np.clip(one + s, one.min(), one.max())
            for one, s in zip(grey, shift, strict=True)
        ]
    )
    got = network_input(image, shift, 10.0)
    np.testing.assert_allclose(got, expected - 10, rtol=1e-5, atol=1e-4)


def test_evaluation_does_not_depend_on_the_rest_of_the_batch():
    graphdef, *values = variables.split(_network("residual"))
    eval_step = step.make_eval_step(graphdef, pixel_mean=MEAN)
    batch = _batch()
    together, _ = eval_step(*values, batch)
    alone, _ = eval_step(*values, {k: v[:1] for k, v in batch.items()})
    np.testing.assert_allclose(together[:1], alone, rtol=1e-4)
    np.testing.assert_allclose(np.sum(together, -1), 1, rtol=1e-5)


def test_averages_follow_the_parameters_by_the_decay():
    train_step, state = make_train_step(
        _network(), stages=_stages(), pixel_mean=MEAN, ema_decay=0.75
    )
    expected = jax.tree.map(np.array, state.params)
    for _ in range(3):
        state, _ = train_step(state, _batch())
        expected = {
            name: 0.75 * value + 0.25 * state.params[name]
            for name, value in expected.items()
        }
    for name, value in expected.items():
        np.testing.assert_allclose(state.averages[name], value, rtol=1e-5, atol=1e-8)
    assert state.evaluated_params is state.averages


def test_a_network_without_a_run_has_a_train_step_and_stays_as_it_is():
    network = _network("residual")
    _, before, _ = variables.split(network)
    train_step, state = make_train_step(network, stages="whole", stage="stage1")
    batch = _batch()
    cut = {key: batch[key].reshape(1, 8, *batch[key].shape[1:]) for key in batch}
    del batch["channel_shift"]
    after, loss = train_step(state, batch)
    for name, value in variables.split(network)[1].items():
        assert value is before[name]
        moved = not np.array_equal(value, after.params[name])
        assert moved == name.startswith("top/"), name
    state = make_train_step(network)[1]
    cut["channel_shift"] = np.zeros((1, 8, 3), np.float32)
    same, again = train_step(state, cut)
    assert again == loss
    np.testing.assert_array_equal(
        same.params["top/output/kernel"], after.params["top/output/kernel"]
    )


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"stages": "hole"}, r"no table of stages 'hole'; .* whole, "),
        ({"stage": "stage3"}, r"no stage 'stage3'; .* are stage1, stage2"),
        ({"stages": "patch"}, r"stage1 trains nothing: this model's groups"),
    ],
)
def test_a_stage_that_there_is_not_is_refused(names, message):
    with pytest.raises(UserError, match=message):
        make_train_step(_network("residual"), **names)


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("image", np.zeros((8, SIZE, SIZE)), r"image is float32\[8, 64, 64\]; it must"),
        ("image", np.zeros((SIZE, SIZE), np.uint16), r"uint16\[64, 64\]; it must be"),
        ("label", np.zeros(7, np.int32), r"label is int32\[7\]; .* of \(8,\)"),
        ("label", np.zeros(8, np.float32), r"label is float32"),
        ("channel_shift", np.zeros((8, 1)), r"of \(8, 1\); it must be of \(8, 3\)"),
    ],
)
def test_a_batch_of_another_shape_or_type_is_an_error(part, value, message):
    train_step, state = make_train_step(_network("residual"))
    with pytest.raises(ValueError, match=message):
        train_step(state, {**_batch(), part: value})


def test_a_batch_that_cannot_be_cut_evenly_is_an_error():
    train_step, state = make_train_step(_network("residual"), accum_steps=3)
    with pytest.raises(ValueError, match="8 images cannot be cut into 3"):
        train_step(state, _batch())
