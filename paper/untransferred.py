"""Table 4 before any transfer: the models as CBIS-DDSM made them, on INbreast.

What a transfer gains can only be said beside this. The images are those that its runs
are validated on, less the mean grey of their training images, so that a score differs
from theirs by the training alone.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from mammo_jax.common.signals import StopRequest
from mammo_jax.evaluation.prediction_table import PredictionTable, read_table
from paper import ensembles
from paper.plan import PlannedRun, Setting

MODELS = (
    "resnet50_s10_residual_512-512-1024x2",
    "vgg16_s10_vgg_512x1",
    "vgg16_s10_residual_512-512-1024x2",
)
# Of each model the transfer that has the fewest patients.
ROWS = tuple(f"inbreast_{model}_20patients" for model in MODELS)


def table_file(run: PlannedRun, setting: Setting) -> Path:
    """Where the scores are of the model that a transfer starts from."""
    return setting.folder / "untransferred" / run.row.start / f"seed{run.seed}.csv"


def score_models(found: Mapping[str, Sequence[PlannedRun]], setting: Setting) -> None:
    """Scores the models that the finished runs of `ROWS` started from, where not done.

    A model that was trained anew since is scored anew.

    Raises:
      RunStoppedError: a signal arrived; the same command goes on.
    """
    with StopRequest() as stop:
        for row in ROWS:
            for run in found.get(row, ()):
                if not is_scored(run, setting):
                    start, out = Path(run.config.init_from), table_file(run, setting)
                    ensembles.score(run, start, out, stop, flips=False)


def is_scored(run: PlannedRun, setting: Setting) -> bool:
    """Whether the scores before transfer are there, and of the model as it is."""
    return ensembles.is_scored(table_file(run, setting), Path(run.config.init_from))


def tables(
    rows: Sequence[str], found: Mapping[str, Sequence[PlannedRun]], setting: Setting
) -> dict[int, list[PredictionTable]]:
    """The scores before transfer, for each seed that all of the rows have them of."""
    there = [
        {
            run.seed: read_table(table_file(run, setting))
            for run in found.get(row, ())
            if is_scored(run, setting)
        }
        for row in rows
    ]
    seeds = set.intersection(*(set(row) for row in there))
    return {seed: [row[seed] for row in there] for seed in sorted(seeds)}
