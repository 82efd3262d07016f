"""The epochs of a run: train, validate, keep the best, stop in time."""

import dataclasses
import itertools
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mammo_jax.common.devices import is_main_process
from mammo_jax.common.errors import RunStoppedError, UserError
from mammo_jax.common.progress import progress_bar
from mammo_jax.common.signals import StopRequest
from mammo_jax.images.grid import shrink
from mammo_jax.models.network_input import network_input
from mammo_jax.training import scoring
from mammo_jax.training.attention import Look, make_look
from mammo_jax.training.checkpoint import Checkpoints, Progress, first_line
from mammo_jax.training.experiment import Experiment
from mammo_jax.training.logs import Logs, Throughput
from mammo_jax.training.optimizer import rate_factor
from mammo_jax.training.profiling import StepTrace
from mammo_jax.training.state import Arrays, EpochMetrics, TrainState

_log = logging.getLogger(__name__)

# Of the input images in TensorBoard; packing them as they are would take a second.
_LOGGED_IMAGES, _LOGGED_HEIGHT = 4, 512


@dataclasses.dataclass(frozen=True)
class Run:
    """What the epochs of one run share."""

    experiment: Experiment
    checkpoints: Checkpoints
    logs: Logs
    trace: StepTrace
    stop: StopRequest


class LossWatch:
    """Stops the run at a loss that is no number, before such a state is saved."""

    def __init__(self) -> None:
        self._seen: tuple[jax.Array, dict, int] | None = None

    def look_at(self, loss: jax.Array, batch: dict, step: int) -> None:
        """Remembers a step's loss without waiting for it."""
        self._seen = loss, batch, step

    def check(self) -> float:
        """Waits for the remembered loss and returns it.

        Raises:
          UserError: it is not finite; names the batch's images.
        """
        if self._seen is None:
            return 0.0
        value, batch, step = float(self._seen[0]), *self._seen[1:]
        if not np.isfinite(value):
            raise _not_finite(f"the loss is {value}", batch, step)
        return value


def _not_finite(what: str, batch: dict, step: int) -> UserError:
    return UserError(
        f"{what} at step {step}, on the images "
        f"{', '.join(map(str, batch['image_id']))}; try lower learning rates "
        "(config.stages.STAGE.rates.GROUP)"
    )


def train(
    run: Run, state: TrainState, progress: Progress, first_step: Future | None
) -> Progress:
    """Trains from `progress` to the end of the last stage.

    Args:
      run: what stays the same.
      state: at `progress`.
      progress: where to begin.
      first_step: the compiled train step of its stage; None if all is done.

    Raises:
      RunStoppedError: a signal arrived; the state has been saved.
    """
    batches = run.experiment.training_batches(progress.step)
    first = next(batches)
    _log_input_images(run, progress, first)
    batches = itertools.chain([first], batches)
    compiled = {progress.stage: first_step.result()} if first_step else {}
    look_with = make_look(run.experiment)
    while not progress.finished:
        index = progress.stage
        if index not in compiled:
            compiled = {index: run.experiment.compiler_of_train_step(index)()}
        with jax.debug_nans(run.experiment.config.debug_nans):
            state, progress = _train_epoch(
                run, compiled[index], batches, state, progress
            )
        state, progress = _end_epoch(run, state, progress, look_with)
    return progress


def _train_epoch(
    run: Run, train_step: Any, batches: Any, state: TrainState, progress: Progress
) -> tuple[TrainState, Progress]:
    """The rest of the epoch in hand."""
    config = run.experiment.config
    stage = run.experiment.stages[progress.stage]
    if progress.step_in_epoch == 0:
        fresh = dataclasses.replace(state, metrics=EpochMetrics.empty())
        state = run.experiment.placed(fresh)
    bar = progress_bar(
        f"{config.task} {stage.name} epoch {progress.epoch + 1}/{stage.epochs}",
        total=run.experiment.steps_per_epoch,
        initial=progress.step_in_epoch,
        unit="step",
    )
    throughput, watch = Throughput(), LossWatch()
    with bar:
        while progress.step_in_epoch < run.experiment.steps_per_epoch:
            asked = time.perf_counter()
            batch = next(batches)
            throughput.add(config.batch_size, time.perf_counter() - asked)
            with run.trace.step(progress.step):
                state, loss = _step(run, train_step, state, batch, progress.step + 1)
            # The step before is looked at only now, so that the device has work.
            watch.check()
            progress = dataclasses.replace(
                progress,
                step=progress.step + 1,
                step_in_epoch=progress.step_in_epoch + 1,
            )
            watch.look_at(loss, batch, progress.step)
            bar.update()
            if progress.step % config.log_every_steps == 0:
                bar.set_postfix_str(f"loss {watch.check():.3f}")
                _log_training(run, state, progress, throughput)
            _save_within_epoch(run, state, progress, watch)
    watch.check()
    if throughput.images:
        _log_training(run, state, progress, throughput)
    return state, progress


def _step(
    run: Run, train_step: Any, state: TrainState, batch: dict, number: int
) -> tuple[TrainState, jax.Array]:
    try:
        return train_step(state, run.experiment.training_arrays(batch))
    except FloatingPointError as error:  # Only with config.debug_nans.
        raise _not_finite(first_line(error), batch, number) from error


