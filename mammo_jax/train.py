"""A whole run: patch classifier, conversion, whole-image training, test."""

import logging
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from mammo_jax.data import phantom_data
from mammo_jax.errors import UserError
from mammo_jax.evaluation import scoring
from mammo_jax.evaluation.predictions import write_predictions
from mammo_jax.models import conversion, pretrained
from mammo_jax.training import experiment as experiments
from mammo_jax.training import workdir as workdirs
from mammo_jax.training.checkpoint import Checkpoints, Progress
from mammo_jax.training.experiment import Experiment
from mammo_jax.training.logs import Logs
from mammo_jax.training.loop import Run, train
from mammo_jax.training.signals import StopRequest
from mammo_jax.training.state import Arrays

_log = logging.getLogger(__name__)

PATCH_DIR = "patch"


def train_and_evaluate(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Runs `config` in `workdir`, going on from where an earlier call stopped.

    Writes `config.json`, `checkpoints/`, TensorBoard files, `predictions/*.csv`
    and `metrics.json`. A whole-image run first trains its patch classifier in
    `workdir/patch`, unless `config.init_from` names one.

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
    for part in (config, config.patch) if patch_first else (config,):
        experiments.check_config(part)
    with workdirs.claim(workdir, config):
        metrics_path = workdir / workdirs.METRICS_FILE
        if metrics_path.exists():
            _log.info("%s holds a finished run; nothing to do", workdir)
            return workdirs.read_json(metrics_path)
        phantom_data.prepare(config)
        dataset = experiments.open_data(config)
        init_from = config.get("init_from", "")
        if patch_first:
            experiments.open_data(config.patch)
            init_from = str(workdir / PATCH_DIR)
            _train_and_evaluate(config.patch, workdir / PATCH_DIR, stop)
        experiment, params, stats = experiments.make_experiment(config, dataset)
        metrics = _run(experiment, params, stats, init_from, workdir, stop)
        workdirs.write_json(metrics_path, metrics)
    return metrics


def _run(
    experiment: Experiment,
    params: Arrays,
    stats: Arrays,
    init_from: str,
    workdir: Path,
    stop: StopRequest,
) -> dict[str, Any]:
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        fresh = experiments.initial_state(experiment, params, stats)
        restored = checkpoints.restore_latest(
            lambda progress: experiment.enter_stage(progress.stage, fresh)
        )
        if restored is None:
            params, stats = _initial_variables(experiment, params, stats, init_from)
            progress = Progress()
            state = experiments.initial_state(experiment, params, stats)
        else:
            state, progress = restored
            _log.info("going on from step %d in %s", progress.step, workdir)
        with stop.deferred(), Logs(workdir, resumed_at=progress.step) as logs:
            run = Run(experiment, checkpoints, logs, stop)
            progress = train(run, state, progress)
            best = checkpoints.load_model(progress.best_step, params, stats)
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
    for role in ("validation", "test"):
        predictions = scoring.predict(run.experiment, params, stats, role, run.stop)
        write_predictions(workdir / "predictions" / f"{role}.csv", predictions)
        metrics[role] = scoring.summary(predictions)
    figures = {f"test/{key}": metrics["test"][key] for key in ("auc", "accuracy")}
    run.logs.scalars(progress.step, figures)
    return metrics


def _initial_variables(
    experiment: Experiment, params: Arrays, stats: Arrays, init_from: str
) -> tuple[Arrays, Arrays]:
    """The values training starts from: random, ImageNet's or a patch classifier's."""
    config = experiment.config
    if config.task == "patch" and config.pretrained:
        path, model = Path(config.pretrained).expanduser(), config.model
        trunk = pretrained.load_trunk(path, model.trunk, model.wiring)
        return pretrained.put_trunk(trunk, params, stats)
    if not init_from:
        return params, stats
    patch_params, patch_stats = load_best_model(Path(init_from).expanduser())
    params, stats, report = conversion.patch_to_whole(
        patch_params, patch_stats, params, stats
    )
    _log.info("converted %s: %s", init_from, report)
    return params, stats


def load_best_model(workdir: Path) -> tuple[Arrays, Arrays]:
    """Parameters and statistics of a finished run's best checkpoint.

    Raises:
      UserError: `workdir` holds no finished run, or its checkpoint is damaged.
    """
    if not (workdir / workdirs.METRICS_FILE).exists():
        raise UserError(
            f"{workdir} holds no finished run (no {workdirs.METRICS_FILE}); train it "
            "first, or leave config.init_from empty to train the patch classifier here"
        )
    config = workdirs.read_json(workdir / workdirs.CONFIG_FILE)
    if "model" not in config:
        raise UserError(
            f"{workdir / workdirs.CONFIG_FILE} is of no run of this program"
        )
    like = experiments.abstract_variables(ConfigDict(config["model"]))
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        last = checkpoints.last_step()
        if last < 0:
            raise UserError(f"{workdir / 'checkpoints'} holds no checkpoint")
        return checkpoints.load_model(checkpoints.progress(last).best_step, *like)
