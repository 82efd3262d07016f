"""Finished models scored again: in four flips (section 4), and before a transfer."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

from mammo_jax.common.signals import StopRequest
from mammo_jax.evaluation.metrics import roc_auc
from mammo_jax.evaluation.prediction_table import (
    PredictionTable,
    mean_table,
    read_table,
)
from mammo_jax.evaluation.predictions import write_predictions
from mammo_jax.training import scoring
from mammo_jax.training.experiment import open_experiment
from mammo_jax.weights.model_directory import load_variables
from paper import effects
from paper.runs import Found, PlannedRun

_RESIDUAL = "residual_512-512-1024x2"


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """The paper's best models, averaged: AUC of each, and with flips; of their mean."""

    title: str
    rows: tuple[str, ...]
    paper: tuple[tuple[float, float], ...]
    paper_mean: float


# The hybrid is the one of the extended training: 0.85 alone.
ENSEMBLES = (
    Ensemble(
        "CBIS-DDSM",
        (
            f"resnet50_s10_{_RESIDUAL}",
            "vgg16_s10_vgg_512x1",
            f"vgg16_s10_{_RESIDUAL}_extended",
        ),
        ((0.86, 0.88), (0.83, 0.86), (0.85, 0.88)),
        0.91,
    ),
    Ensemble(
        "INbreast",
        ("inbreast_vgg16_s10_vgg_512x1", f"inbreast_vgg16_s10_{_RESIDUAL}"),
        ((0.92, 0.94), (0.95, 0.96)),
        0.96,
    ),
)
FLIPPED_ROWS = tuple(row for ensemble in ENSEMBLES for row in ensemble.rows)

# Table 4's models; what a transfer gains is said beside what they give before it.
TRANSFERRED = (
    f"resnet50_s10_{_RESIDUAL}",
    "vgg16_s10_vgg_512x1",
    f"vgg16_s10_{_RESIDUAL}",
)
# The transfers with the fewest patients, whose validation images are scored before.
TRANSFER_ROWS = tuple(f"inbreast_{model}_20patients" for model in TRANSFERRED)


# Kinds of scoring again, and the rows: the mean of four flips, and the model that a run
# starts from, whose scores differ from the run's by the training alone.
FLIPS, BEFORE = "flips", "before"
_ROWS = {FLIPS: FLIPPED_ROWS, BEFORE: TRANSFER_ROWS}


def score_again(kind: str, found: Found) -> None:
    """Scores the test images of the finished runs of a kind's rows, unless it is done.

    Raises:
      RunStoppedError: a signal arrived; the same command goes on.
    """
    with StopRequest() as stop:
        for run in (run for row in _ROWS[kind] for run in found.get(row, ())):
            if scores_file(kind, run).exists():
                continue
            config = run.config.copy_and_resolve_references()
            config.tta = kind == FLIPS
            model = Path(config.init_from) if kind == BEFORE else run.directory
            _, params, stats = load_variables(model)
            experiment = open_experiment(config)
            scores = scoring.predict(experiment, params, stats, "test", stop)
            write_predictions(scores_file(kind, run), scores)


def scores_file(kind: str, run: PlannedRun) -> Path:
    """Returns the file of a run's scores of a kind."""
    return run.derived / f"{kind}.csv"


def _auc(table: PredictionTable) -> float:
    return roc_auc(table.scores, table.labels) or 0.0


# Scores of an ensemble: of which scores of its rows they are made, and how.
_JOINED: dict[str, tuple[str, Callable[[list[PredictionTable]], PredictionTable]]] = {
    "mean": ("flips: ", mean_table),
    "best": ("flips: ", functools.partial(max, key=_auc)),
    "mean without flips": ("", mean_table),
}


def scores(name: str, found: Found) -> effects.BySeed:
    """Reads scores of the test images by seed.

    Args:
      name: a row; "flips: ROW" of four flips; "before: ROW" of the model that it starts
        from; "mean: TITLE" of an ensemble with flips, "best: TITLE" of its best model,
        "mean without flips: TITLE".
      found: the finished runs.
    """
    kind, _, of = name.rpartition(": ")
    if kind in _JOINED:
        prefix, join = _JOINED[kind]
        rows = next(each.rows for each in ENSEMBLES if each.title == of)
        parts = {row: scores(f"{prefix}{row}", found) for row in rows}
        return {
            seed: [join([*tables])]
            for seed, tables in effects.joined(parts, rows).items()
        }
    runs = found.get(of, ())
    if not kind:
        return {run.seed: [effects.test_table(run)] for run in runs}
    files = {run.seed: scores_file(kind, run) for run in runs}
    return {s: [read_table(file)] for s, file in files.items() if file.exists()}
