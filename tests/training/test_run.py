"""How a run begins."""

import gc
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from mammo_jax.training import run
from mammo_jax.training.checkpoint import Position


def test_a_run_whose_training_is_done_compiles_no_step():
    # Anything else that it asks of the experiment or the compiler is an error.
    done = ("state", Position(step=7, finished=True))
    checkpoints = SimpleNamespace(restore_latest=lambda like: done)
    assert run._begin(SimpleNamespace(), checkpoints, "", None) == (*done, None)


def test_a_run_that_goes_on_compiles_the_step_of_its_stage():
    found = ("state", Position(step=7, stage=1))
    checkpoints = SimpleNamespace(restore_latest=lambda like: found)
    experiment = SimpleNamespace(compiler_of_train_step=lambda index: f"step {index}")
    helpers = SimpleNamespace(submit=lambda step: f"{step}, compiled")
    begun = run._begin(experiment, checkpoints, "", helpers)
    assert begun == (*found, "step 1, compiled")


def begun_anew(monkeypatch, *, draw, compiler=lambda index: lambda: "compiled"):
    """What `_begin` gives where there is no checkpoint."""
    checkpoints = SimpleNamespace(
        restore_latest=lambda like: None, require_space=lambda *arguments: None
    )
    experiment = SimpleNamespace(
        config=SimpleNamespace(task="whole", seed=3),
        abstract=("undrawn", "statistics"),
        abstract_state=lambda index: None,
        compiler_of_train_step=compiler,
        initial_state=lambda *arguments: arguments,
    )
    monkeypatch.setattr(run, "draw_values", draw)
    with ThreadPoolExecutor(2) as helpers:
        state, position, first_step = run._begin(experiment, checkpoints, "", helpers)
        return state, position, first_step.result()


def test_a_new_run_has_drawn_values_and_a_compiled_step(monkeypatch):
    found = begun_anew(monkeypatch, draw=lambda *arguments: arguments)
    assert found == ((3, "undrawn", "statistics"), Position(), "compiled")


def test_what_fails_in_a_helper_ends_the_run(monkeypatch):
    def fail(*arguments):
        raise MemoryError

    with pytest.raises(MemoryError):
        begun_anew(monkeypatch, draw=fail)
    with pytest.raises(MemoryError):
        begun_anew(monkeypatch, draw=lambda *x: x, compiler=lambda index: fail)
    assert gc.isenabled()
