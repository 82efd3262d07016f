"""The run of the row "heatmap + random forest" (Table 2): no training by gradients.

A finished patch classifier is run over the whole images, a forest is fitted on the
heatmaps of the training images, and validation and test images are scored. The run's
directory is like any other's, but has no checkpoints: scikit-learn keeps a forest as
a pickle, which this program does not read. The same command fits the same forest.
"""

import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from mammo_jax.common.errors import UserError
from mammo_jax.common.signals import StopRequest
from mammo_jax.datasets.pipeline import Dataset
from mammo_jax.evaluation.predictions import Predictions, write_predictions
from mammo_jax.models.sliding import make_heatmap_step
from mammo_jax.training import forest, scoring
from mammo_jax.training.logs import Logs, log_hyperparameters
from mammo_jax.weights.model_directory import LoadedModel, load_model

_log = logging.getLogger(__name__)

FOREST = "forest"
_MALIGNANT = (1,)


def check_forest(config: ConfigDict) -> None:
    """Refuses a forest that cannot be fitted.

    Raises:
      UserError: `config.forest` is missing or out of range, or the task is another.
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
    if jax.process_count() > 1:
        raise UserError("a random forest is fitted by one process; leave --processes")


def run_forest(
    config: ConfigDict,
    dataset: Dataset,
    init_from: str,
    workdir: Path,
    stop: StopRequest,
) -> dict[str, Any]:
    """Fits the forest and scores validation and test images.

    Writes `predictions/*.csv` and TensorBoard files.

    Args:
      config: of the run.
      dataset: of whole images.
      init_from: the run of the patch classifier.
      workdir: of the run.
      stop: checked after every batch.

    Returns:
      What `metrics.json` holds.

    Raises:
      UserError: `init_from` is no finished patch classifier on the configured trunk,
        the training images are all of one class, or too few for the forest to split.
      RunStoppedError: a signal asked the run to stop; the same command starts anew.
    """
    model = _patch_classifier(init_from, config.model.trunk)
    assert model.window is not None
    step = make_heatmap_step(
        model.model_config, model.window, model.description.pixel_mean
    )

    def described(role: str) -> forest.DescribedSplit:
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


def _fit(train: forest.DescribedSplit, config: ConfigDict, dataset: str) -> Any:
    """A forest that tells the training images apart."""
    if len(np.unique(train.labels)) < 2:
        raise UserError(
            f"the training images of {dataset} are all of one class: a random forest "
            "has nothing to tell apart"
        )
    fitted = forest.fit_forest(
        train.features, train.labels, seed=config.seed, **config.forest
    )
    if forest.splits_no_node(fitted):
        images = len(train.labels)
        raise UserError(
            f"config.forest.min_samples_split ({config.forest.min_samples_split}): no "
            "tree of the forest splits its images, and all would have the same score. "
            f"Of the {images} training images a tree draws about "
            f"{round(0.63 * images)} different ones: set the field lower; if it is, "
            "the heatmaps are all alike"
        )
    return fitted


def _score(
    fitted: Any, split: forest.DescribedSplit, role: str, workdir: Path
) -> dict[str, Any]:
    """Writes a split's prediction table; returns its figures of merit."""
    scores = forest.malignant_probability(fitted, split.features)
    predictions = _predictions(split, scores)
    write_predictions(workdir / "predictions" / f"{role}.csv", predictions)
    summary = scoring.summary(predictions)
    _log.info("forest, %s: AUC %s", role, summary["auc"])
    return summary


_LOGGED = ("auc", "accuracy")


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


def _predictions(split: forest.DescribedSplit, scores: np.ndarray) -> Predictions:
    """The forest's scores as any model's."""
    shares = np.stack([1 - scores, scores], axis=1)
    true = shares[np.arange(len(scores)), split.labels]
    return Predictions(
        image_ids=scoring.told_apart(list(split.image_ids)),
        patient_ids=split.patient_ids,
        lateralities=split.lateralities,
        views=split.views,
        probabilities=shares,
        labels=split.labels,
        # A vote without a single tree has no logarithm.
        losses=-np.log(np.maximum(true, np.finfo(shares.dtype).tiny)),
        malignant_classes=_MALIGNANT,
        details=split.details,
    )
