"""Effects: differences of mean figures, with one interval for readers and cases.

A replicate is what was trained anew with another seed, on phantoms with the pretrained
trunk. All read the same test images, so that an effect varies with the replicates
("readers") and with the patients ("cases"). Both are in one interval: that of
Obuchowski and Rockette (1995) with the degrees of freedom of Hillis (2007), from the
variance of the replicates and from the covariance that they have through the patients,
which is DeLong's summed over patients.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import TypeVar

import numpy as np
import scipy.stats
from jaxtyping import Float

from mammo_jax.evaluation.metrics import auc_covariance, roc_auc
from mammo_jax.evaluation.prediction_table import PredictionTable, align, read_table
from paper.runs import PlannedRun

Value = TypeVar("Value")
Ends = tuple[float, float]
BySeed = Mapping[int, Sequence[PredictionTable]]


@dataclasses.dataclass(frozen=True)
class Effect:
    """A mean or a difference of means over replicates.

    The standard `error` has so many degrees of `freedom`; None with one replicate.
    """

    value: float
    error: float | None
    freedom: float
    replicates: int

    @property
    def interval(self) -> Ends | None:
        """The interval of 95 %, or None."""
        if self.error is None:
            return None
        half = float(scipy.stats.t.isf(0.025, self.freedom)) * self.error
        return self.value - half, self.value + half

    def p_not_below(self, bound: float) -> float:
        """Returns the p-value of: the effect is not below `bound`."""
        if np.isinf(bound):
            return 0.0 if bound > 0 else 1.0
        if self.error is None or not np.isfinite(self.value):
            return 1.0
        if self.error == 0:
            return float(self.value >= bound)
        t = (self.value - bound) / self.error
        return float(scipy.stats.t.cdf(t, self.freedom))

    def p_not_above(self, bound: float) -> float:
        """Returns the p-value of: the effect is not above `bound`."""
        return dataclasses.replace(self, value=-self.value).p_not_below(-bound)


def effect_of(
    values: Sequence[float],
    covariance: Float[np.ndarray, "replicates replicates"] | None = None,
) -> Effect:
    """Returns the mean of figures, one for each replicate, with its standard error.

    `covariance` is what they have in common through the patients; None where that is
    not known, as of accuracies: the interval is then over replicates alone.
    """
    count = len(values)
    mean = float(np.mean(values))
    if count < 2:
        return Effect(mean, None, 0.0, count)
    between = float(np.var(values, ddof=1))
    shared = 0.0
    if covariance is not None:
        pairs = covariance.sum() - np.trace(covariance)
        shared = max(0.0, float(pairs) / (count * (count - 1)))
    total = between + count * shared
    if total == 0:
        return Effect(mean, 0.0, count - 1.0, count)
    freedom = np.inf if between == 0 else (count - 1) * (total / between) ** 2
    return Effect(mean, (total / count) ** 0.5, float(freedom), count)


def auc_effect(
    first: Sequence[Sequence[PredictionTable]],
    second: Sequence[Sequence[PredictionTable]] = (),
) -> Effect:
    """Returns the mean AUC of some models less that of others, on the same images.

    Each has the tables of its models for every replicate; `second` may be left out.

    Raises:
      UserError: the tables are not of the same images.
    """
    like = first[0][0]
    scores, contrasts = [], []
    for replicate, pair in enumerate(zip_longest(first, second, fillvalue=())):
        for sign, group in zip((1.0, -1.0), pair, strict=True):
            for table in group:
                scores.append(align(table, like).scores)
                contrasts.append((replicate, sign / len(group)))
    weights = np.zeros((len(first), len(scores)))
    for model, (replicate, share) in enumerate(contrasts):
        weights[replicate, model] = share
    # Of one class alone it is None, which becomes NaN.
    areas = np.array([roc_auc(each, like.labels) for each in scores], float)
    covariance = None
    if np.isfinite(areas).all():
        covariance = auc_covariance(scores, like.labels, like.patient_ids)
    if covariance is not None:
        covariance = weights @ covariance @ weights.T
    return effect_of((weights @ areas).tolist(), covariance)


def test_table(run: PlannedRun) -> PredictionTable:
    """Reads a finished run's scores of the test images."""
    return read_table(run.directory / "predictions" / "test.csv")


def joined(
    by_name: Mapping[str, Mapping[int, Sequence[Value]]], names: Sequence[str]
) -> dict[int, list[Value]]:
    """Joins what some names have of each seed that all in `by_name` have."""
    seeds = set.intersection(*({*values} for values in by_name.values()))
    return {s: [x for name in names for x in by_name[name][s]] for s in sorted(seeds)}


def holm(p_values: Sequence[float]) -> list[float]:
    """Corrects p-values for their number (Holm, 1979)."""
    order = np.argsort(p_values)
    factors = np.arange(len(p_values), 0, -1)
    corrected = np.maximum.accumulate(np.asarray(p_values)[order] * factors)
    result = np.empty(len(p_values))
    result[order] = np.minimum(corrected, 1.0)
    return [float(value) for value in result]
