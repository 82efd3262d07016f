"""Run of the row "heatmap + random forest" (Table 2), without gradients.

A finished patch classifier is run over the whole images, a forest is fitted on the
heatmaps of the training images, and validation and test images are scored. The run's
directory is like any other's, but has no checkpoints: scikit-learn keeps a forest as
a pickle, which this program does not read. The same command fits the same forest.
"""

import copy
import dataclasses
import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from mammo_jax.common.errors import UserError
from mammo_jax.common.signals import StopRequest
from mammo_jax.datasets.pipeline import Dataset
from mammo_jax.evaluation.predictions import write_predictions
from mammo_jax.models.model_config import (
    PATCH_CLASSES,
    ModelConfig,
    PatchTop,
    read_model_config,
)
from mammo_jax.models.sliding import make_heatmap_step
from mammo_jax.training import forest, scoring
from mammo_jax.training.logs import Logs, log_hyperparameters
from mammo_jax.training.settings import TASKS, Settings, read_settings
from mammo_jax.weights.model_directory import LoadedModel, load_model

_log = logging.getLogger(__name__)

FOREST = "forest"
_LOGGED = ("auc", "accuracy")
_MALIGNANT = TASKS["whole"].malignant_classes


def read_forest(config: ConfigDict, workdir: Path) -> Settings:
    """Reads and checks the configuration of a forest.

    Raises:
      UserError: a field has no value that can run; names it and the allowed values.
    """
    if config.task != "whole" or "forest" not in config:
        raise UserError(
            "config.model.top.kind is 'forest', which needs a whole-image "
            "configuration with config.forest: --config=configs/paper_rows.py:"
            "resnet50_s10_forest"
        )
    for field, least in (("trees", 1), ("max_depth", 1), ("min_samples_split", 2)):
        if config.forest[field] < least:
            raise UserError(
                f"config.forest.{field} is {config.forest[field]}; it must be at "
                f"least {least}"
            )
    if config.tta:
        raise UserError(
            "config.tta: the random forest scores images as they are; leave it out"
        )
    if config.get("ensemble"):
        raise UserError(
            "config.ensemble: a random forest is averaged with others by "
            "python -m mammo_jax.evaluate --predictions=RUN,RUN"
        )
    if jax.process_count() > 1:
        raise UserError("a random forest is fitted by one process; leave --processes")
    # A forest has no network of its own; the check knows networks only.
    checked = copy.deepcopy(config)
    checked.model.top.kind = PatchTop.kind
    return dataclasses.replace(read_settings(checked), config=config)


def describe_forest(config: ConfigDict) -> str:
    """Names the forest and what it reads."""
    forest = config.forest
    return (
        f"random forest of {forest.trees} trees, at most {forest.max_depth} deep, "
        f"nodes of at least {forest.min_samples_split} images split, on the heatmaps "
        f"of a patch classifier, {config.model.trunk}"
    )


def patch_network(config: ConfigDict) -> tuple[ModelConfig, int]:
    """Returns the settings of the patch classifier below a forest, and its window."""
    fields = copy.deepcopy(config.model)
    fields.top.kind = PatchTop.kind
    fields.num_classes = PATCH_CLASSES
    return read_model_config(fields), fields.top.window


def run_forest(
    settings: Settings,
    dataset: Dataset,
    init_from: str,
    workdir: Path,
    stop: StopRequest,
) -> dict[str, Any]:
    """Fits the forest and scores validation and test images.

    Writes `predictions/*.csv` and TensorBoard files.

    Args:
      settings: settings of the run.
      dataset: data set of whole images.
      init_from: run of the patch classifier.
      workdir: directory of the run.
      stop: request to stop, checked after every batch.

    Returns:
      What `metrics.json` holds.

    Raises:
      UserError: `init_from` is no finished patch classifier on the configured trunk,
        the training images are all of one class, or too few for the forest to split.
      RunStoppedError: a signal asked the run to stop; the same command starts anew.
    """
    config = settings.config
    model = _patch_classifier(init_from, config.model.trunk)
    assert model.window is not None
    step = make_heatmap_step(
        model.model_config, model.window, model.description.pixel_mean
    )

    def described(role: str) -> scoring.Columns:
        return forest.describe_split(
            step,
            model.params,
            model.batch_stats,
            dataset.sources[config.data[f"{role}_split"]],
            batch_size=config.eval_batch_size,
            threads=config.data.threads,
            after_batch=lambda: stop.raise_if_set("the same command starts it anew"),
        )

    fitted = _fit(described("train"), config, dataset.name)
    metrics: dict[str, Any] = {
        "task": config.task,
        "dataset": dataset.name,
        "best_epoch": 0,
        "epochs": 0,
        "steps": 0,
    }
    for role in ("validation", "test"):
        metrics[role] = _score(fitted, described(role), role, workdir)
    with Logs(workdir, resumed_at=0) as logs:
        logs.scalars(0, {f"test/{key}": metrics["test"][key] for key in _LOGGED})
        log_hyperparameters(logs, config, metrics)
    return metrics


def _fit(train: scoring.Columns, config: ConfigDict, dataset: str) -> Any:
    """Fits a forest that tells the training images apart."""
    if len(np.unique(train["label"])) < 2:
        raise UserError(
            f"the training images of {dataset} are all of one class: a random forest "
            "has nothing to tell apart"
        )
    fitted = forest.fit_forest(
        train["features"], train["label"], seed=config.seed, **config.forest
    )
    if forest.splits_no_node(fitted):
        images = len(train["label"])
        raise UserError(
            f"config.forest.min_samples_split ({config.forest.min_samples_split}): no "
            "tree of the forest splits its images, and all would have the same score. "
            f"Of the {images} training images a tree draws about "
            f"{round(0.63 * images)} different ones: set the field lower; if it is, "
            "the heatmaps are all alike"
        )
    return fitted


def _score(
    fitted: Any, split: scoring.Columns, role: str, workdir: Path
) -> dict[str, Any]:
    """Writes a split's prediction table; returns its figures of merit."""
    shares = fitted.predict_proba(split["features"])
    losses = scoring.cross_entropies(shares, split["label"])
    predictions = scoring.as_predictions(
        {**split, "probabilities": shares, "losses": losses}, _MALIGNANT
    )
    write_predictions(workdir / "predictions" / f"{role}.csv", predictions)
    summary = scoring.summary(predictions)
    _log.info("forest, %s: AUC %s", role, summary["auc"])
    return summary


def _patch_classifier(init_from: str, trunk: str) -> LoadedModel:
    directory = Path(init_from).expanduser()
    try:
        model = load_model(directory)
    except UserError as error:
        raise UserError(f"config.init_from: {error}") from error
    if model.description.task != "patch":
        raise UserError(
            f"config.init_from: {directory} holds a {model.description.task}-image "
            "classifier; a random forest reads the heatmaps of a patch classifier"
        )
    if model.model_config.trunk != trunk:
        raise UserError(
            f"config.init_from: {directory} holds a {model.model_config.trunk}, but "
            f"config.model.trunk is {trunk}"
        )
    return model
