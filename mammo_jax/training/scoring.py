"""Running a model over a whole split, and the figures that sum it up."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from mammo_jax.common.devices import gather_rows
from mammo_jax.common.errors import UserError
from mammo_jax.common.progress import progress_bar
from mammo_jax.common.signals import StopRequest
from mammo_jax.evaluation import metrics
from mammo_jax.evaluation.predictions import Details, Predictions
from mammo_jax.training.experiment import Experiment
from mammo_jax.training.state import Arrays


def predict(
    experiment: Experiment,
    params: Arrays,
    batch_stats: Arrays,
    role: str,
    stop: StopRequest,
) -> Predictions:
    """Scores every image of a split once.

    Args:
      experiment: the fixed parts of the run.
      params: of the model.
      batch_stats: its running statistics.
      role: `train`, `validation` or `test`.
      stop: checked after every batch.

    Raises:
      RunStoppedError: a signal asked the run to stop.
    """
    rows: dict[str, list[np.ndarray]] = {}
    with progress_bar(
        f"{experiment.config.task} {role}",
        total=len(experiment.source(role)),
        unit="image",
    ) as bar:
        for batch in experiment.evaluation_batches(role):
            probabilities, losses = experiment.eval_step(
                params,
                batch_stats,
                experiment.evaluation_arrays(batch),
            )
            true = batch["weight"] > 0
            columns = {
                **batch,
                "probabilities": experiment.own_rows(probabilities),
                "losses": experiment.own_rows(losses),
            }
            for key in columns.keys() - {"image", "channel_shift", "weight"}:
                rows.setdefault(key, []).append(np.asarray(columns[key])[true])
            bar.update(int(true.sum()))
            stop.raise_if_set("the same command goes on from the last checkpoint")
    table = gather_rows({key: np.concatenate(parts) for key, parts in rows.items()})
    return Predictions(
        image_ids=told_apart(table["image_id"].tolist()),
        patient_ids=tuple(table["patient_id"].tolist()),
        lateralities=tuple(table["laterality"].tolist()),
        views=tuple(table["view"].tolist()),
        probabilities=table["probabilities"],
        labels=table["label"],
        losses=table["losses"],
        malignant_classes=experiment.task.malignant_classes,
        details=_details(table),
    )


def told_apart(ids: list[str]) -> tuple[str, ...]:
    """The ids, numbered where two are alike: patches of two lesions in one place."""
    seen: Counter[str] = Counter()
    unique = []
    for name in ids:
        seen[name] += 1
        unique.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return tuple(unique)


def _details(table: Mapping[str, np.ndarray]) -> Details | None:
    if "breast_density" not in table:  # Patches.
        return None
    return Details(
        breast_densities=table["breast_density"],
        abnormality_types=tuple(table["abnormality_types"].tolist()),
        lesion_sizes=table["lesion_size"],
    )


def summary(predictions: Predictions) -> dict[str, Any]:
    """Figures of a split: counts, loss (nats), accuracy, AUC with its interval."""
    if not np.isfinite(predictions.losses).all():
        raise UserError(
            "the model's outputs are not finite; try lower learning rates "
            "(config.stages.STAGE.rates.GROUP) in a new --workdir"
        )
    auc = metrics.roc_auc_with_interval(
        predictions.malignant_score, predictions.malignant_label
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
