"""A whole run: patch classifier, conversion, whole-image training, test."""

import contextlib
import copy
import itertools
import json
import logging
import math
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from mammo_jax.common import devices, run_directory
from mammo_jax.common.errors import UserError, of_field
from mammo_jax.common.signals import StopRequest
from mammo_jax.datasets.pipeline import Dataset
from mammo_jax.evaluation import calibration, operating_points
from mammo_jax.evaluation.predictions import Predictions
from mammo_jax.models.initial_values import draw_values
from mammo_jax.models.model_config import ModelConfig, read_model_config
from mammo_jax.training import ensemble, forest, phantom_data, scoring
from mammo_jax.training.checkpoint import KEPT_CHECKPOINTS, Checkpoints, Position
from mammo_jax.training.experiment import Experiment, make_experiment
from mammo_jax.training.flat_step import FlatStep
from mammo_jax.training.logs import Logs, log_hyperparameters
from mammo_jax.training.loop import Run, train
from mammo_jax.training.settings import Settings, check_grid, open_data, read_settings
from mammo_jax.training.state import Leaves, TrainState
from mammo_jax.training.transfer import take_network
from mammo_jax.weights import conversion, pretrained
from mammo_jax.weights.hub import find_directory, is_on_hub, pin
from mammo_jax.weights.model_description import (
    DESCRIPTION_FILE,
    Description,
    intent_of,
    load_description,
    save_description,
)
from mammo_jax.weights.model_directory import load_variables, save_variables

_log = logging.getLogger(__name__)

PATCH_DIR = "patch"
_NOT_STARTED = "process 0 could not start; its message says why"


