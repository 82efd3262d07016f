"""Checkpoints of a run: the latest two and the best, written in the background.

A checkpoint holds the model, the optimiser with the epoch's metrics, and the
run's progress as JSON. The position in the data needs no file of its own: batch
n is a pure function of the seed and n.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from mammo_jax.errors import UserError
from mammo_jax.training.state import Arrays, TrainState


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Attributes:
      step: optimiser steps done, over all stages.
      stage: index of the stage in hand.
      epoch: epochs finished in this stage.
      epochs_done: epochs finished over all stages.
      step_in_epoch: steps done in the epoch in hand.
      lowest_loss: best validation loss of this stage, for early stopping.
      epochs_without_gain: epochs since then.
      best: validation `score` and `loss` of the best epoch of the run.
      best_epoch: the epoch (over all stages, from 1) that reached it.
      best_step: the step of its checkpoint.
      finished: the last stage has ended.
    """

    step: int = 0
    stage: int = 0
    epoch: int = 0
    epochs_done: int = 0
    step_in_epoch: int = 0
    lowest_loss: float | None = None
    epochs_without_gain: int = 0
    best: dict[str, float] | None = None
    best_epoch: int = 0
    best_step: int = 0
    finished: bool = False


def _parts(state: TrainState) -> dict[str, Any]:
    """The state as the named parts of a checkpoint."""
    return {
        "model": {"params": state.params, "batch_stats": state.batch_stats},
        "training": {"opt_state": state.opt_state, "metrics": state.metrics},
    }


def _abstract(tree: Any) -> Any:
    """Shapes, types and places of a tree of arrays."""

    def describe(x: Any) -> jax.ShapeDtypeStruct:
        sharding = getattr(x, "sharding", None) or jax.sharding.SingleDeviceSharding(
            jax.devices()[0]
        )
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    return jax.tree.map(describe, tree)


class Checkpoints:
    """The checkpoints below one folder."""

    def __init__(self, directory: Path):
        policies = ocp.training.preservation_policies
        self._checkpointer = ocp.training.Checkpointer(
            directory.absolute(),
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(
                1
            ),
            preservation_policy=policies.AnyPreservationPolicy(
                [
                    policies.LatestN(2),
                    policies.BestN(
                        n=1,
                        get_metric_fn=lambda kept: (kept["score"], -kept["loss"]),
                        keep_checkpoints_without_metrics=False,
                    ),
                ]
            ),
            cleanup_tmp_directories=True,
        )

        self._pending: Any = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self._wait()
        self._checkpointer.close()

    def save(
        self,
        state: TrainState,
        progress: Progress,
        validation: Mapping[str, float] | None = None,
    ) -> None:
        """Starts to save; returns once the arrays are copied.

        Args:
          state: of the run.
          progress: of the run.
          validation: `score` and `loss`, at the end of an epoch.
        """
        self._wait()
        self._pending = self._checkpointer.save_checkpointables_async(
            progress.step,
            _parts(state),
            force=True,
            overwrite=any(
                kept.step == progress.step for kept in self._checkpointer.checkpoints
            ),
            metrics=None if validation is None else dict(validation),
            custom_metadata=dataclasses.asdict(progress),
        )

    def _wait(self) -> None:
        """Lets a save in the background end, or raises its error."""
        if self._pending is not None:
            self._pending.result()
            self._pending = None

    def latest(self) -> tuple[int, Progress] | None:
        """Step and progress of the latest checkpoint, None without any."""
        latest = self._checkpointer.latest
        return None if latest is None else (latest.step, self._progress(latest.step))

    def _progress(self, step: int) -> Progress:
        metadata = self._checkpointer.checkpointables_metadata(step)
        return Progress(**(metadata.custom_metadata or {}))

    def restore(self, step: int, like: TrainState) -> TrainState:
        """Reads a checkpoint into the shapes of `like`.

        Raises:
          UserError: the checkpoint is of another model or stage, or is damaged.
        """
        parts = self._load(step, _parts(like))
        return TrainState(**parts["model"], **parts["training"])

    def load_model(
        self, step: int, params: Arrays, batch_stats: Arrays
    ) -> tuple[Arrays, Arrays]:
        """Reads parameters and statistics only; the arguments give the shapes."""
        like = {"model": {"params": params, "batch_stats": batch_stats}}
        model = self._load(step, like)["model"]
        return model["params"], model["batch_stats"]

    def _load(self, step: int, like: dict[str, Any]) -> dict[str, Any]:
        self._wait()
        folder = self._checkpointer.directory / str(step)
        try:
            return self._checkpointer.load_checkpointables(step, _abstract(like))
        except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
            raise UserError(
                f"checkpoint {folder} does not fit this model: "
                f"{first_line(error)}; choose another --workdir for another model"
            ) from error


def first_line(error: Exception) -> str:
    """The first line of an error's text, shortened."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]
