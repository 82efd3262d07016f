"""Exact AUC with DeLong's interval, and DeLong's test between two models."""

import dataclasses

import numpy as np
from etils import epy
from jaxtyping import Float, Int

with epy.lazy_imports():  # They take seconds, and training begins without them.
    import scipy.stats
    import sklearn.metrics


@dataclasses.dataclass(frozen=True)
class Auc:
    """An area under the ROC curve.

    Attributes:
      value: 0..1; None when the labels are all alike and no AUC exists.
      low: lower end of the 95 % interval, 0..1, or None likewise.
      high: upper end.
    """

    value: float | None
    low: float | None
    high: float | None


def roc_auc(
    scores: Float[np.ndarray, " images"], labels: Int[np.ndarray, " images"]
) -> float | None:
    """Exact area under the ROC curve, ties counting one half.

    Returns None when only one class is present: the area is then undefined.
    """
    if len(np.unique(labels)) < 2:
        return None
    return float(sklearn.metrics.roc_auc_score(labels, scores))


def roc_auc_with_interval(
    scores: Float[np.ndarray, " images"],
    labels: Int[np.ndarray, " images"],
    confidence: float = 0.95,
) -> Auc:
    """AUC with the interval of DeLong, DeLong and Clarke-Pearson (1988).

    The variance is formed from the structural components, computed through
    midranks (Sun and Xu, 2014). The interval is taken on the logit scale, so
    that it stays within 0..1 for AUCs near 1. A class with a single example has
    no variance: the interval is then None. A perfect separation has variance 0,
    which is no certainty: its bound is then Clopper and Pearson's for no failure
    among the examples of the smaller class.
    """
    value = roc_auc(scores, labels)
    positives, negatives = scores[labels == 1], scores[labels == 0]
    smaller = min(len(positives), len(negatives))
    if value is None or smaller < 2:
        return Auc(value, None, None)
    bound = float((0.5 - confidence / 2) ** (1 / smaller))
    if value == 1:
        return Auc(value, bound, 1.0)
    if value == 0:
        return Auc(value, 0.0, 1 - bound)
    deviation = np.sqrt(delong_variance(positives, negatives))
    if deviation == 0:  # All scores are equal.
        return Auc(value, None, None)
    half = scipy.stats.norm.ppf(0.5 + confidence / 2) * deviation
    half /= value * (1 - value)  # Delta method: the logit's derivative.
    centre = np.log(value / (1 - value))
    low, high = (1 / (1 + np.exp(-(centre + sign * half))) for sign in (-1, 1))
    return Auc(value, float(low), float(high))


def delong_variance(
    positives: Float[np.ndarray, " m"], negatives: Float[np.ndarray, " n"]
) -> float:
    """DeLong's variance of the AUC from the scores of the two classes."""
    return _variance(*structural_components(positives, negatives))


def structural_components(
    positives: Float[np.ndarray, " m"], negatives: Float[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " n"]]:
    """For each score the share of the other class that it is on the right side of.

    Ties count one half. The mean of either is the AUC (DeLong et al., equation 4).
    """
    m, n = len(positives), len(negatives)
    pooled = scipy.stats.rankdata(np.concatenate([positives, negatives]))
    return (
        (pooled[:m] - scipy.stats.rankdata(positives)) / n,
        1 - (pooled[m:] - scipy.stats.rankdata(negatives)) / m,
    )


def _variance(
    positive_parts: Float[np.ndarray, " m"], negative_parts: Float[np.ndarray, " n"]
) -> float:
    return float(
        positive_parts.var(ddof=1) / len(positive_parts)
        + negative_parts.var(ddof=1) / len(negative_parts)
    )


@dataclasses.dataclass(frozen=True)
class AucDifference:
    """The difference of two AUCs on the same images.

    Attributes:
      value: first less second, -1..1; None where an AUC is undefined.
      low: lower end of the 95 % interval; None where there is no variance.
      high: upper end.
      p_value: two-sided, of the hypothesis that the AUCs are equal; None likewise.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None


def compare_aucs(
    first: Float[np.ndarray, " images"],
    second: Float[np.ndarray, " images"],
    labels: Int[np.ndarray, " images"],
    confidence: float = 0.95,
) -> AucDifference:
    """DeLong's test of two models' scores of the same images (1988, equation 5).

    Images count as independent of one another. Scores that order the images alike
    have no difference, and a p-value of 1.
    """
    aucs = roc_auc(first, labels), roc_auc(second, labels)
    if aucs[0] is None or aucs[1] is None:
        return AucDifference(None)
    value = aucs[0] - aucs[1]
    if min((labels == 1).sum(), (labels == 0).sum()) < 2:
        return AucDifference(value)
    components = [
        structural_components(scores[labels == 1], scores[labels == 0])
        for scores in (first, second)
    ]
    # The variance of a difference is that of the components' differences.
    variance = _variance(*(a - b for a, b in zip(*components, strict=True)))
    deviation = float(np.sqrt(variance))
    if deviation < 1e-12:  # Rounding of the ranks' shares.
        same = abs(value) < 1e-12
        return AucDifference(0.0, 0.0, 0.0, 1.0) if same else AucDifference(value)
    half = float(scipy.stats.norm.ppf(0.5 + confidence / 2)) * deviation
    p_value = 2 * float(scipy.stats.norm.sf(abs(value) / deviation))
    return AucDifference(value, value - half, value + half, p_value)
