"""Checkpoints: which are kept, and what happens to damaged ones."""

import dataclasses
import gc
import shutil
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mammo_jax.common.errors import UserError
from mammo_jax.training.checkpoint import Checkpoints, Position
from mammo_jax.training.state import EpochMetrics, TrainState

# When a checkpoint turns out to be damaged, Orbax drops coroutines and arrays that it
# was still reading; what these then say has no bearing on what is restored.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning",
    "ignore:coroutine .* was never awaited:RuntimeWarning",
)


def _state(value: float) -> TrainState:
    return TrainState(
        params={"trunk/kernel": jnp.full((4, 3), value)},
        batch_stats={"trunk/mean": jnp.full(3, -value)},
        opt_state={"mu": jnp.full((4, 3), 2 * value)},
        metrics=EpochMetrics.empty(),
    )


def _save(directory, scores) -> None:
    with Checkpoints(directory) as checkpoints:
        for step, score in enumerate(scores, start=1):
            position = Position(step=step, epochs_done=step)
            checkpoints.save(
                _state(step), position, {"score": score, "loss": 1.0 - score}
            )


def _restore(directory):
    with Checkpoints(directory) as checkpoints:
        return checkpoints.restore_latest(lambda position: _state(0.0))


def test_the_time_of_the_last_save_is_known(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        begun = checkpoints.saved_at
        assert time.monotonic() - 60 < begun <= time.monotonic()
        checkpoints.save(_state(1.0), Position(step=1))
        assert begun < checkpoints.saved_at <= time.monotonic()


def test_the_latest_comes_back_with_its_progress(tmp_path):
    _save(tmp_path, [0.1, 0.2, 0.3])
    state, position = _restore(tmp_path)
    assert position == Position(step=3, epochs_done=3)
    jax.tree.map(np.testing.assert_array_equal, state, _state(3.0))


def test_early_stopping_compares_no_losses_of_two_units(tmp_path):
    """An earlier version's `lowest_loss` was not weighted by class."""
    begun = Position(
        step=3, epochs_done=3, lowest_balanced_loss=0.4, epochs_without_gain=2
    )
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(_state(3.0), begun, {"score": 0.5, "loss": 0.4})
    metadata = tmp_path / "3/_CHECKPOINT_METADATA"
    text = metadata.read_text()
    assert "lowest_balanced_loss" in text
    metadata.write_text(text.replace("lowest_balanced_loss", "lowest_loss"))
    _, position = _restore(tmp_path)
    # Without a lowest loss, the next epoch gains.
    assert position == Position(step=3, epochs_done=3, epochs_without_gain=2)


def test_the_latest_two_and_the_best_are_kept(tmp_path):
    _save(tmp_path, [0.1, 0.9, 0.3, 0.4, 0.5])
    kept = {int(path.name) for path in tmp_path.iterdir() if path.name.isdigit()}
    assert kept == {2, 4, 5}


def test_of_equally_good_checkpoints_the_first_is_kept(tmp_path):
    _save(tmp_path, [0.5] * 5)
    kept = {int(path.name) for path in tmp_path.iterdir() if path.name.isdigit()}
    assert kept == {1, 4, 5}


def _name_a_field_of_another_version(step) -> None:
    path = step / "_CHECKPOINT_METADATA"
    text = path.read_text()
    assert "best_epoch" in text
    path.write_text(text.replace("best_epoch", "best_of_epochs"))


def _cut(path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    "damage",
    [
        lambda step: (step / "_CHECKPOINT_METADATA").write_text(""),
        _name_a_field_of_another_version,
        lambda step: shutil.rmtree(step / "model"),
        lambda step: [_cut(file) for file in step.rglob("d/*") if file.is_file()],
        lambda step: (shutil.rmtree(step), step.mkdir()),
    ],
    ids=["metadata", "version", "missing", "truncated", "empty"],
)
def test_a_damaged_latest_checkpoint_falls_back_to_the_one_before(tmp_path, damage):
    _save(tmp_path, [0.1, 0.2, 0.3])
    damage(tmp_path / "3")
    state, position = _restore(tmp_path)
    gc.collect()  # What is dropped is dropped here, and not in another test.
    assert position.step == 2
    jax.tree.map(np.testing.assert_array_equal, state, _state(2.0))


def test_checkpoints_of_another_model_are_an_error(tmp_path):
    _save(tmp_path, [0.1])
    other = dataclasses.replace(_state(0.0), params={"head/kernel": jnp.zeros(2)})
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(UserError, match="none of the checkpoints"),
    ):
        checkpoints.restore_latest(lambda position: other)


def test_moving_averages_come_back_and_are_what_a_model_loads(tmp_path):
    state = dataclasses.replace(_state(1.0), averages=_state(7.0).params)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, Position(step=1))
    with Checkpoints(tmp_path) as checkpoints:
        like = dataclasses.replace(_state(0.0), averages=_state(0.0).params)
        restored, _ = checkpoints.restore_latest(lambda position: like)
        params, _ = checkpoints.load_model(1, like.params, like.batch_stats)
    jax.tree.map(np.testing.assert_array_equal, restored, state)
    jax.tree.map(np.testing.assert_array_equal, params, state.averages)


def test_a_disk_without_room_is_an_error_before_anything_is_written(
    tmp_path, monkeypatch
):
    _save(tmp_path, [0.1])
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(UserError, match="no room for checkpoints"),
    ):
        checkpoints.save(_state(2.0), Position(step=2))
    assert _restore(tmp_path)[1].step == 1


# Files may not grow beyond a limit: what a disk that fills up during a save does.
FULL_DISK = """
import resource, sys
from pathlib import Path
import jax
from mammo_jax.common.errors import UserError
from mammo_jax.training.checkpoint import Checkpoints, Position
from mammo_jax.training.state import EpochMetrics, TrainState

kernel = jax.random.normal(jax.random.key(0), (512, 512))
state = TrainState({"kernel": kernel}, {}, {}, EpochMetrics.empty())
with Checkpoints(Path(sys.argv[1])) as checkpoints:
    checkpoints.save(state, Position(step=1))
try:
    with Checkpoints(Path(sys.argv[1])) as checkpoints:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
        checkpoints.save(state, Position(step=2))
except UserError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
with Checkpoints(Path(sys.argv[1])) as checkpoints:
    print("back at", checkpoints.restore_latest(lambda position: state)[1].step)
"""


def test_a_disk_that_fills_up_leaves_the_checkpoint_before(tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    refusal, after = result.stdout.splitlines()
    assert "could not be written" in refusal
    assert after == "back at 1"


def test_without_checkpoints_there_is_nothing_to_restore(tmp_path):
    assert _restore(tmp_path) is None
