"""The epochs of a run: train, validate, keep the best, stop in time."""

import contextlib
import dataclasses
import functools
import itertools
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mammo_jax.common.devices import is_main_process, largest_of_processes
from mammo_jax.common.errors import RunStoppedError, UserError, first_line
from mammo_jax.common.progress import progress, waiting
from mammo_jax.common.signals import StopRequest
from mammo_jax.datasets.pipeline import Batch
from mammo_jax.images.grid import shrink
from mammo_jax.models.compiling import explained_memory
from mammo_jax.models.network_input import network_input
from mammo_jax.training import scoring
from mammo_jax.training.checkpoint import Checkpoints, Position
from mammo_jax.training.experiment import Experiment
from mammo_jax.training.flat_step import FlatState, FlatStep
from mammo_jax.training.logs import Logs, Throughput
from mammo_jax.training.optimizer import rate_factor
from mammo_jax.training.shown_class_maps import ShownMap, make_shown_map
from mammo_jax.training.state import EpochMetrics, TrainState

_log = logging.getLogger(__name__)

# The input images in TensorBoard are small: packing whole ones would take a second.
_LOGGED_IMAGES, _LOGGED_HEIGHT = 4, 512
_STEPS_TO_A_STOP = 10
COMPILING = "compiling (about 20 s the first time on a CPU, minutes on a GPU)"
LOWER_RATES = "try lower learning rates (config.stages.STAGE.rates.GROUP)"


@dataclasses.dataclass(frozen=True)
class Run:
    """Parts of a run that its epochs share."""

    experiment: Experiment
    checkpoints: Checkpoints
    logs: Logs
    stop: StopRequest


class Seen(NamedTuple):
    """A step that was dispatched; its loss is not waited for before `_checked`."""

    loss: jax.Array
    batch: Batch
    step: int


def _checked(seen: Seen) -> float:
    """Waits for a step's loss and returns it.

    Raises:
      UserError: it is not finite; names the batch's images.
    """
    value = float(seen.loss)
    if not np.isfinite(value):
        raise _not_finite(f"the loss is {value}", seen.batch, seen.step)
    return value


def _not_finite(what: str, batch: Batch, step: int) -> UserError:
    return UserError(
        f"{what} at step {step}, on the images "
        f"{', '.join(map(str, batch['image_id']))}; {LOWER_RATES}"
    )


def train(
    run: Run,
    state: TrainState,
    position: Position,
    first_step: Future[FlatStep] | None,
) -> Position:
    """Trains from `position` and its `state` to the end of the last stage.

    `first_step` is the compiled train step of the present stage; None if all is done.

    Raises:
      RunStoppedError: a signal arrived; the state has been saved.
    """
    reader = run.experiment.training_batches(position.step)
    with contextlib.closing(reader):  # It may have processes of its own.
        return _train(run, state, position, first_step, reader)


def _train(
    run: Run,
    state: TrainState,
    position: Position,
    first_step: Future[FlatStep] | None,
    batches: Iterator[Batch],
) -> Position:
    first = next(batches)
    _log_input_images(run, position, first)
    batches = itertools.chain([first], batches)
    if run.experiment.config.profile and is_main_process():
        batches = _traced(batches, str(run.logs.directory))
    config = run.experiment.config
    _log.info(
        "%s: every batch of %d in %d microbatches (config.accum_steps)",
        config.task,
        config.batch_size,
        config.accum_steps,
    )
    compiled = {}
    if first_step:
        with waiting(COMPILING), explained_memory(None):
            compiled = {position.stage: first_step.result()}
    shown_map = make_shown_map(run.experiment)
    while not position.finished:
        index = position.stage
        if index not in compiled:
            with waiting(COMPILING), explained_memory(None):
                compiled = {index: run.experiment.compiler_of_train_step(index)()}
        debug_nans = jax.debug_nans(run.experiment.config.debug_nans)
        with debug_nans, explained_memory(compiled[index].call):
            state, position = _train_epoch(
                run, compiled[index], batches, state, position
            )
        state, position = _end_epoch(run, state, position, shown_map)
    return position


def _traced(batches: Iterator[Batch], directory: str) -> Iterator[Batch]:
    """Yields the batches, and traces a few steps for TensorBoard's profile page."""
    # The first steps compile and fill the pipeline.
    yield from itertools.islice(batches, 3)
    with jax.profiler.trace(directory):
        yield from itertools.islice(batches, 5)
    yield from batches


