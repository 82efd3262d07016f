"""Layer groups, their rates and the coupled L2 penalty."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mammo_jax.common.errors import UserError
from mammo_jax.models.groups import GROUPS
from mammo_jax.training import optimizer
from mammo_jax.training.stages import Stage

LABELS = {
    "trunk/conv1/kernel": "bottom",
    "trunk/stage5/unit3/conv3/kernel": "top_of_trunk",
    "top/block1/kernel": "new_layers",
    "top/block1/bias": "new_layers",
}
PARAMS = {name: jnp.linspace(-1.0, 2.0, 6) for name in LABELS}


def _stage(l2: float = 0.0, **rates: float) -> Stage:
    return Stage("stage1", 1, {**dict.fromkeys(GROUPS, 0.0), **rates}, l2)


def test_only_groups_with_a_rate_are_trained():
    stage = _stage(top_of_trunk=1e-4, new_layers=1e-3)
    assert optimizer.make_optimizer(stage, LABELS, 1).trained == {
        "trunk/stage5/unit3/conv3/kernel",
        "top/block1/kernel",
        "top/block1/bias",
    }


def test_each_group_moves_with_its_own_rate():
    stage = _stage(bottom=1e-5, top_of_trunk=1e-4, new_layers=1e-3)
    _, transform = optimizer.make_optimizer(stage, LABELS, 1)
    gradients = {name: jnp.ones(6) for name in PARAMS}
    updates, _ = transform.update(gradients, transform.init(PARAMS), PARAMS)
    for name, group in LABELS.items():
        # Adam's first step is the learning rate, whatever the gradient's size.
        np.testing.assert_allclose(updates[name], -stage.rates[group], rtol=1e-5)


def test_penalty_is_coupled_and_falls_on_new_kernels_only():
    stage = _stage(l2=0.01, bottom=1e-3, new_layers=1e-3, top_of_trunk=1e-3)
    _, transform = optimizer.make_optimizer(stage, LABELS, 1)
    state, params, reference_state, reference = (
        transform.init(PARAMS),
        PARAMS,
        optax.adam(1e-3).init(PARAMS),
        PARAMS,
    )
    for step in range(3):
        gradients = {name: jnp.sin(jnp.arange(6.0) + step) for name in PARAMS}
        updates, state = transform.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        # The gradient of l2 * sum(w^2) is 2 * l2 * w, added before Adam.
        gradients["top/block1/kernel"] += 2 * 0.01 * reference["top/block1/kernel"]
        updates, reference_state = optax.adam(1e-3).update(gradients, reference_state)
        reference = optax.apply_updates(reference, updates)
    for name in PARAMS:
        np.testing.assert_allclose(params[name], reference[name], rtol=1e-6)


def test_moments_are_kept_for_trained_parameters_only():
    state = optimizer.make_optimizer(_stage(new_layers=1e-3), LABELS, 1).init(PARAMS)
    moments = [leaf for leaf in jax.tree.leaves(state) if leaf.size > 1]
    assert len(moments) == 2 * 2


def test_a_stage_that_trains_nothing_of_the_model_is_refused():
    with pytest.raises(UserError, match="trains nothing"):
        optimizer.make_optimizer(_stage(head=1e-3), LABELS, 1)


def test_rates_rise_in_the_warm_up_and_fall_to_zero_by_the_cosine():
    stage = Stage("stage1", 10, {"head": 1.0}, 0.0, warmup_epochs=2.0, decay="cosine")
    factor = optimizer.rate_factor(stage, steps_per_epoch=5)
    rising = [float(factor(step)) for step in range(10)]
    np.testing.assert_allclose(rising, np.arange(1, 11) / 11, rtol=1e-6)
    expected = (1 + np.cos(np.pi * np.arange(40) / 40)) / 2
    falling = [float(factor(step)) for step in range(10, 50)]
    np.testing.assert_allclose(falling, expected, atol=1e-6)


def test_a_constant_rate_is_exactly_the_rate_at_every_step():
    factor = optimizer.rate_factor(_stage(head=1.0), steps_per_epoch=7)
    assert {float(factor(step)) for step in range(10)} == {1.0}


def test_carried_moments_are_those_of_the_groups_trained_before():
    first = optimizer.make_optimizer(_stage(new_layers=1e-3), LABELS, 1)
    top = {name: PARAMS[name] for name in first.trained}
    state = first.init(PARAMS)
    for _ in range(3):
        gradients = jax.tree.map(jnp.ones_like, top)
        _, state = first.transform.update(gradients, state, top)
    stage = _stage(l2=0.01, new_layers=1e-4, bottom=1e-4, top_of_trunk=1e-4)
    second = optimizer.make_optimizer(stage, LABELS, 1)
    carried = optimizer.carry_moments(second.init(PARAMS), state)
    gradients = jax.tree.map(jnp.ones_like, PARAMS)
    _, after = second.transform.update(gradients, carried, PARAMS)
    assert jax.tree.structure(after) == jax.tree.structure(carried)
    adam = {
        group: next(
            part
            for part in jax.tree.leaves(
                inner, is_leaf=lambda x: isinstance(x, optax.ScaleByAdamState)
            )
            if isinstance(part, optax.ScaleByAdamState)
        )
        for group, inner in carried.inner_states.items()
    }
    assert int(adam["new_layers"].count) == 3
    assert int(adam["bottom"].count) == 0
    expected = 1 - 0.9**3  # Adam's mean of three gradients of one.
    moment = adam["new_layers"].mu["top/block1/kernel"]
    np.testing.assert_allclose(moment, expected, rtol=1e-6)
    assert not np.any(adam["bottom"].mu["trunk/conv1/kernel"])
