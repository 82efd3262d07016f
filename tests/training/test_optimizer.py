"""Layer groups, stages and the coupled L2 penalty."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mammo_jax.common.errors import UserError
from mammo_jax.config import STAGES, stage_table
from mammo_jax.training import optimizer

LABELS = {
    "trunk/conv1/kernel": "bottom",
    "trunk/stage5/unit3/conv3/kernel": "top_of_trunk",
    "top/block1/kernel": "new_layers",
    "top/block1/bias": "new_layers",
}
PARAMS = {name: jnp.linspace(-1.0, 2.0, 6) for name in LABELS}


def _stage(l2: float = 0.0, **rates: float) -> optimizer.Stage:
    return optimizer.Stage(
        "stage1", 1, {**dict.fromkeys(optimizer.GROUPS, 0.0), **rates}, l2
    )


def test_only_groups_with_a_rate_are_trained():
    stage = _stage(top_of_trunk=1e-4, new_layers=1e-3)
    assert optimizer.trained_parameters(stage, LABELS) == {
        "trunk/stage5/unit3/conv3/kernel",
        "top/block1/kernel",
        "top/block1/bias",
    }


def test_each_group_moves_with_its_own_rate():
    stage = _stage(bottom=1e-5, top_of_trunk=1e-4, new_layers=1e-3)
    transform = optimizer.make_optimizer(stage, LABELS, 1)
    gradients = {name: jnp.ones(6) for name in PARAMS}
    updates, _ = transform.update(gradients, transform.init(PARAMS), PARAMS)
    for name, group in LABELS.items():
        # Adam's first step is the learning rate, whatever the gradient's size.
        np.testing.assert_allclose(updates[name], -stage.rates[group], rtol=1e-5)


def test_penalty_is_coupled_and_falls_on_new_kernels_only():
    stage = _stage(l2=0.01, bottom=1e-3, new_layers=1e-3, top_of_trunk=1e-3)
    transform = optimizer.make_optimizer(stage, LABELS, 1)
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
    transform = optimizer.make_optimizer(_stage(new_layers=1e-3), LABELS, 1)
    trained = {name: PARAMS[name] for name in PARAMS if name.startswith("top/")}
    state = transform.init(trained)
    moments = [leaf for leaf in jax.tree.leaves(state) if leaf.size > 1]
    assert len(moments) == 2 * len(trained)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"stage1": {"epochs": 0, "rates": {}, "l2": 0.0}}, "nothing would train"),
        (
            {"stage1": {"epochs": 1, "rates": {"botom": 0.1}, "l2": 0.0}},
            "unknown layer groups",
        ),
    ],
)
def test_tables_that_cannot_train_are_refused(table, message):
    with pytest.raises(UserError, match=message):
        optimizer.stages_from_config(table)


def test_a_stage_that_trains_nothing_of_the_model_is_refused():
    with pytest.raises(UserError, match="trains nothing"):
        optimizer.trained_parameters(_stage(head=1e-3), LABELS)


def test_a_group_left_out_of_the_table_is_refused():
    stage = optimizer.Stage("stage1", 1, {"new_layers": 1e-3}, 0.0)
    with pytest.raises(UserError, match="no rate for"):
        optimizer.trained_parameters(stage, LABELS)


def test_stages_come_in_the_order_of_their_names():
    row = {"epochs": 1, "rates": {"head": 1.0}, "l2": 0.0}
    stages = optimizer.stages_from_config({"stage2": row, "stage1": row})
    assert [stage.name for stage in stages] == ["stage1", "stage2"]


def test_the_papers_stages_are_those_of_sections_2_2_and_2_3():
    tables = {
        name: [
            (stage.epochs, stage.l2, {g: r for g, r in stage.rates.items() if r})
            for stage in optimizer.stages_from_config(stage_table(name).to_dict())
        ]
        for name in ("patch", "patch_s1", "patch_random", "whole")
    }
    every = dict.fromkeys(optimizer.GROUPS, 1.0)
    rates = [
        {"head": 1e-3},
        {"head": 1e-4, "top_of_trunk": 1e-4},
        {"head": 1e-5, "top_of_trunk": 1e-5, "bottom": 1e-5},
    ]
    assert tables["patch"] == [(3, 0, rates[0]), (10, 0, rates[1]), (37, 0, rates[2])]
    assert [row[0] for row in tables["patch_s1"]] == [12, 40, 148]
    assert [row[2] for row in tables["patch_s1"]] == rates
    assert tables["patch_random"] == [(50, 0, {g: 1e-3 for g in every})]
    assert tables["whole"] == [
        (30, 1e-3, {"new_layers": 1e-4}),
        (20, 1e-2, {g: 1e-6 for g in every}),
    ]


@pytest.mark.parametrize("name", list(STAGES))
def test_every_table_of_stages_can_train(name):
    stages = optimizer.stages_from_config(stage_table(name).to_dict())
    assert all(set(stage.rates) == set(optimizer.GROUPS) for stage in stages)


def test_rates_rise_in_the_warm_up_and_fall_to_zero_by_the_cosine():
    stage = optimizer.Stage(
        "stage1", 10, {"head": 1.0}, 0.0, warmup_epochs=2, decay="cosine"
    )
    factor = optimizer.rate_factor(stage, steps_per_epoch=5)
    rising = [float(factor(step)) for step in range(10)]
    np.testing.assert_allclose(rising, np.arange(1, 11) / 11, rtol=1e-6)
    expected = (1 + np.cos(np.pi * np.arange(40) / 40)) / 2
    falling = [float(factor(step)) for step in range(10, 50)]
    np.testing.assert_allclose(falling, expected, atol=1e-6)


def test_a_constant_rate_is_exactly_the_rate_at_every_step():
    factor = optimizer.rate_factor(_stage(head=1.0), steps_per_epoch=7)
    assert {float(factor(step)) for step in range(10)} == {1.0}


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"decay": "linear"}, "decay is 'linear'"), ({"warmup_epochs": 2}, "warmup")],
)
def test_schedules_that_make_no_sense_are_refused(fields, message):
    row = {"epochs": 1, "rates": {"head": 1.0}, "l2": 0.0, **fields}
    with pytest.raises(UserError, match=message):
        optimizer.stages_from_config({"stage1": row})


def test_carried_moments_are_those_of_the_groups_trained_before():
    first = optimizer.make_optimizer(_stage(new_layers=1e-3), LABELS, 1)
    top = {name: PARAMS[name] for name in PARAMS if name.startswith("top/")}
    state = first.init(top)
    for _ in range(3):
        _, state = first.update(jax.tree.map(jnp.ones_like, top), state, top)
    stage = _stage(l2=0.01, new_layers=1e-4, bottom=1e-4, top_of_trunk=1e-4)
    second = optimizer.make_optimizer(stage, LABELS, 1)
    carried = optimizer.carry_moments(second.init(PARAMS), state)
    gradients = jax.tree.map(jnp.ones_like, PARAMS)
    _, after = second.update(gradients, carried, PARAMS)
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
