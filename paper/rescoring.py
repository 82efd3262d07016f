"""Finished models scored again: in four flips (section 4), and before a transfer."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

from mammo_jax.common.files import replace_file
from mammo_jax.common.signals import StopRequest
from mammo_jax.evaluation.prediction_table import (
    PredictionTable,
    mean_table,
    read_table,
)
from mammo_jax.evaluation.predictions import write_predictions
from mammo_jax.training import scoring
from mammo_jax.training.experiment import open_experiment
from mammo_jax.weights.model_description import WEIGHTS_FILE
from mammo_jax.weights.model_directory import load_variables
from mammo_jax.weights.published import file_digest
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


@dataclasses.dataclass(frozen=True)
class Rescoring:
    """A kind of scoring the test images of rows again, into a folder.

    With `flips` the scores of four flips are averaged. With `before` the model is the
    one that a run starts from: scores differ from the run's by the training alone.
    """

    folder: str
    rows: tuple[str, ...]
    flips: bool = False
    before: bool = False

    def weights(self, run: PlannedRun) -> Path:
        """Returns the file of the weights that score."""
        model = Path(run.config.init_from) if self.before else run.directory
        return model / WEIGHTS_FILE

    def file(self, run: PlannedRun) -> Path:
        """Returns the file of a run's scores."""
        results = run.directory.parents[1]
        return results / self.folder / run.row.name / f"seed{run.seed}.csv"

    def is_done(self, run: PlannedRun) -> bool:
        """Tells whether the scores are there, and of the model as it is now."""
        table, weights = self.file(run), self.weights(run)
        noted = _digest_file(table)
        if not (table.exists() and weights.exists() and noted.exists()):
            return False
        return noted.read_text("utf-8") == file_digest(weights, "sha256")

    def score_all(self, found: Found) -> None:
        """Scores the finished runs of the rows, where that is not done.

        Raises:
          RunStoppedError: a signal arrived; the same command goes on.
        """
        with StopRequest() as stop:
            for run in (run for row in self.rows for run in found.get(row, ())):
                if not self.is_done(run):
                    self._score(run, stop)

    def _score(self, run: PlannedRun, stop: StopRequest) -> None:
        config = run.config.copy_and_resolve_references()
        config.tta = self.flips
        experiment = open_experiment(config)
        digest = file_digest(self.weights(run), "sha256")
        _, params, stats = load_variables(self.weights(run).parent)
        scores = scoring.predict(experiment, params, stats, "test", stop)
        table = self.file(run)
        # The digest goes first and comes last: it is never beside another's scores.
        _digest_file(table).unlink(missing_ok=True)
        write_predictions(table, scores)
        with replace_file(_digest_file(table)) as partial:
            partial.write_text(digest, "utf-8")


def _digest_file(table: Path) -> Path:
    """Returns the file that says which weights a table's scores are of."""
    return table.with_suffix(".sha256")


FLIPS = Rescoring("flips", FLIPPED_ROWS, flips=True)
UNTRANSFERRED = Rescoring("untransferred", TRANSFER_ROWS, before=True)
_AGAIN = {"flips": FLIPS, "before": UNTRANSFERRED}
# Scores of an ensemble: of which scores of its rows they are made, and how.
_JOINED: dict[str, tuple[str, Callable[[list[PredictionTable]], PredictionTable]]] = {
    "mean": ("flips: ", mean_table),
    "best": ("flips: ", functools.partial(max, key=effects.auc)),
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
    again = _AGAIN[kind]
    return {
        run.seed: [read_table(again.file(run))] for run in runs if again.is_done(run)
    }
