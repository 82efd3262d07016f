"""The scores of a whole split, and the figures that sum them up."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from ml_collections import ConfigDict

from mammo_jax.common.ahead import one_behind
from mammo_jax.common.devices import gather_rows, is_main_process
from mammo_jax.common.errors import UserError
from mammo_jax.common.progress import progress
from mammo_jax.common.signals import StopRequest
from mammo_jax.datasets.pipeline import Batch
from mammo_jax.evaluation import metrics
from mammo_jax.evaluation.predictions import (
    DETAIL_COLUMNS,
    Predictions,
    write_predictions,
)
from mammo_jax.training.checkpoint import Position
from mammo_jax.training.experiment import Experiment
from mammo_jax.training.state import Arrays

# A row for each example; strings, numbers, or numbers by class.
Columns = dict[str, np.ndarray]


def predict(
    experiment: Experiment,
    params: Arrays,
    batch_stats: Arrays,
    role: str,
    stop: StopRequest,
) -> Predictions:
    """Scores every image of the split `train`, `validation` or `test` once.

    Raises:
      RunStoppedError: a signal asked the run to stop.
    """

    def score(batch: Batch) -> dict[str, Any]:
        arrays = experiment.evaluation_arrays(batch)
        found = experiment.eval_step(params, batch_stats, arrays)
        return dict(zip(("probabilities", "losses"), found, strict=True))

    mine = collect(
        experiment.evaluation_batches(role),
        score,
        description=f"{experiment.config.task} {role}",
        total=len(experiment.source(role)),
        after_batch=lambda: stop.raise_if_set(
            "the same command goes on from the last checkpoint"
        ),
        fetch=experiment.own_rows,
    )
    return as_predictions(gather_rows(mine), experiment.settings.task.malignant_classes)


def evaluate(
    config: ConfigDict,
    dataset: str,
    position: Position,
    predictions: Callable[[str], Predictions],
    workdir: Path,
) -> tuple[dict[str, Any], dict[str, Predictions]]:
    """Scores validation and test images, and writes `predictions/*.csv`.

    `position` is the run's at its end; `predictions` gives those of a split by its
    role. Returns what `metrics.json` holds, and the predictions.
    """
    metrics: dict[str, Any] = {
        "task": config.task,
        "dataset": dataset,
        "best_epoch": position.best_epoch,
        "epochs": position.epochs_done,
        "steps": position.step,
    }
    if position.best_epoch and config.data.test_split == config.data.validation_split:
        metrics["test_images_chose_the_epoch"] = True
    found = {}
    for role in ("validation", "test"):
        found[role] = predictions(role)
        if is_main_process():
            write_predictions(workdir / "predictions" / f"{role}.csv", found[role])
        metrics[role] = summary(found[role])
    return metrics, found


def collect(
    batches: Iterable[Batch],
    results: Callable[[Batch], Mapping[str, Any]],
    *,
    description: str,
    total: int,
    after_batch: Callable[[], None],
    fetch: Callable[[Any], np.ndarray] = np.asarray,
) -> Columns:
    """Returns labels, names and results of all examples, without the batches' filling.

    Args:
      batches: the batches of a split, as from `pipeline.evaluation_batches`.
      results: function from a batch to further columns.
      description: name of the work on the progress line.
      total: number of examples.
      after_batch: function called after every batch; may raise to stop.
      fetch: gets the rows of a result, for which it waits.
    """
    parts: list[Columns] = []
    with progress(None, description, total=total, unit="image") as bar:
        for batch, found in one_behind((batch, results(batch)) for batch in batches):
            true = batch["weight"] > 0
            columns = {k: x for k, x in batch.items() if k not in ("image", "weight")}
            columns |= {key: fetch(x) for key, x in found.items()}
            parts.append({key: np.asarray(x)[true] for key, x in columns.items()})
            bar.update(int(true.sum()))
            after_batch()
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def as_predictions(table: Columns, malignant_classes: tuple[int, ...]) -> Predictions:
    """Returns the predictions in a table of `collect` with the two results."""
    details = {name: table[name] for name in DETAIL_COLUMNS if name in table}
    return Predictions(
        image_ids=told_apart(table["image_id"].tolist()),
        patient_ids=tuple(table["patient_id"].tolist()),
        lateralities=tuple(table["laterality"].tolist()),
        views=tuple(table["view"].tolist()),
        probabilities=table["probabilities"],
        labels=table["label"],
        losses=table["losses"],
        malignant_classes=malignant_classes,
        details=details or None,
    )


def cross_entropies(
    probabilities: Float[np.ndarray, "images classes"],
    labels: Int[np.ndarray, " images"],
) -> Float[np.ndarray, " images"]:
    """Returns the losses (nats); a probability of zero counts as the least number."""
    true = probabilities[np.arange(len(labels)), labels]
    losses: np.ndarray = -np.log(np.maximum(true, np.finfo(probabilities.dtype).tiny))
    return losses


def told_apart(ids: list[str]) -> tuple[str, ...]:
    """Numbers ids that are alike: those of patches of two lesions in one place."""
    seen: Counter[str] = Counter()
    unique = []
    for name in ids:
        seen[name] += 1
        unique.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return tuple(unique)


def balanced_loss(predictions: Predictions) -> float:
    """Returns the loss (nats) with the weights of training: every class the same.

    As in a batch (`step.balanced_weights`), the weights are computed over all examples,
    so that this is the sum of the classes' mean losses.
    """
    labels, losses = predictions.labels, predictions.losses
    return float(
        sum(losses[labels == label].mean(dtype=np.float64) for label in set(labels))
    )


def summary(predictions: Predictions) -> dict[str, Any]:
    """Sums a split up: counts, loss (nats), accuracy, AUC with its interval.

    Raises:
      UserError: a loss is not finite.
    """
    if not np.isfinite(predictions.losses).all():
        raise UserError(
            "the model's outputs are not finite; try lower learning rates "
            "(config.stages.STAGE.rates.GROUP) in a new --workdir"
        )
    auc = metrics.auc_estimate(
        predictions.malignant_score,
        predictions.malignant_label,
        predictions.patient_ids,
    )
    return {
        "images": len(predictions.image_ids),
        "patients": len(set(predictions.patient_ids)),
        "malignant": int(predictions.malignant_label.sum()),
        "loss": float(predictions.losses.mean(dtype=np.float64)),
        "accuracy": float(
            np.mean(predictions.probabilities.argmax(1) == predictions.labels)
        ),
        "auc": auc.value,
        "auc_95_low": auc.low,
        "auc_95_high": auc.high,
    }