def _save_within_epoch(
    run: Run, state: TrainState, progress: Progress, watch: LossWatch
) -> None:
    every = run.experiment.config.checkpoint_every_steps
    ends = progress.step_in_epoch == run.experiment.steps_per_epoch
    stopping = bool(run.stop)  # Asked once: a later signal has not been saved for.
    if stopping or (every and progress.step % every == 0 and not ends):
        watch.check()
        if not _all_finite(state.params):
            raise UserError(
                f"step {progress.step} made parameters that are not finite, though its "
                "loss was; try lower learning rates (config.stages.STAGE.rates.GROUP)"
            )
        run.checkpoints.save(state, progress)
    if stopping:
        run.stop.raise_if_set(
            f"saved at step {progress.step}; the same command goes on from there"
        )


@jax.jit
def _all_finite(params: dict[str, jax.Array]) -> jax.Array:
    return jnp.array([jnp.isfinite(value).all() for value in params.values()]).all()


def _log_training(
    run: Run, state: TrainState, progress: Progress, throughput: Throughput
) -> None:
    """Writes the epoch's means, the learning rates and the speed."""
    experiment = run.experiment
    stage = experiment.stages[progress.stage]
    steps = experiment.steps_per_epoch
    # The rates of the step that was just done.
    done = progress.epoch * steps + progress.step_in_epoch - 1
    factor = float(rate_factor(stage, steps)(done))
    means = {key: float(value) for key, value in state.metrics.compute().items()}
    run.logs.scalars(
        progress.step,
        {
            **{f"train/{key}": value for key, value in means.items()},
            **{f"learning_rate/{g}": rate * factor for g, rate in stage.rates.items()},
            **throughput.scalars(),
        },
    )
    throughput.restart()


def _end_epoch(
    run: Run,
    state: TrainState,
    progress: Progress,
    look_with: Callable[[Arrays, Arrays], Look],
) -> tuple[TrainState, Progress]:
    """Validates, decides what comes next, saves."""
    try:
        predictions = scoring.predict(
            run.experiment,
            state.evaluated_params,
            state.batch_stats,
            "validation",
            run.stop,
        )
    except RunStoppedError:
        run.checkpoints.save(state, progress)
        raise
    figures = scoring.summary(predictions)
    run.logs.scalars(
        progress.step,
        {f"validation/{key}": figures[key] for key in ("loss", "accuracy", "auc")},
    )
    if is_main_process():
        # Late: matplotlib takes a second, and training begins without it.
        from mammo_jax.training.validation_figures import log_validation

        look = look_with(state.evaluated_params, state.batch_stats)
        log_validation(run.logs, progress.step, run.experiment, predictions, look)
    score = figures[run.experiment.task.score]
    # One class alone has no AUC: the lowest loss is then the best.
    validation = {
        "score": -figures["loss"] if score is None else score,
        "loss": figures["loss"],
    }
    previous_stage = progress.stage
    progress = _advance(run.experiment, progress, validation)
    _log.info(
        "%s epoch %d: validation %s",
        run.experiment.config.task,
        progress.epochs_done,
        " ".join(f"{key} {_short(value)}" for key, value in figures.items()),
    )
    if progress.stage != previous_stage:
        state = run.experiment.enter_stage(progress.stage, state)
    run.checkpoints.save(state, progress, validation)
    run.stop.raise_if_set(
        f"saved at step {progress.step}; the same command goes on from there"
    )
    return state, progress


def _short(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _advance(
    experiment: Experiment, progress: Progress, validation: dict[str, float]
) -> Progress:
    """Counts an epoch; ends the stage when it is over or stopped gaining."""
    stage = experiment.stages[progress.stage]
    epoch, epochs_done = progress.epoch + 1, progress.epochs_done + 1
    gained = progress.lowest_loss is None or validation["loss"] < progress.lowest_loss
    without_gain = 0 if gained else progress.epochs_without_gain + 1
    progress = dataclasses.replace(
        progress,
        epoch=epoch,
        epochs_done=epochs_done,
        step_in_epoch=0,
        lowest_loss=validation["loss"] if gained else progress.lowest_loss,
        epochs_without_gain=without_gain,
    )
    if _is_better(validation, progress.best):
        progress = dataclasses.replace(
            progress, best=validation, best_epoch=epochs_done, best_step=progress.step
        )
    patience = experiment.config.early_stopping_patience
    if epoch < stage.epochs and not (patience and without_gain >= patience):
        return progress
    if progress.stage + 1 == len(experiment.stages):
        return dataclasses.replace(progress, finished=True)
    return dataclasses.replace(
        progress,
        stage=progress.stage + 1,
        epoch=0,
        lowest_loss=None,
        epochs_without_gain=0,
    )


def _is_better(new: dict[str, float], best: dict[str, float] | None) -> bool:
    """A higher score, or the same with a lower loss."""
    if best is None:
        return True
    return (new["score"], -new["loss"]) > (best["score"], -best["loss"])


def _log_input_images(run: Run, progress: Progress, batch: dict) -> None:
    """Shows a few training images as the network sees them, at most 512 pixels high."""
    seen = jax.jit(network_input)(
        batch["image"][:_LOGGED_IMAGES],
        batch["channel_shift"][:_LOGGED_IMAGES],
        run.experiment.pixel_mean,
    )
    images = (np.asarray(seen) + run.experiment.pixel_mean) / 255
    shown = np.stack([shrink(x, _LOGGED_HEIGHT / len(x)) for x in images])
    run.logs.images(progress.step, "train/augmented_inputs", np.clip(shown, 0, 1))
