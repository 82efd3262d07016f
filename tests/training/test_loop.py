"""Checkpoints within an epoch come by the clock."""

import contextlib
import functools
import time
from unittest.mock import Mock

import jax.numpy as jnp
import pytest

from mammo_jax.common.signals import StopRequest
from mammo_jax.training import loop
from mammo_jax.training.checkpoint import Checkpoints, Position
from mammo_jax.training.experiment import Experiment
from mammo_jax.training.logs import Logs
from mammo_jax.training.state import TrainState


@pytest.mark.parametrize(
    ("minutes_ago", "step_in_epoch", "saves"),
    [(9.9, 3, False), (10.1, 3, True), (10.1, 6, False)],
)
def test_a_checkpoint_is_saved_when_its_minutes_have_passed(
    minutes_ago, step_in_epoch, saves
):
    checkpoints = Mock(spec=Checkpoints, saved_at=time.monotonic() - 60 * minutes_ago)
    experiment = Mock(spec=Experiment, steps_per_epoch=6)
    experiment.config = Mock(checkpoint_minutes=10.0)
    run = loop.Run(experiment, checkpoints, Mock(spec=Logs), StopRequest())
    state = TrainState.begin({"kernel": jnp.zeros(3)}, {}, 0.0)
    position = Position(step=9, step_in_epoch=step_in_epoch)
    seen = loop.Seen(jnp.zeros(()), {}, 9)
    now = functools.partial(contextlib.nullcontext, state)
    loop._save_within_epoch(run, now, position, seen)
    assert checkpoints.save.called == saves
