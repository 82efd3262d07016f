"""How a run begins."""

from types import SimpleNamespace

from mammo_jax import train
from mammo_jax.training.checkpoint import Progress


def test_a_run_whose_training_is_done_compiles_no_step():
    # Anything else that it asks of the experiment or the compiler is an error.
    done = ("state", Progress(step=7, finished=True))
    checkpoints = SimpleNamespace(restore_latest=lambda like: done)
    assert train._begin(SimpleNamespace(), checkpoints, "", None) == (*done, None)


def test_a_run_that_goes_on_compiles_the_step_of_its_stage():
    found = ("state", Progress(step=7, stage=1))
    checkpoints = SimpleNamespace(restore_latest=lambda like: found)
    experiment = SimpleNamespace(compiler_of_train_step=lambda index: f"step {index}")
    helpers = SimpleNamespace(submit=lambda step: f"{step}, compiled")
    begun = train._begin(experiment, checkpoints, "", helpers)
    assert begun == (*found, "step 1, compiled")
