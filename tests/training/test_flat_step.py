"""The step on the list of a state's arrays, and how these lie on a GPU."""

import jax
import numpy as np
import pytest
from tiny_runs import make_config

from mammo_jax.common import devices
from mammo_jax.models import build_model, read_model_config
from mammo_jax.training.checkpoint import Checkpoints, Position
from mammo_jax.training.flat_step import jit_flat_step
from mammo_jax.training.stage_step import make_train_step

AS_ON_A_GPU = (3, 0, 1, 2)


@pytest.fixture(params=[False, True], ids=["as on a CPU", "as on a GPU"])
def is_gpu(monkeypatch, request):
    """Whether kernels lie as on a GPU; the arithmetic is that of this machine."""
    monkeypatch.setattr(devices, "_is_of_gpus", lambda sharding: request.param)
    return request.param


def _step():
    """A train step of all layers and its state, on a mesh of one device."""
    mesh = devices.make_mesh(1, 1)
    config = make_config(batch_norm="frozen")
    network = build_model(read_model_config(config.model), 0)
    step, state = make_train_step(
        network, stages=config.stages, stage="stage2", accum_steps=2, mesh=mesh
    )
    return step, devices.put_replicated(mesh, state), mesh


def _batch():
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 65536, (2, 128, 96), dtype=np.uint16),
        "label": np.array([0, 1], np.int32),
    }


def _layouts(tree):
    """Layouts of the arrays of four dimensions."""
    return {
        x.format.layout.major_to_minor for x in jax.tree.leaves(tree) if x.ndim == 4
    }


def test_flat_steps_are_the_steps(is_gpu):
    step, state, mesh = _step()
    flat_step, abstract = jit_flat_step(step.__wrapped__, state, mesh)
    compiled = flat_step.call.lower(abstract, _batch()).compile()
    copy = jax.tree.map(lambda x: x.copy(), state)
    arrays = flat_step.flatten(copy)
    # Nothing takes memory twice.
    assert all(x.is_deleted() == is_gpu for x in jax.tree.leaves(copy))
    for _ in range(3):
        state, loss = step(state, _batch())
        arrays, flat_loss = compiled(arrays, _batch())

    assert _layouts(arrays) == {AS_ON_A_GPU if is_gpu else (0, 1, 2, 3)}
    found = flat_step.restore(arrays)
    assert _layouts(found) == {(0, 1, 2, 3)}
    assert jax.tree.structure(found) == jax.tree.structure(state)
    np.testing.assert_allclose(float(flat_loss), float(loss), rtol=1e-5)
    for one, other in zip(*map(jax.tree.leaves, (found, state)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    assert float(flat_step.metrics(arrays).loss.compute()) == pytest.approx(
        float(state.metrics.loss.compute()), rel=1e-5
    )


def test_a_checkpoint_of_a_gpus_layout_is_that_of_any_machine(tmp_path, monkeypatch):
    step, state, mesh = _step()
    wanted = jax.tree.map(np.array, state)
    monkeypatch.setattr(devices, "_is_of_gpus", lambda sharding: True)
    flat_step, _ = jit_flat_step(step.__wrapped__, state, mesh)
    arrays = flat_step.flatten(state)
    with Checkpoints(tmp_path) as checkpoints:
        with flat_step.lend(arrays) as lent:
            checkpoints.save(lent, Position(step=1))
        assert all(x.is_deleted() for x in jax.tree.leaves(lent))
    assert not any(x.is_deleted() for x in arrays)

    monkeypatch.undo()
    like = devices.abstract(mesh, wanted)
    with Checkpoints(tmp_path) as checkpoints:
        found, position = checkpoints.restore_latest(lambda position: like)
    assert position.step == 1
    assert _layouts(found) == {(0, 1, 2, 3)}
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
