"""A whole run: patch classifier, conversion, whole-image training, test."""

import contextlib
import logging
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from mammo_jax.common import devices
from mammo_jax.common import run_directory as workdirs
from mammo_jax.common.errors import UserError
from mammo_jax.common.signals import StopRequest
from mammo_jax.datasets.pipeline import Dataset
from mammo_jax.evaluation.predictions import write_predictions
from mammo_jax.models.initializers import draw_values
from mammo_jax.models.model_config import read_model_config
from mammo_jax.training import ensemble, forest_run, phantom_data, scoring
from mammo_jax.training import experiment as experiments
from mammo_jax.training.checkpoint import KEPT_CHECKPOINTS, Checkpoints, Progress
from mammo_jax.training.experiment import Experiment
from mammo_jax.training.logs import Logs, log_hyperparameters
from mammo_jax.training.loop import Run, train
from mammo_jax.training.profiling import StepTrace
from mammo_jax.training.state import Arrays, TrainState
from mammo_jax.weights import conversion, pretrained
from mammo_jax.weights.model_description import Description, save_description
from mammo_jax.weights.model_directory import load_variables, save_variables

_log = logging.getLogger(__name__)

PATCH_DIR = "patch"


def train_and_evaluate(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Runs `config` in `workdir`, going on from where an earlier call stopped.

    Writes `config.json`, `checkpoints/`, TensorBoard files, the model (`model.json`,
    `model.safetensors`), `predictions/*.csv`, `report.html` and `metrics.json`. A
    whole-image run first trains its patch classifier in `workdir/patch`, unless
    `config.init_from` names one or a whole-image run to go on from. Runs in
    `config.ensemble` score the same images, and the means are written to
    `workdir/ensemble`.

    Returns:
      What `metrics.json` holds.

    Raises:
      UserError: anything that the user can mend, before work where possible.
      RunStoppedError: a signal arrived; the state has been saved.
    """
    with StopRequest() as stop:
        return _train_and_evaluate(config, workdir, stop)


def _train_and_evaluate(
    config: ConfigDict, workdir: Path, stop: StopRequest
) -> dict[str, Any]:
    patch_first = config.task == "whole" and not config.init_from and "patch" in config
    parts = {"config": config}
    if patch_first:
        parts["config.patch"] = config.patch
    for name, part in parts.items():
        experiments.check_config(part, name)
    is_forest = config.model.top.kind == forest_run.FOREST
    if is_forest:
        forest_run.check_forest(config)
    with _claim(workdir, config):
        metrics_path = workdir / workdirs.METRICS_FILE
        if metrics_path.exists():
            metrics = workdirs.read_json(metrics_path)
            if "test" not in metrics:
                raise UserError(
                    f"{metrics_path} is damaged: it holds no figures of the test; "
                    "remove it, and the same command goes on from the last checkpoint"
                )
            _log.info("%s holds a finished run; nothing to do", workdir)
            return metrics
        dataset = experiments.open_data(config)
        ensemble.check_members(config, dataset, workdir)
        init_from = config.get("init_from", "")
        if patch_first:
            experiments.open_data(config.patch)
            init_from = str(workdir / PATCH_DIR)
            _train_and_evaluate(config.patch, workdir / PATCH_DIR, stop)
        run = forest_run.run_forest if is_forest else _run
        metrics = run(config, dataset, init_from, workdir, stop)
        if devices.is_main_process():
            # Late: matplotlib and scikit-learn take seconds.
            from mammo_jax.training.run_report import write_run_report

            write_run_report(workdir)
            workdirs.write_json(metrics_path, metrics)
        devices.wait_for_all("written")
    return metrics


def _description(experiment: Experiment) -> Description:
    """What scoring needs to know of the training images."""
    config, grid = experiment.config, experiment.dataset.grid
    return Description(
        task=config.task,
        dataset=experiment.dataset.name,
        class_names=experiment.dataset.class_names,
        malignant_classes=experiment.task.malignant_classes,
        pixel_mean=experiment.pixel_mean,
        height=grid["height"],
        width=grid["width"],
        stretch=grid["stretch"],
        patch_size=grid["patch_size"] if config.task == "patch" else 0,
    )


@contextlib.contextmanager
def _claim(workdir: Path, config: ConfigDict) -> Iterator[None]:
    """The main process takes the directory and makes the data; the others wait."""
    if not devices.is_main_process():
        if devices.largest_of_processes(0):
            raise UserError("process 0 could not start; its message says why")
        yield
        return
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(workdirs.claim(workdir, config))
            if not (workdir / workdirs.METRICS_FILE).exists():
                phantom_data.prepare(config)
        except BaseException:
            devices.largest_of_processes(1)
            raise
        devices.largest_of_processes(0)
        yield


def _run(
    config: ConfigDict,
    dataset: Dataset,
    init_from: str,
    workdir: Path,
    stop: StopRequest,
) -> dict[str, Any]:
    experiment = experiments.make_experiment(config, dataset)
    writes = devices.is_main_process()
    if writes:
        save_description(workdir, _description(experiment))
    like = devices.abstract(experiment.mesh, experiment.abstract)
    trace = StepTrace(workdir if experiment.config.profile and writes else None)
    with (
        Checkpoints(workdir / "checkpoints") as checkpoints,
        contextlib.closing(trace),
        contextlib.ExitStack() as ends,
    ):
        helpers = ThreadPoolExecutor(2)
        ends.callback(helpers.shutdown, wait=False, cancel_futures=True)
        state, progress, first_step = _begin(
            experiment, checkpoints, init_from, helpers
        )
        with (
            stop.deferred(),
            Logs(workdir, resumed_at=progress.step, enabled=writes) as logs,
        ):
            run = Run(experiment, checkpoints, logs, trace, stop)
            progress = train(run, state, progress, first_step)
            best = checkpoints.load_model(progress.best_step, *like)
            if writes:
                save_variables(workdir, *best)
            return _evaluate(run, *best, progress, workdir)


def _evaluate(
    run: Run, params: Arrays, stats: Arrays, progress: Progress, workdir: Path
) -> dict[str, Any]:
    """Scores validation and test images with the best checkpoint."""
    metrics: dict[str, Any] = {
        "task": run.experiment.config.task,
        "dataset": run.experiment.dataset.name,
        "best_epoch": progress.best_epoch,
        "epochs": progress.epochs_done,
        "steps": progress.step,
    }
    own = {}
    for role in ("validation", "test"):
        own[role] = scoring.predict(run.experiment, params, stats, role, run.stop)
        if devices.is_main_process():
            write_predictions(workdir / "predictions" / f"{role}.csv", own[role])
        metrics[role] = scoring.summary(own[role])
    if ensemble.members(run.experiment.config):
        metrics["ensemble"] = ensemble.evaluate_ensemble(
            run.experiment, own, workdir, run.stop
        )
    figures = {f"test/{key}": metrics["test"][key] for key in ("auc", "accuracy")}
    run.logs.scalars(progress.step, figures)
    if devices.is_main_process():
        log_hyperparameters(run.logs, run.experiment.config, metrics)
    return metrics


def _begin(
    experiment: Experiment,
    checkpoints: Checkpoints,
    init_from: str,
    helpers: Executor,
) -> tuple[TrainState, Progress, Future | None]:
    """The state to train from, and its train step, unless all is done.

    The first values are drawn while the step is traced, and the step is compiled while
    the first batch is read. A program that ends in between waits for them.
    """
    restored = checkpoints.restore_latest(
        lambda progress: experiment.abstract_state(progress.stage)
    )
    if restored is not None:
        state, progress = restored
        _log.info("going on from step %d", progress.step)
        if progress.finished:
            return state, progress, None
        step = experiment.compiler_of_train_step(progress.stage)
        return state, progress, helpers.submit(step)
    known = _known_values(experiment, init_from)
    checkpoints.require_space(experiment.abstract_state(0), KEPT_CHECKPOINTS)
    drawn = helpers.submit(draw_values, experiment.config.seed, *known)
    first_step = helpers.submit(experiment.compiler_of_train_step(0))
    state = experiments.initial_state(experiment, *drawn.result())
    return state, Progress(), first_step


def _known_values(experiment: Experiment, init_from: str) -> tuple[Arrays, Arrays]:
    """Parameters and statistics: ImageNet's or a classifier's, the others not drawn.

    Raises:
      UserError: they do not fit the model.
    """
    config = experiment.config
    if config.task == "patch" and config.pretrained:
        path, model = Path(config.pretrained).expanduser(), config.model
        trunk = pretrained.load_trunk(path, model.trunk, model.wiring)
        return pretrained.put_trunk(trunk, *experiment.abstract)
    if not init_from:
        return experiment.abstract
    directory = Path(init_from).expanduser()
    try:
        _, params, stats = load_variables(directory)
        *known, report = conversion.take_over(params, stats, *experiment.abstract)
        source = workdirs.read_json(directory / workdirs.CONFIG_FILE)["model"]
        conversion.check_same_network(
            read_model_config(source, "model"), experiment.model_config
        )
    except UserError as error:
        raise UserError(f"config.init_from: {error}") from error
    _log.info("starting from %s: %s", directory, report)
    params, stats = known
    return params, stats
