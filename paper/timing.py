"""How long an optimiser step takes here, tried before anything is run."""

import time
from collections.abc import Sequence

import jax

from mammo_jax.models.initializers import draw_values
from mammo_jax.training.experiment import open_experiment
from paper.plan import PlannedRun

_TIMED_STEPS = 2
Key = tuple[str, str, str, bool]


def kind_of_step(run: PlannedRun) -> Key:
    """Runs of one kind have steps of about one length."""
    row, config = run.row, run.config
    return config.task, row.trunk, config.model.stem, row.original


def time_steps(runs: Sequence[PlannedRun]) -> dict[Key, float]:
    """Seconds of a step of the last stage, for each kind of step that runs have."""
    seconds: dict[Key, float] = {}
    for run in runs:
        if run.row.kind == "forest":
            continue
        if kind_of_step(run) not in seconds:
            seconds[kind_of_step(run)] = _time_step(run)
    return seconds


def _time_step(run: PlannedRun) -> float:
    experiment = open_experiment(run.config)
    last = len(experiment.settings.stages) - 1
    values = draw_values(run.config.seed, *experiment.abstract)
    state = experiment.enter_stage(last, experiment.initial_state(*values))
    train_step = experiment.train_step(last)
    batch = experiment.training_arrays(next(experiment.training_batches(0)))
    state, loss = train_step(state, batch)
    jax.block_until_ready(loss)  # Compiled by now.
    start = time.perf_counter()
    for _ in range(_TIMED_STEPS):
        state, loss = train_step(state, batch)
    jax.block_until_ready(loss)
    return (time.perf_counter() - start) / _TIMED_STEPS