def _train_epoch(
    run: Run, train_step: FlatStep, batches: Any, state: TrainState, position: Position
) -> tuple[TrainState, Position]:
    """Trains for the rest of the present epoch."""
    config = run.experiment.config
    stage = run.experiment.settings.stages[position.stage]
    if position.step_in_epoch == 0:
        fresh = dataclasses.replace(state, metrics=EpochMetrics.empty())
        state = run.experiment.placed(fresh)
    bar = progress(
        None,
        f"{config.task} {stage.name} epoch {position.epoch + 1}/{stage.epochs}",
        total=run.experiment.steps_per_epoch,
        initial=position.step_in_epoch,
        unit="step",
    )
    throughput, seen = Throughput(), None
    arrays = train_step.flatten(state)
    with bar:
        while position.step_in_epoch < run.experiment.steps_per_epoch:
            asked = time.perf_counter()
            batch = next(batches)
            throughput.waited += time.perf_counter() - asked
            throughput.images += config.batch_size
            with jax.profiler.StepTraceAnnotation("train", step_num=position.step):
                arrays, loss = _step(run, train_step, arrays, batch, position.step + 1)
            # The step before is looked at only now, so that the device has work.
            if seen:
                _checked(seen)
            position = dataclasses.replace(
                position,
                step=position.step + 1,
                step_in_epoch=position.step_in_epoch + 1,
            )
            seen = Seen(loss, batch, position.step)
            bar.update()
            if position.step % config.log_every_steps == 0:
                bar.set_postfix_str(f"loss {_checked(seen):.3f}")
                _log_training(run, train_step.metrics(arrays), position, throughput)
                throughput = Throughput()
            lend_state = functools.partial(train_step.lend, arrays)
            _save_within_epoch(run, lend_state, position, seen)
    if seen:
        _checked(seen)
    if throughput.images:
        _log_training(run, train_step.metrics(arrays), position, throughput)
    return train_step.restore(arrays), position


def _step(
    run: Run, train_step: FlatStep, arrays: FlatState, batch: Batch, number: int
) -> tuple[FlatState, jax.Array]:
    try:
        return train_step.call(arrays, run.experiment.training_arrays(batch))
    except FloatingPointError as error:  # Raised only with config.debug_nans.
        raise _not_finite(first_line(error), batch, number) from error


def _save_within_epoch(
    run: Run,
    lend_state: Callable[[], AbstractContextManager[TrainState]],
    position: Position,
    seen: Seen,
) -> None:
    ends = position.step_in_epoch == run.experiment.steps_per_epoch
    # Several processes ask one another, which waits for the step, so not after each.
    if jax.process_count() > 1 and position.step % _STEPS_TO_A_STOP:
        return
    # It is asked once: nothing is saved for a later signal.
    stopping = bool(run.stop)
    minutes = (time.monotonic() - run.checkpoints.saved_at) / 60
    due = minutes >= run.experiment.config.checkpoint_minutes
    # Their clocks differ, and they save together.
    if stopping or (largest_of_processes(due) and not ends):
        _checked(seen)
        with lend_state() as state:
            if not _all_finite(state.params):
                raise UserError(
                    f"step {position.step} made parameters that are not finite, though "
                    f"its loss was; {LOWER_RATES}"
                )
            run.checkpoints.save(state, position)
    if stopping:
        _stop_if_asked(run, position)


def _stop_if_asked(run: Run, position: Position) -> None:
    run.stop.raise_if_set(
        f"saved at step {position.step}; the same command goes on from there"
    )


@jax.jit
def _all_finite(params: dict[str, jax.Array]) -> jax.Array:
    return jnp.array([jnp.isfinite(value).all() for value in params.values()]).all()


def _log_training(
    run: Run, metrics: EpochMetrics, position: Position, throughput: Throughput
) -> None:
    """Writes the epoch's means, the learning rates and the speed."""
    stage = run.experiment.settings.stages[position.stage]
    steps = run.experiment.steps_per_epoch
    # The rates of the step that was just done.
    done = position.epoch * steps + position.step_in_epoch - 1
    factor = float(rate_factor(stage, steps)(done))
    means = metrics.compute()
    run.logs.scalars(
        position.step,
        {
            **{f"{key}/train": float(value) for key, value in means.items()},
            **{f"rate/{g}": rate * factor for g, rate in stage.rates.items()},
            **throughput.scalars(),
        },
    )


