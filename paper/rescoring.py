"""Finished models scored again: in four flips (section 4), and before a transfer."""

import dataclasses
from pathlib import Path

from mammo_jax.common.files import replace_file
from mammo_jax.common.signals import StopRequest
from mammo_jax.evaluation.prediction_table import PredictionTable, read_table
from mammo_jax.evaluation.predictions import write_predictions
from mammo_jax.training import scoring
from mammo_jax.training.experiment import open_experiment
from mammo_jax.weights.model_directory import WEIGHTS_FILE, load_variables
from mammo_jax.weights.published import file_digest
from paper import effects
from paper.runs import Found, PlannedRun, Setting

_RESIDUAL = "residual_512-512-1024x2"


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
    """A kind of scoring again.

    Attributes:
      folder: name of its directory.
      rows: the rows whose test images are scored.
      flips: True if the scores of four flips are averaged.
      before: True if the model is the one that a run starts from, so that a score
        differs from the run's own by the training alone.
    """

    folder: str
    rows: tuple[str, ...]
    flips: bool = False
    before: bool = False

    def model(self, run: PlannedRun) -> Path:
        """Returns the directory of the run whose model scores."""
        return Path(run.config.init_from) if self.before else run.directory

    def file(self, run: PlannedRun, setting: Setting) -> Path:
        """Returns the file of a run's scores."""
        return setting.folder / self.folder / run.row.name / f"seed{run.seed}.csv"

    def is_done(self, run: PlannedRun, setting: Setting) -> bool:
        """Tells whether the scores are there, and of the model as it is now."""
        table, weights = self.file(run, setting), self.model(run) / WEIGHTS_FILE
        noted = _digest_file(table)
        if not (table.exists() and weights.exists() and noted.exists()):
            return False
        return noted.read_text("utf-8") == file_digest(weights, "sha256")

    def score_all(self, found: Found, setting: Setting) -> None:
        """Scores the finished runs of the rows, where that is not done.

        Raises:
          RunStoppedError: a signal arrived; the same command goes on.
        """
        with StopRequest() as stop:
            for run in (run for row in self.rows for run in found.get(row, ())):
                if not self.is_done(run, setting):
                    self._score(run, setting, stop)

    def _score(self, run: PlannedRun, setting: Setting, stop: StopRequest) -> None:
        config = run.config.copy_and_resolve_references()
        config.tta = self.flips
        experiment = open_experiment(config)
        digest = file_digest(self.model(run) / WEIGHTS_FILE, "sha256")
        _, params, stats = load_variables(self.model(run))
        scores = scoring.predict(experiment, params, stats, "test", stop)
        table = self.file(run, setting)
        # The digest goes first and comes last: it is never beside another's scores.
        _digest_file(table).unlink(missing_ok=True)
        write_predictions(table, scores)
        with replace_file(_digest_file(table)) as partial:
            partial.write_text(digest, "utf-8")

    def tables(
        self, rows: tuple[str, ...], found: Found, setting: Setting
    ) -> dict[int, list[PredictionTable]]:
        """Reads the scores of the rows, for each seed that all of them have."""
        result = {}
        for seed in effects.common_seeds(rows, found):
            runs = effects.runs_with(rows, seed, found)
            if all(self.is_done(run, setting) for run in runs):
                result[seed] = [read_table(self.file(run, setting)) for run in runs]
        return result


def _digest_file(table: Path) -> Path:
    """Returns the file that says which weights a table's scores are of."""
    return table.with_suffix(".sha256")


FLIPS = Rescoring("flips", FLIPPED_ROWS, flips=True)
UNTRANSFERRED = Rescoring("untransferred", TRANSFER_ROWS, before=True)
