"""Ensembles: the mean of several finished runs' scores (section 4)."""

import dataclasses
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from mammo_jax.common import devices, run_directory
from mammo_jax.common.errors import UserError, of_field, refuse
from mammo_jax.common.signals import StopRequest
from mammo_jax.datasets.pipeline import Dataset
from mammo_jax.evaluation.predictions import Predictions, write_predictions
from mammo_jax.evaluation.run_facts import SETTINGS_FILE
from mammo_jax.training import scoring
from mammo_jax.training.experiment import Experiment
from mammo_jax.training.step import make_eval_step
from mammo_jax.weights.hub import find_directory, is_on_hub
from mammo_jax.weights.model_description import DESCRIPTION_FILE
from mammo_jax.weights.model_directory import LoadedModel, load_model

_log = logging.getLogger(__name__)

# The folder below a run's directory; it has `predictions/` and `report.html`, too.
ENSEMBLE_DIR = "ensemble"


def members(config: ConfigDict | Mapping[str, Any]) -> list[str]:
    """Returns the runs that `config.ensemble` names."""
    named = config.get("ensemble", "").split(",")
    return [part.strip() for part in named if part.strip()]


def check_members(config: ConfigDict, dataset: Dataset, workdir: Path) -> None:
    """Refuses what cannot be averaged with the run in `workdir`, before it trains.

    Raises:
      UserError: a directory is no finished run of a whole-image classifier, is named
        twice, is damaged, or its model is for other classes, images or data.
    """
    seen = {workdir.resolve()}
    for name in members(config):
        with of_field("config.ensemble"):
            directory = find_directory(name)
            if directory.resolve() in seen:
                raise UserError(
                    f"{name} is there twice; the run's own model is part of its "
                    "ensemble"
                )
            seen.add(directory.resolve())
            refuse(_misfits(name, load_model(directory), config, dataset))


def _misfits(
    name: str, model: LoadedModel, config: ConfigDict, dataset: Dataset
) -> dict[str, bool]:
    """Lists what could forbid averaging a model with the run's, and what does."""
    said, split = model.description, model.config.data.train_split
    seen = "images that it was trained on could be among those it would be tested on"
    # Unless it was set by hand, the mean of the training images tells builds apart.
    other_build = model.config.data.pixel_mean < 0 and not math.isclose(
        said.pixel_mean, dataset.pixel_mean, rel_tol=1e-6
    )
    reasons = {
        "holds a patch classifier; name runs of whole-image classifiers": (
            said.task != "whole"
        ),
        f"tells apart {[*said.class_names]}, not {[*dataset.class_names]}": (
            said.class_names != dataset.class_names
        ),
        f"wants images of {_size(*said.grid)}; {dataset.name} has "
        f"{_size(*dataset.grid)}": said.grid != dataset.grid,
        f"was trained on {said.dataset}, not on {dataset.name}: {seen}": (
            said.dataset != dataset.name
        ),
        f"was trained on the split {split!r}, not on {config.data.train_split!r}: it "
        "would be tested on images that it was trained on": (
            split != config.data.train_split
        ),
        f"was trained on another build of {dataset.name} (mean grey level "
        f"{said.pixel_mean:.3f} there, {dataset.pixel_mean:.3f} here): {seen}": (
            other_build
        ),
    }
    return {f"{name} {reason}": holds for reason, holds in reasons.items()}


def _size(height: int, width: int, stretch: bool) -> str:
    return f"{height}x{width}" + ", stretched to the full range" * stretch


def evaluate_ensemble(
    experiment: Experiment,
    own: Mapping[str, Predictions],
    workdir: Path,
    stop: StopRequest,
) -> dict[str, Any]:
    """Averages the run's `own` predictions with those of every member's model.

    The run's data, devices and `config.tta` hold for all members. Writes
    `ensemble/predictions/*.csv`; returns the figures of the mean for each split, and
    under `members` those of each model.

    Raises:
      UserError: a member was changed or removed since `check_members`.
      RunStoppedError: a signal asked the run to stop.
    """
    found: dict[str, list[Predictions]] = {role: [own[role]] for role in own}
    described = run_directory.read_json(workdir / DESCRIPTION_FILE)
    credits_due = dict.fromkeys([described.get("credit")])
    figures: dict[str, Any] = {"members": {}}
    for name in members(experiment.config):
        _log.info("scoring with %s", name)
        model = load_model(find_directory(name))
        credits_due[model.description.credit] = None
        scored = _score(experiment, model, list(own), stop)
        figures["members"][name] = {role: scoring.summary(scored[role]) for role in own}
        for role in own:
            found[role].append(scored[role])
    for role, predictions in found.items():
        mean = average(predictions)
        figures[role] = scoring.summary(mean)
        auc = figures[role]["auc"]
        _log.info(
            "ensemble of %d models: %s AUC %s",
            len(predictions),
            role,
            "undefined" if auc is None else f"{auc:.3f}",
        )
        if devices.is_main_process():
            table = workdir / ENSEMBLE_DIR / "predictions" / f"{role}.csv"
            write_predictions(table, mean)
    if devices.is_main_process():
        hubs = [name for name in members(experiment.config) if is_on_hub(name)]
        said = {"models": hubs, "credit": " ".join(filter(None, credits_due))}
        run_directory.write_json(workdir / ENSEMBLE_DIR / SETTINGS_FILE, said)
    return figures


def _score(
    experiment: Experiment, model: LoadedModel, roles: Sequence[str], stop: StopRequest
) -> dict[str, Predictions]:
    """Scores the run's images with another run's model."""
    mean = model.description.pixel_mean
    other = dataclasses.replace(
        experiment,
        graphdef=model.graphdef,
        pixel_mean=mean,
        eval_step=make_eval_step(
            model.graphdef,
            pixel_mean=mean,
            tta=experiment.config.tta,
            mesh=experiment.mesh,
            deterministic=experiment.config.deterministic,
        ),
    )
    params = devices.put_replicated(experiment.mesh, model.params)
    return {role: scoring.predict(other, params, {}, role, stop) for role in roles}


def average(predictions: Sequence[Predictions]) -> Predictions:
    """Averages the probabilities of several models for the same images."""
    first = predictions[0]
    mean = np.mean([one.probabilities for one in predictions], axis=0)
    losses = scoring.cross_entropies(mean, first.labels)
    return dataclasses.replace(first, probabilities=mean, losses=losses)
