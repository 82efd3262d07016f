"""What finished runs came to: figures, prediction tables, and means over seeds."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats
from jaxtyping import Float

from mammo_jax.common import run_directory as workdirs
from mammo_jax.evaluation import bootstrap, metrics
from mammo_jax.evaluation.prediction_table import PredictionTable, align, read_table
from paper.plan import PlannedRun

Ends = tuple[float, float]


def by_row(plan: Sequence[PlannedRun]) -> dict[str, list[PlannedRun]]:
    """The finished runs of every row, in the order of their seeds."""
    found: dict[str, list[PlannedRun]] = {}
    for run in plan:
        if run.finished:
            found.setdefault(run.row.name, []).append(run)
    return found


def figures(run: PlannedRun) -> dict[str, Any]:
    """What the run's `metrics.json` holds."""
    return workdirs.read_json(run.directory / workdirs.METRICS_FILE)


def test_file(directory: Path) -> Path:
    """Where a run's scores of the test images are."""
    return directory / "predictions" / "test.csv"


def test_table(directory: Path) -> PredictionTable:
    """The scores of the test images."""
    return read_table(test_file(directory))


def auc(table: PredictionTable) -> float:
    """NaN where the images are all of one class."""
    value = metrics.roc_auc(table.scores, table.labels)
    return float("nan") if value is None else value


@dataclasses.dataclass(frozen=True)
class Effect:
    """A difference of means, with two intervals of 95 %.

    Attributes:
      value: mean over the seeds.
      by_seeds: Student's t over the seeds; None with fewer than two.
      by_patients: bootstrap over patients with the seeds as they are; None where
        there are no prediction tables, or too few patients.
      seeds: how many.
    """

    value: float
    by_seeds: Ends | None
    by_patients: Ends | None
    seeds: int


def seed_interval(values: Sequence[float]) -> Ends | None:
    """Student's 95 % interval of the mean of independent values."""
    if len(values) < 2:
        return None
    deviation = float(np.std(values, ddof=1)) / len(values) ** 0.5
    half = float(scipy.stats.t.ppf(0.975, len(values) - 1)) * deviation
    mean = float(np.mean(values))
    return mean - half, mean + half


def auc_effect(
    first: Sequence[Sequence[PredictionTable]],
    second: Sequence[Sequence[PredictionTable]] = (),
) -> Effect:
    """The mean AUC of some models less that of others, on the same test images.

    Args:
      first: for every seed, the tables of one or more models.
      second: likewise, of the models to compare with; none to compare with nothing.

    Raises:
      UserError: the tables are not of the same images.
    """
    like = first[0][0]
    signed: list[list[tuple[float, PredictionTable]]] = []
    for seed, tables in enumerate(first):
        terms = [(1 / len(tables), align(table, like)) for table in tables]
        if second:
            others = second[seed]
            terms += [(-1 / len(others), align(table, like)) for table in others]
        signed.append(terms)
    values = [sum(share * auc(table) for share, table in terms) for terms in signed]
    statistics = [
        (share / len(signed), bootstrap.weighted_auc(table.scores, table.labels))
        for terms in signed
        for share, table in terms
    ]

    def statistic(weights: bootstrap.Weights) -> Float[np.ndarray, " replicates"]:
        return np.sum([share * of(weights) for share, of in statistics], axis=0)

    drawn = bootstrap.patient_interval(like.patient_ids, statistic)
    ends = None
    if drawn.low is not None and drawn.high is not None:
        ends = drawn.low, drawn.high
    return Effect(float(np.mean(values)), seed_interval(values), ends, len(values))


def figure_effect(first: Sequence[float], second: Sequence[float]) -> Effect:
    """The mean difference of figures that are paired by seed."""
    values = [a - b for a, b in zip(first, second, strict=True)]
    return Effect(float(np.mean(values)), seed_interval(values), None, len(values))


def common_seeds(
    rows: Sequence[str], found: Mapping[str, Sequence[PlannedRun]]
) -> list[int]:
    """The seeds that all of the rows are finished with."""
    seeds = [{run.seed for run in found.get(row, ())} for row in rows]
    return sorted(set.intersection(*seeds)) if seeds else []
