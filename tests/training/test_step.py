"""The train step: balance, accumulation, what is trained and what is not."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_sample_weight

from mammo_jax.models import build_model, default_model_config, groups_of, variables
from mammo_jax.models.network_input import network_input
from mammo_jax.training import optimizer, step
from mammo_jax.training.state import EpochMetrics, TrainState

SIZE, CLASSES, MEAN = 64, 5, 40.0


@functools.cache
def _problem(kind: str = "patch", group: str = "", batch_norm: str = "batch"):
    """A tiny VGG classifier; all layers are trained, or one group only."""
    config = default_model_config()
    config.batch_norm = batch_norm
    config.trunk, config.width, config.num_classes = "vgg16", 1 / 16, CLASSES
    config.top.kind, config.top.blocks = kind, ("4-4-8x1",)
    graphdef, params, stats = variables.split(build_model(config, 0))
    labels = {name: groups_of(name, "vgg16") for name in params}
    rates = {name: 1e-3 * (group in ("", name)) for name in optimizer.GROUPS}
    stage = optimizer.Stage("stage1", 1, rates, 0.0)
    trained = optimizer.trained_parameters(stage, labels)
    transform = optimizer.make_optimizer(stage, labels, 1)
    state = TrainState(
        params=params,
        batch_stats=stats,
        opt_state=transform.init({name: params[name] for name in sorted(trained)}),
        metrics=EpochMetrics.empty(),
    )
    return graphdef, transform, trained, state


def _batch(size: int = 8) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 65536, (size, SIZE, SIZE), dtype=np.uint16),
        "label": rng.integers(0, CLASSES, size).astype(np.int32),
        "channel_shift": rng.uniform(-20, 20, (size, 3)).astype(np.float32),
    }


@functools.cache
def _stepper(
    kind: str, group: str, accum_steps: int, unroll: bool, batch_norm: str = "batch"
):
    graphdef, transform, trained, _ = _problem(kind, group, batch_norm)
    options = step.StepOptions(
        trained, num_classes=CLASSES, pixel_mean=MEAN, unroll=unroll
    )
    train_step = step.make_train_step(graphdef, transform, options)
    return lambda state, batch: train_step(state, microbatches(batch, accum_steps))


def microbatches(batch, accum_steps):
    return {
        key: value.reshape(accum_steps, -1, *value.shape[1:])
        for key, value in batch.items()
    }


def _step(
    kind: str = "patch",
    group: str = "",
    *,
    accum_steps: int = 1,
    unroll: bool = False,
    batch_norm: str = "batch",
):
    """One step on the batch; the state before stays as it was."""
    state = _problem(kind, group, batch_norm)[3]
    train_step = _stepper(kind, group, accum_steps, unroll, batch_norm)
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
    graphdef, _, _, state = _problem()
    _, loss = _step()
    batch = _batch()
    model = variables.merge(graphdef, state.params, state.batch_stats)
    inputs = network_input(batch["image"], batch["channel_shift"], MEAN)
    logits = np.asarray(model(inputs, train=True), np.float64)
    log_probabilities = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    losses = -log_probabilities[np.arange(8), batch["label"]]
    shares = np.bincount(batch["label"], minlength=CLASSES)[batch["label"]] / 8
    np.testing.assert_allclose(loss, np.mean(losses / shares), rtol=1e-5)


def test_untrained_groups_keep_their_values_bit_for_bit():
    before = _problem("residual", "new_layers")[3]
    after, _ = _step("residual", "new_layers", accum_steps=2)
    for name, value in before.params.items():
        same = np.array_equal(value, after.params[name])
        assert same == (not name.startswith("top/")), name


def test_batch_statistics_move_in_every_layer():
    before = _problem("residual", "new_layers")[3]
    after, _ = _step("residual", "new_layers", accum_steps=2)
    assert before.batch_stats
    for name, value in before.batch_stats.items():
        assert not np.array_equal(value, after.batch_stats[name]), name


def test_metrics_are_means_over_the_epoch():
    state = jax.tree.map(jnp.copy, _problem()[3])
    train_step = _stepper("patch", "", 1, False)
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
    graphdef, _, _, state = _problem("residual")
    eval_step = step.make_eval_step(graphdef, pixel_mean=MEAN)
    batch = _batch()
    together, _ = eval_step(state.params, state.batch_stats, batch)
    alone, _ = eval_step(
        state.params, state.batch_stats, {k: v[:1] for k, v in batch.items()}
    )
    np.testing.assert_allclose(together[:1], alone, rtol=1e-4)
    np.testing.assert_allclose(np.sum(together, -1), 1, rtol=1e-5)


def test_averages_follow_the_parameters_by_the_decay():
    graphdef, transform, trained, state = _problem()
    options = step.StepOptions(trained, CLASSES, MEAN, ema_decay=0.75, donate=False)
    train_step = step.make_train_step(graphdef, transform, options)
    state = dataclasses.replace(state, averages=state.params)
    expected = state.params
    for _ in range(3):
        state, _ = train_step(state, microbatches(_batch(), 1))
        expected = {
            name: 0.75 * value + 0.25 * state.params[name]
            for name, value in expected.items()
        }
    for name, value in expected.items():
        np.testing.assert_allclose(state.averages[name], value, rtol=1e-5, atol=1e-8)
    assert state.evaluated_params is state.averages
