"""Checkpoints of a run: the latest two and the best, written in the background.

A checkpoint holds the model, the optimiser with the epoch's metrics, and the run's
position as JSON. Batch n is a pure function of the seed and n.
"""

import contextlib
import dataclasses
import logging
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from mammo_jax.common.errors import UserError, first_line
from mammo_jax.training.state import Arrays, Leaves, TrainState

_log = logging.getLogger(__name__)

_LATEST = 2
# The latest ones, the best and the one being written.
KEPT_CHECKPOINTS = _LATEST + 2

# The errors that Orbax raises for files that are missing, cut off or misshapen.
_DAMAGES = (ValueError, KeyError, TypeError, OSError, ocp.errors.InvalidLayoutError)


@dataclasses.dataclass(frozen=True)
class Position:
    """Position of a run in its training."""

    step: int = 0  # optimiser steps done, over all stages
    stage: int = 0  # index of the present one
    epoch: int = 0  # epochs finished in this stage
    epochs_done: int = 0  # the same over all stages
    step_in_epoch: int = 0  # steps done in the present epoch
    lowest_balanced_loss: float | None = None  # of this stage, for early stopping
    epochs_without_gain: int = 0  # since then
    best: dict[str, float] | None = None  # `score` and `loss` of the best epoch
    best_epoch: int = 0  # its number over all stages, from 1
    best_step: int = 0  # step of its checkpoint
    finished: bool = False  # the last stage has ended


def _parts(state: TrainState) -> dict[str, Any]:
    """Splits a state into the named parts of a checkpoint.

    `model` is what validation saw: the moving averages, if there are any. Then the
    parameters that the optimiser moves are in `training`.
    """
    model = {"params": state.evaluated_params, "batch_stats": state.batch_stats}
    training = {"opt_state": state.opt_state, "metrics": state.metrics}
    if state.averages is not None:
        training["params"] = state.params
    return {"model": model, "training": training}


def _state(parts: dict[str, Any]) -> TrainState:
    """Puts a state together from the parts that `_parts` gives."""
    model, training = parts["model"], parts["training"]
    averages = model["params"] if "params" in training else None
    return TrainState(**{**model, **training}, averages=averages)


class Checkpoints:
    """Checkpoints below one folder.

    Attributes:
      saved_at: `time.monotonic()` of the last save, or of the beginning.
    """

    def __init__(self, directory: Path):
        policies = ocp.training.preservation_policies
        saving = ocp.training.save_decision_policies
        self._checkpointer = ocp.training.Checkpointer(
            directory.absolute(),
            save_decision_policy=saving.FixedIntervalPolicy(1),
            preservation_policy=policies.AnyPreservationPolicy(
                [
                    policies.LatestN(_LATEST),
                    policies.BestN(
                        n=1,
                        # The first of equals is the best, as in the loop.
                        get_metric_fn=lambda x: (x["score"], -x["loss"], -x["step"]),
                        keep_checkpoints_without_metrics=False,
                    ),
                ]
            ),
            # Nobody waits for the thread that cleans up: a program may end before it.
            cleanup_tmp_directories=directory.exists(),
        )
        self._pending: Any = None
        self.saved_at = time.monotonic()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # After a failed save Orbax raises its error once more on closing.
        again = (ValueError, OSError) if kind else ()
        try:
            self._wait()
        except UserError:
            again = (ValueError, OSError)
            raise
        finally:
            with contextlib.suppress(*again):
                self._checkpointer.close()

    def save(
        self,
        state: TrainState,
        position: Position,
        validation: Mapping[str, float] | None = None,
    ) -> None:
        """Starts to save; returns once the arrays are copied.

        `validation` has `score` and `loss`, at the end of an epoch.

        Raises:
          UserError: the save before failed, or there is no room for this one.
        """
        self._wait()
        self.require_space(state)
        self._pending = self._checkpointer.save_checkpointables_async(
            position.step,
            _parts(state),
            force=True,
            overwrite=any(
                kept.step == position.step for kept in self._checkpointer.checkpoints
            ),
            metrics=validation and {**validation, "step": position.step},
            custom_metadata=dataclasses.asdict(position),
        )
        self.saved_at = time.monotonic()

    def require_space(self, state: TrainState, count: int = 1) -> None:
        """Makes sure that `count` more checkpoints fit on the disk.

        Raises:
          UserError: they do not.
        """
        directory = Path(self._checkpointer.directory)
        leaves = jax.tree.leaves(_parts(state))
        needed = count * sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
        free = shutil.disk_usage(directory).free
        if free < needed:
            raise UserError(
                f"no room for checkpoints in {directory}: {free / 1e6:.1f} MB are free "
                f"and {needed / 1e6:.1f} MB are needed; make room and start the same "
                "command again, or choose another --workdir=DIR"
            )

    def _wait(self) -> None:
        """Lets a save in the background end, or raises its error."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        try:
            pending.result()
        except (ValueError, OSError) as error:
            raise UserError(
                f"a checkpoint could not be written to {self._checkpointer.directory}: "
                f"{first_line(error)}"
            ) from error

    def restore_latest(
        self, like: Callable[[Position], TrainState]
    ) -> tuple[TrainState, Position] | None:
        """Reads the latest checkpoint that is whole; None if there is none at all.

        Raises:
          UserError: there are checkpoints, and none of them can be read.
        """
        kept = [checkpoint.step for checkpoint in self._checkpointer.checkpoints]
        for step in reversed(kept):
            try:
                position = self._position(step)
                return _state(self._load(step, _parts(like(position)))), position
            except UserError as error:
                _log.warning("%s; going back to the one before", error)
        if kept:
            raise UserError(
                f"none of the checkpoints in {self._checkpointer.directory} can be "
                "read; remove that folder to start anew"
            )
        return None

    def _position(self, step: int) -> Position:
        try:
            metadata = self._checkpointer.checkpointables_metadata(step)
            values = metadata.custom_metadata or {}
        except _DAMAGES as error:
            raise self._damaged(step, first_line(error)) from error
        if values.get("step") != step:
            raise self._damaged(step, "its position cannot be read")
        # An earlier version's loss was not weighted by class; the next epoch gains.
        values.pop("lowest_loss", None)
        try:
            return Position(**values)
        except TypeError as error:
            raise self._damaged(step, f"its position: {first_line(error)}") from error

    def load_model(
        self, step: int, params: Leaves, batch_stats: Leaves
    ) -> tuple[Arrays, Arrays]:
        """Reads parameters and statistics only; the arguments give the shapes."""
        like = {"model": {"params": params, "batch_stats": batch_stats}}
        model = self._load(step, like)["model"]
        return model["params"], model["batch_stats"]

    def _load(self, step: int, like: dict[str, Any]) -> dict[str, Any]:
        self._wait()
        try:
            parts: dict[str, Any] = self._checkpointer.load_checkpointables(step, like)
        except _DAMAGES as error:
            raise self._damaged(step, first_line(error)) from error
        return parts

    def _damaged(self, step: int, reason: str) -> UserError:
        folder = self._checkpointer.directory / str(step)
        return UserError(
            f"checkpoint {folder} is damaged or of another model ({reason})"
        )
