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
def _network(
    kind: str = "patch", batch_norm: str = "batch", compute_dtype: str = "float32"
):
    """A tiny VGG classifier."""
    config = default_model_config()
    config.batch_norm, config.compute_dtype = batch_norm, compute_dtype
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
def _all_layers(accum_steps: int, unroll: bool):
    """One step of a network that does not normalise by the batch."""
    train_step, state = make_train_step(
        _network("residual", "frozen"),
        stages=_stages(),
        accum_steps=accum_steps,
        pixel_mean=MEAN,
        unroll=unroll,
    )
    return train_step(state, _batch())


@functools.cache
def _new_layers(accum_steps: int):
    """One step of the new layers of a network that normalises by the batch."""
    train_step, state = make_train_step(
        _network("residual"), accum_steps=accum_steps, pixel_mean=MEAN
    )
    return train_step(state, _batch())


@functools.cache
def _averaged():
    """The states and losses of three steps of a patch classifier, with averages."""
    train_step, state = make_train_step(
        _network(), stages=_stages(), pixel_mean=MEAN, ema_decay=0.75
    )
    states, losses = [jax.tree.map(np.array, state)], []
    for _ in range(3):
        state, loss = train_step(state, _batch())
        states.append(jax.tree.map(np.array, state))
        losses.append(float(loss))
    return states, losses


# Few lengths: JAX compiles for each.
@given(
    st.sampled_from([1, 7, 40]).flatmap(
        lambda size: st.lists(st.integers(0, 4), min_size=size, max_size=size)
    )
)
def test_balanced_weights_are_sklearns_up_to_the_number_of_classes(labels):
    weights = step.balanced_weights(jnp.asarray(labels), 5)
    expected = compute_sample_weight("balanced", labels) * len(set(labels))
    np.testing.assert_allclose(weights, expected, rtol=1e-6)


@pytest.mark.parametrize("unroll", [False, True])
def test_accumulation_equals_the_full_batch_without_batch_statistics(unroll):
    full, full_loss = _all_layers(1, False)
    accumulated, loss = _all_layers(4, unroll)
    np.testing.assert_allclose(loss, full_loss, rtol=1e-6)
    # Adam's first moment is a tenth of the gradient.
    expected, found = (
        np.concatenate([value.ravel() for _, value in sorted(moments.items())])
        for moments in (_first_moments(full), _first_moments(accumulated))
    )
    assert np.linalg.norm(found - expected) <= 1e-6 * np.linalg.norm(expected)


def test_kernels_that_are_cast_once_change_no_bit(monkeypatch):
    def one_step():
        train_step, state = make_train_step(
            _network("residual", compute_dtype="bfloat16"),
            stages=_stages(),
            accum_steps=4,
            unroll=False,
        )
        (scan,) = (
            equation.params["jaxpr"]
            for equation in jax.make_jaxpr(train_step.__wrapped__)(state, _batch()).eqns
            if equation.primitive.name == "scan"
        )
        kernels = [x for x in scan.in_avals if x.ndim == 4]
        return kernels, train_step(state, _batch())

    kernels, once = one_step()
    assert kernels
    assert sum(x.dtype == "bfloat16" for x in kernels) == len(kernels) / 2
    # The layers then cast them, in every microbatch.
    monkeypatch.setattr(step, "_cast_kernels", lambda params, dtype: params)
    kernels, at_each = one_step()
    assert not any(x.dtype == "bfloat16" for x in kernels)
    jax.tree.map(np.testing.assert_array_equal, once, at_each)


def test_microbatches_have_batch_statistics_of_their_own():
    _, full_loss = _new_layers(1)
    _, loss = _new_layers(4)
    assert abs(loss / full_loss - 1) > 1e-4


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
    (loss, *_), batch = _averaged()[1], _batch()
    model = copy.deepcopy(_network())
    inputs = network_input(batch["image"], MEAN, batch["channel_shift"])
    logits = np.asarray(model(inputs, train=True), np.float64)
    log_probabilities = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    losses = -log_probabilities[np.arange(8), batch["label"]]
    shares = np.bincount(batch["label"], minlength=CLASSES)[batch["label"]] / 8
    np.testing.assert_allclose(loss, np.mean(losses / shares), rtol=1e-5)


def test_untrained_groups_keep_their_values_bit_for_bit_and_so_does_the_network():
    _, before, _ = variables.split(_network("residual"))
    after, _ = _new_layers(4)
    for name, value in before.items():
        same = np.array_equal(value, after.params[name])
        assert same == (not name.startswith("top/")), name


def test_batch_statistics_move_in_every_layer():
    _, _, before = variables.split(_network("residual"))
    after, _ = _new_layers(4)
    assert before
    for name, value in before.items():
        assert not np.array_equal(value, after.batch_stats[name]), name


def test_metrics_are_means_over_the_epoch():
    states, losses = _averaged()
    found = float(states[-1].metrics.compute()["loss"])
    assert found == pytest.approx(np.mean(losses))


def test_input_is_three_shifted_channels_clipped_to_the_image_and_centred():
    image = np.array([[[0, 13107], [26214, 65535]]], np.uint16)
    shift = np.array([[0.0, 20.0, -20.0]], np.float32)
    got = network_input(image, 10.0, shift)
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
    got = network_input(image, 10.0, shift)
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
    states, _ = _averaged()
    expected = states[0].params
    for state in states[1:]:
        expected = {
            name: 0.75 * value + 0.25 * state.params[name]
            for name, value in expected.items()
        }
    for name, value in expected.items():
        found = states[-1].averages[name]
        np.testing.assert_allclose(found, value, rtol=1e-5, atol=1e-8)
    assert states[-1].evaluated_params is states[-1].averages


def test_a_batch_may_come_cut_and_without_shifts():
    batch = _batch()
    cut = step._microbatches(batch, 4)
    assert {name: part.shape[:2] for name, part in cut.items()} == dict.fromkeys(
        batch, (4, 2)
    )
    for name, part in step._microbatches(cut, 1).items():
        np.testing.assert_array_equal(part.reshape(batch[name].shape), batch[name])
    del batch["channel_shift"]
    assert not np.any(step._microbatches(batch, 2)["channel_shift"])


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
        ("channel_shift", np.zeros((8, 1)), r"\[8, 1\]; it must be of \(8, 3\)"),
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


def test_the_input_of_an_evaluation_is_that_of_a_shift_of_nothing():
    image = _batch()["image"]
    jitted = jax.jit(network_input)
    shifted = jitted(image, MEAN, np.zeros((len(image), 3), np.float32))
    np.testing.assert_array_equal(jitted(image, MEAN), shifted)