def train_and_evaluate(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Runs `config` in `workdir`, going on from where an earlier call stopped.

    Writes what docs/training.md lists. A whole-image run first trains its patch
    classifier in `workdir/patch`, unless `config.init_from` names one or a whole-image
    run to go on from. Runs in `config.ensemble` score the same images, and the means
    are written to `workdir/ensemble`. Returns what `metrics.json` holds.

    Raises:
      UserError: anything that the user can mend, before work where possible.
      RunStoppedError: a signal arrived; the state has been saved.
    """
    config = _pinned(config, workdir)
    runner = find_runner(config)
    with StopRequest() as stop:
        return _run(runner, runner.read(config, workdir), workdir, stop)


def _pinned(config: ConfigDict, workdir: Path) -> ConfigDict:
    """Returns the configuration with the commits of the models on a hub.

    Process 0 asks for them, as a branch may move before another one does.
    """
    chosen = ""
    try:
        if devices.is_main_process():
            chosen = json.dumps(_commits(config, workdir))
    finally:
        chosen = devices.text_of_main_process(chosen)
    if not chosen:
        raise UserError(_NOT_STARTED)
    config = copy.deepcopy(config)
    config.update(json.loads(chosen))
    return config


def _commits(config: ConfigDict, workdir: Path) -> dict[str, str]:
    """Returns the fields that name models on a hub, with their commits.

    A run that has begun keeps its own.
    """
    pinned = {}
    for field in ("init_from", "ensemble"):
        names = [name.strip() for name in config.get(field, "").split(",")]
        if not any(map(is_on_hub, names)):
            continue
        own = {}
        if run_directory.has_begun(workdir):
            own = run_directory.read_json(workdir / run_directory.CONFIG_FILE)
        kept = str(own.get(field, "")).split(",")[: len(names)]
        with of_field(f"config.{field}"):
            pairs = itertools.zip_longest(names, kept, fillvalue="")
            pinned[field] = ",".join(itertools.starmap(pin, pairs))
    return pinned


class Runner(NamedTuple):
    """A way to run configurations."""

    # Reads and checks a configuration, for a run in a directory.
    read: Callable[[ConfigDict, Path], Settings]
    # Trains and scores in a directory; returns what `metrics.json` holds.
    run: Callable[[Settings, Dataset, str, Path, StopRequest], dict[str, Any]]
    # Names what is trained, in a few words.
    describe: Callable[[ConfigDict], str]
    # Settings of the network, and the side of the window with which it is slid over
    # whole images; None if it sees them whole.
    network: Callable[[ConfigDict], tuple[ModelConfig, int | None]]


def find_runner(config: ConfigDict) -> Runner:
    """Returns the way to run a configuration: that of its kind of top."""
    return _RUNNERS.get(config.model.top.kind, _NETWORK)


def _run(
    runner: Runner, settings: Settings, workdir: Path, stop: StopRequest
) -> dict[str, Any]:
    with _claim(workdir, settings.config):
        metrics_path = workdir / run_directory.METRICS_FILE
        if metrics_path.exists():
            metrics = run_directory.read_json(metrics_path)
            if "test" not in metrics:
                raise UserError(
                    f"{metrics_path} is damaged: it holds no figures of the test; "
                    "remove it, and the same command goes on from the last checkpoint"
                )
            _log.info("%s holds a finished run; nothing to do", workdir)
            return metrics
        dataset = open_data(settings)
        ensemble.check_members(settings.config, dataset, workdir)
        init_from = settings.config.get("init_from", "")
        if settings.patch:
            patches = open_data(settings.patch)
            check_grid(patches.grid, dataset, f"the patches of {patches.name}")
            init_from = str(workdir / PATCH_DIR)
            _run(_NETWORK, settings.patch, workdir / PATCH_DIR, stop)
        metrics = runner.run(settings, dataset, init_from, workdir, stop)
        if devices.is_main_process():
            # Imported late: matplotlib and scikit-learn take seconds.
            from mammo_jax.training.run_report import write_run_report

            write_run_report(workdir, runner.describe(settings.config))
            run_directory.write_json(metrics_path, metrics)
        devices.wait_for_all("written")
    return metrics


def _description(
    experiment: Experiment, credit: str | None, validation: Predictions | None = None
) -> Description:
    """Returns what scoring needs to know; after the training with what is fitted.

    For patches nothing is: a whole image's score is the highest of many.
    """
    config, dataset = experiment.config, experiment.dataset
    line = threshold = None
    if validation is not None and config.task == "whole":
        scored = validation.malignant_score, validation.malignant_label
        line = calibration.fit_line(*scored)
        if len(set(validation.malignant_label.tolist())) == 2:
            chosen = operating_points.choose_threshold(*scored, "Youden")
            threshold = chosen if math.isfinite(chosen) else None
    return Description(
        task=config.task,
        dataset=dataset.name,
        class_names=dataset.class_names,
        malignant_classes=experiment.settings.task.malignant_classes,
        pixel_mean=experiment.pixel_mean,
        **dataset.grid._asdict(),
        intent=intent_of(dataset.name),
        patch_size=dataset.image_shape[0] if config.task == "patch" else 0,
        # That there is no note says nothing of the images.
        phantoms=run_directory.holds_phantoms(config.data.data_dir, dataset.name)
        or None,
        calibration=line,
        threshold=threshold,
        credit=credit,
    )


def _credit(init_from: str, workdir: Path) -> str | None:
    """Returns the credit due to the model that a run starts from, or started from."""
    places: list[str | Path] = [init_from, workdir] if init_from else [workdir]
    if is_on_hub(init_from) and run_directory.has_begun(workdir):
        places.reverse()  # A run that has begun needs the hub no more.
    for place in places:
        if (path := find_directory(place) / DESCRIPTION_FILE).is_file():
            credit: str | None = run_directory.read_json(path).get("credit")
            return credit
    return None


@contextlib.contextmanager
def _claim(workdir: Path, config: ConfigDict) -> Iterator[None]:
    """Lets the main process take the directory and make the data; others wait."""
    if not devices.is_main_process():
        if devices.largest_of_processes(0):
            raise UserError(_NOT_STARTED)
        yield
        return
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(run_directory.claim(workdir, config))
            if not (workdir / run_directory.METRICS_FILE).exists():
                phantom_data.prepare(config)
        except BaseException:
            devices.largest_of_processes(1)
            raise
        devices.largest_of_processes(0)
        yield


def _train_network(
    settings: Settings,
    dataset: Dataset,
    init_from: str,
    workdir: Path,
    stop: StopRequest,
) -> dict[str, Any]:
    experiment = make_experiment(settings, dataset)
    writes = devices.is_main_process()
    if writes:
        credit = _credit(init_from, workdir)
        save_description(workdir, _description(experiment, credit))
    like = devices.abstract(experiment.mesh, experiment.abstract)
    with (
        Checkpoints(workdir / "checkpoints") as checkpoints,
        contextlib.ExitStack() as ends,
    ):
        helpers = ThreadPoolExecutor(2)
        ends.callback(helpers.shutdown, wait=False, cancel_futures=True)
        state, position, first_step = _begin(
            experiment, checkpoints, init_from, helpers
        )
        with (
            stop.deferred(),
            Logs(
                workdir / settings.config.task, resumed_at=position.step, enabled=writes
            ) as logs,
        ):
            run = Run(experiment, checkpoints, logs, stop)
            position = train(run, state, position, first_step)
            best = checkpoints.load_model(position.best_step, *like)
            if writes:
                save_variables(workdir, *best)
            metrics, own = scoring.evaluate(
                settings.config,
                dataset.name,
                position,
                lambda role: scoring.predict(experiment, *best, role, stop),
                workdir,
            )
            if writes:
                described = _description(experiment, credit, own["validation"])
                save_description(workdir, described)
            if ensemble.members(settings.config):
                metrics["ensemble"] = ensemble.evaluate_ensemble(
                    experiment, own, workdir, stop
                )
            if writes:
                log_hyperparameters(logs, settings.config, metrics)
    return metrics


def _begin(
    experiment: Experiment,
    checkpoints: Checkpoints,
    init_from: str,
    helpers: Executor,
) -> tuple[TrainState, Position, Future[FlatStep] | None]:
    """Returns the state to train from, and its train step, unless all is done.

    The first values are drawn while the step is traced, and the step is compiled while
    the first batch is read. A program that ends in between waits for them.
    """
    restored = checkpoints.restore_latest(
        lambda position: experiment.abstract_state(position.stage)
    )
    if restored is not None:
        _, position = restored
        _log.info("going on from step %d", position.step)
        if position.finished:
            return *restored, None
        step = experiment.compiler_of_train_step(position.stage)
        return *restored, helpers.submit(step)
    known = _known_values(experiment, init_from)
    checkpoints.require_space(experiment.abstract_state(0), KEPT_CHECKPOINTS)
    model, seed = experiment.settings.model, experiment.config.seed
    drawn = helpers.submit(draw_values, model, seed, *known)
    first_step = helpers.submit(experiment.compiler_of_train_step(0))
    return experiment.initial_state(*drawn.result()), Position(), first_step


def _known_values(experiment: Experiment, init_from: str) -> tuple[Leaves, Leaves]:
    """Reads ImageNet's or a classifier's values; the others are not drawn yet.

    Raises:
      UserError: they do not fit the model.
    """
    config = experiment.config
    if config.task == "patch" and config.pretrained:
        path, model = Path(config.pretrained).expanduser(), config.model
        trunk = pretrained.load_trunk(
            path, model.trunk, model.wiring, model.width, model.stride
        )
        return conversion.put_values(trunk, *experiment.abstract)
    if not init_from:
        return experiment.abstract
    with of_field("config.init_from"):
        directory = find_directory(init_from)
        grid = load_description(directory).grid
        check_grid(grid, experiment.dataset, f"the model in {init_from}")
        _, params, stats = load_variables(directory)
        params, stats, report = conversion.take_over(
            params, stats, *experiment.abstract
        )
    _log.info("starting from %s: %s", init_from, report)
    return params, stats


_NETWORK = Runner(
    read=lambda config, workdir: read_settings(take_network(config, workdir)),
    run=_train_network,
    describe=lambda config: f"{config.task} classifier, {config.model.trunk}",
    network=lambda config: (read_model_config(config.model), None),
)
# The kinds of `config.model.top` that are no network's.
_RUNNERS = {
    forest.FOREST: Runner(
        forest.read_forest,
        forest.run_forest,
        forest.describe_forest,
        forest.patch_network,
    )
}