def _end_epoch(
    run: Run,
    state: TrainState,
    position: Position,
    shown_map: ShownMap,
) -> tuple[TrainState, Position]:
    """Validates, decides what comes next, saves.

    Early stopping watches the loss that is trained, in which every class weighs the
    same; TensorBoard shows it as `loss/validation` beside `loss/train`.
    """
    values = state.evaluated_params, state.batch_stats
    try:
        predictions = scoring.predict(run.experiment, *values, "validation", run.stop)
    except RunStoppedError:
        run.checkpoints.save(state, position)
        raise
    figures = scoring.summary(predictions)
    loss = scoring.balanced_loss(predictions)
    run.logs.scalars(
        position.step,
        {
            "loss/validation": loss,
            "loss/validation_unweighted": figures["loss"],
            "accuracy/validation": figures["accuracy"],
            "auc/validation": figures["auc"],
        },
    )
    if is_main_process():
        # Imported late: matplotlib takes a second, and training begins without.
        from mammo_jax.training.validation_figures import log_validation

        log_validation(
            run.logs,
            position.step,
            run.experiment,
            predictions,
            functools.partial(shown_map, *values),
        )
    score = figures[run.experiment.settings.task.score]
    # One class alone has no AUC: the lowest loss is then the best.
    validation = {"score": -loss if score is None else score, "loss": loss}
    previous_stage = position.stage
    position = _advance(run.experiment, position, validation)
    _log.info(
        "%s epoch %d: validation %s",
        run.experiment.config.task,
        position.epochs_done,
        " ".join(
            f"{key} {value:.3f}" if isinstance(value, float) else f"{key} {value}"
            for key, value in figures.items()
            if value is not None
        ),
    )
    if position.stage != previous_stage:
        state = run.experiment.enter_stage(position.stage, state)
    run.checkpoints.save(state, position, validation)
    _stop_if_asked(run, position)
    return state, position


def _advance(
    experiment: Experiment, position: Position, validation: dict[str, float]
) -> Position:
    """Counts an epoch; ends the stage when it is over or stopped gaining."""
    stage = experiment.settings.stages[position.stage]
    lowest, best = position.lowest_balanced_loss, position.best
    gained = lowest is None or validation["loss"] < lowest
    changes: dict[str, Any] = {
        "epoch": position.epoch + 1,
        "epochs_done": position.epochs_done + 1,
        "step_in_epoch": 0,
        "lowest_balanced_loss": validation["loss"] if gained else lowest,
        "epochs_without_gain": 0 if gained else position.epochs_without_gain + 1,
    }
    # The lower loss is the better of equal scores, and the first of equal losses.
    if best is None or _rank(validation) > _rank(best):
        changes |= {
            "best": validation,
            "best_epoch": position.epochs_done + 1,
            "best_step": position.step,
        }
    patience = experiment.config.early_stopping_patience
    stopped = patience and changes["epochs_without_gain"] >= patience
    if changes["epoch"] >= stage.epochs or stopped:
        if position.stage + 1 == len(experiment.settings.stages):
            changes["finished"] = True
        else:
            changes |= {
                "stage": position.stage + 1,
                "epoch": 0,
                "lowest_balanced_loss": None,
                "epochs_without_gain": 0,
            }
    return dataclasses.replace(position, **changes)


def _rank(validation: Mapping[str, float]) -> tuple[float, float]:
    return validation["score"], -validation["loss"]


def _log_input_images(run: Run, position: Position, batch: Batch) -> None:
    """Shows a few training images as the network sees them, at most 512 pixels high."""
    seen = jax.jit(network_input)(
        batch["image"][:_LOGGED_IMAGES],
        run.experiment.pixel_mean,
        batch["channel_shift"][:_LOGGED_IMAGES],
    )
    images = (np.asarray(seen) + run.experiment.pixel_mean) / 255
    shown = np.stack([shrink(x, _LOGGED_HEIGHT / len(x)) for x in images])
    run.logs.images(position.step, "train/augmented_inputs", np.clip(shown, 0, 1))
