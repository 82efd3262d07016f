"""Section 4: four-flip averages, and means over models, of finished runs."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from mammo_jax.common import run_directory as workdirs
from mammo_jax.common.signals import StopRequest
from mammo_jax.evaluation.prediction_table import PredictionTable, read_table
from mammo_jax.evaluation.predictions import write_predictions
from mammo_jax.training import scoring
from mammo_jax.training.experiment import open_experiment
from mammo_jax.weights.model_directory import load_variables
from mammo_jax.weights.pretrained import file_digest
from paper import outcomes
from paper.plan import PlannedRun, Setting

_RESIDUAL = "residual_512-512-1024x2"
# Beside a table: of the test predictions that the scoring model's own run left.
_SOURCE = "model_predictions_sha256"


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """Models that are averaged.

    Attributes:
      title: of the table.
      rows: the paper's three best models, or two.
      paper: AUC of each alone, and with flips.
      paper_mean: AUC of the mean of all, with flips.
    """

    title: str
    rows: tuple[str, ...]
    paper: tuple[tuple[float, float], ...]
    paper_mean: float


# The hybrid is the one of the extended training: 0.85 alone.
ENSEMBLES = {
    "cbis_ddsm": Ensemble(
        "CBIS-DDSM",
        (
            f"resnet50_s10_{_RESIDUAL}",
            "vgg16_s10_vgg_512x1",
            f"vgg16_s10_{_RESIDUAL}_extended",
        ),
        ((0.86, 0.88), (0.83, 0.86), (0.85, 0.88)),
        0.91,
    ),
    "inbreast": Ensemble(
        "INbreast",
        ("inbreast_vgg16_s10_vgg_512x1", f"inbreast_vgg16_s10_{_RESIDUAL}"),
        ((0.92, 0.94), (0.95, 0.96)),
        0.96,
    ),
}
ROWS = tuple(row for ensemble in ENSEMBLES.values() for row in ensemble.rows)


def flipped_table(run: PlannedRun, setting: Setting) -> Path:
    """Where the four-flip scores of a run's test images are."""
    return (
        setting.folder / "ensemble" / run.row.name / f"seed{run.seed}" / "test_tta.csv"
    )


def score_flips(found: Mapping[str, Sequence[PlannedRun]], setting: Setting) -> None:
    """Scores the test images of the ensembles' runs in four flips, where not done.

    A run that was trained anew since is scored anew.

    Raises:
      RunStoppedError: a signal arrived; the same command goes on.
    """
    with StopRequest() as stop:
        for row in ROWS:
            for run in found.get(row, ()):
                if not is_flipped(run, setting):
                    out = flipped_table(run, setting)
                    score(run, run.directory, out, stop, flips=True)


def is_flipped(run: PlannedRun, setting: Setting) -> bool:
    """Whether the four-flip scores are there, and of the run as it is."""
    return is_scored(flipped_table(run, setting), run.directory)


def is_scored(table: Path, model: Path) -> bool:
    """Whether a table is there and of the finished run `model` as it is now."""
    source = _source_file(table)
    predictions = outcomes.test_file(model)
    if not (table.exists() and source.exists() and predictions.exists()):
        return False
    return workdirs.read_json(source).get(_SOURCE) == file_digest(predictions, "sha256")


def note_source(table: Path, model: Path) -> None:
    """Writes beside a table from which run's state it was scored."""
    digest = file_digest(outcomes.test_file(model), "sha256")
    workdirs.write_json(_source_file(table), {_SOURCE: digest})


def _source_file(table: Path) -> Path:
    return table.with_suffix(".json")


def score(
    run: PlannedRun, model: Path, out: Path, stop: StopRequest, *, flips: bool
) -> None:
    """Scores the test images of a run, and notes which model did it.

    Args:
      run: whose data and design are taken.
      model: directory of the finished run whose weights are taken.
      out: the table to write.
      stop: checked after every batch.
      flips: whether the scores of four flips are averaged.

    Raises:
      RunStoppedError: a signal arrived.
    """
    config = run.config.copy_and_resolve_references()
    config.tta = flips
    experiment = open_experiment(config)
    _, params, stats = load_variables(model)
    write_predictions(out, scoring.predict(experiment, params, stats, "test", stop))
    note_source(out, model)


def single(run: PlannedRun) -> PredictionTable:
    """The scores of the images as they are."""
    return outcomes.test_table(run.directory)


def flipped(run: PlannedRun, setting: Setting) -> PredictionTable:
    """The four-flip scores."""
    return read_table(flipped_table(run, setting))
