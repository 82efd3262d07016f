"""Intervals by drawing whole patients again, with replacement.

The views of one patient are not independent; an interval that takes them so is too
narrow. A replicate is a count of each patient, which weights the patient's images.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int

REPLICATES = 2000
_SEED = 0
# Of the arrays of one chunk of replicates: some 30 MB each.
_CHUNK_ELEMENTS = 4_000_000

Weights = Float[np.ndarray, "replicates images"]
# Maps weights to the weighted figure of each replicate, NaN where it is undefined.
Statistic = Callable[[Weights], Float[np.ndarray, " replicates"]]


@dataclasses.dataclass(frozen=True)
class Interval:
    """A percentile interval.

    Attributes:
      low: lower end, or None where the replicates say nothing: a single patient, or
        all replicates alike, as with a perfect separation.
      high: upper end.
      undefined: share of the replicates, 0..1, that held one class only and were
        left out.
    """

    low: float | None
    high: float | None
    undefined: float


def patient_interval(
    patients: Sequence[str], statistic: Statistic, confidence: float = 0.95
) -> Interval:
    """The percentile bootstrap over patients; the same numbers every time.

    Args:
      patients: of each image.
      statistic: see `Statistic`.
      confidence: of the interval, 0..1.
    """
    names, patient_of = np.unique(np.asarray(patients), return_inverse=True)
    rng = np.random.default_rng(_SEED)
    shares = np.full(len(names), 1 / len(names))
    chunk = max(1, _CHUNK_ELEMENTS // len(patients))
    figures = []
    for start in range(0, REPLICATES, chunk):
        size = min(chunk, REPLICATES - start)
        counts = rng.multinomial(len(names), shares, size=size)
        figures.append(statistic(counts[:, patient_of].astype(np.float64)))
    values = np.concatenate(figures)
    defined = values[np.isfinite(values)]
    undefined = 1 - len(defined) / len(values)
    if len(defined) < 2 or np.ptp(defined) < 1e-12:
        return Interval(None, None, undefined)
    tail = (1 - confidence) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    return Interval(float(low), float(high), undefined)


def weighted_auc(
    scores: Float[np.ndarray, " images"], labels: Int[np.ndarray, " images"]
) -> Statistic:
    """The area under the ROC curve, ties counting one half."""
    order, starts = _tied(scores)
    positive = labels[order] == 1

    def statistic(weights: Weights) -> Float[np.ndarray, " replicates"]:
        positives, negatives = _sums(weights[:, order], positive, starts)
        below = negatives.cumsum(1) - negatives / 2
        pairs = positives.sum(1) * negatives.sum(1)
        return _divide((positives * below).sum(1), pairs)

    return statistic


def weighted_average_precision(
    scores: Float[np.ndarray, " images"], labels: Int[np.ndarray, " images"]
) -> Statistic:
    """The precision at each score, averaged over the positives found there."""
    order, starts = _tied(-scores)
    positive = labels[order] == 1

    def statistic(weights: Weights) -> Float[np.ndarray, " replicates"]:
        positives, negatives = _sums(weights[:, order], positive, starts)
        found = positives.cumsum(1)
        called = np.maximum(found + negatives.cumsum(1), 1)
        total = positives.sum(1)
        one_class = negatives.sum(1) == 0
        value = _divide((positives * found / called).sum(1), total)
        return np.where(one_class, np.nan, value)

    return statistic


def _tied(
    scores: Float[np.ndarray, " images"],
) -> tuple[Int[np.ndarray, " images"], Int[np.ndarray, " groups"]]:
    """Ascending order, and where in it each group of equal scores starts."""
    order = np.argsort(scores, kind="stable")
    return order, np.unique(scores[order], return_index=True)[1]


def _sums(
    weights: Weights, positive: np.ndarray, starts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Weight of the positives and of the negatives in each group of equal scores."""
    return (
        np.add.reduceat(weights * positive, starts, axis=1),
        np.add.reduceat(weights * ~positive, starts, axis=1),
    )


def _divide(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    return np.divide(top, bottom, out=np.full(len(top), np.nan), where=bottom > 0)
