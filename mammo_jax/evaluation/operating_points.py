"""Thresholds: what a score is called malignant at, and what follows from it."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from etils import epy
from jaxtyping import Float, Int

with epy.lazy_imports():  # They take seconds, and training begins without them.
    import scipy.stats
    import sklearn.metrics

TARGETS = (0.80, 0.90, 0.95)
# Of shares of counts.
_ROUNDING = 1e-12

Scores = Float[np.ndarray, " images"]
Labels = Int[np.ndarray, " images"]


def at_threshold(scores: Scores, labels: Labels, threshold: float) -> dict[str, Any]:
    """Counts and rates when scores from `threshold` up are called malignant.

    Returns:
      `threshold` (None: above every score); the counts `true_positive`,
      `false_negative`, `true_negative`, `false_positive`; and `sensitivity`,
      `specificity`, `positive_predictive_value`, `negative_predictive_value`, each
      (value, low, high) with Wilson's 95 % interval, or None where nothing is counted.
    """
    called = scores >= threshold
    malignant = labels == 1
    found = int((called & malignant).sum())
    alarms = int((called & ~malignant).sum())
    missed = int(malignant.sum()) - found
    cleared = int((~malignant).sum()) - alarms
    return {
        "threshold": threshold if math.isfinite(threshold) else None,
        "true_positive": found,
        "false_negative": missed,
        "true_negative": cleared,
        "false_positive": alarms,
        "sensitivity": share(found, found + missed),
        "specificity": share(cleared, cleared + alarms),
        "positive_predictive_value": share(found, found + alarms),
        "negative_predictive_value": share(cleared, cleared + missed),
    }


def share(count: int, total: int) -> tuple[float, float, float] | None:
    """`count / total` with Wilson's 95 % interval; None of nothing."""
    if not total:
        return None
    interval = scipy.stats.binomtest(count, total).proportion_ci(method="wilson")
    return count / total, float(interval.low), float(interval.high)


def threshold_for_specificity(scores: Scores, labels: Labels, least: float) -> float:
    """The threshold of the highest sensitivity with a specificity of `least` or more.

    Both classes must be there. Of several, the one of the highest specificity; infinite
    where no score may be called malignant.
    """
    false_alarms, found, thresholds = _roc(scores, labels)
    allowed = np.flatnonzero(1 - false_alarms >= least - _ROUNDING)
    best = found[allowed].max()
    return float(thresholds[allowed[found[allowed] >= best - _ROUNDING][0]])


def threshold_for_sensitivity(scores: Scores, labels: Labels, least: float) -> float:
    """The threshold of the highest specificity with a sensitivity of `least` or more.

    Both classes must be there. Of several, the one of the highest sensitivity.
    """
    false_alarms, found, thresholds = _roc(scores, labels)
    allowed = np.flatnonzero(found >= least - _ROUNDING)
    best = false_alarms[allowed].min()
    return float(thresholds[allowed[false_alarms[allowed] <= best + _ROUNDING][-1]])


def youden_threshold(scores: Scores, labels: Labels) -> float:
    """The threshold of the largest sensitivity + specificity - 1 (Youden, 1950).

    Both classes must be there. Of several, the highest.
    """
    false_alarms, found, thresholds = _roc(scores, labels)
    gain = found - false_alarms
    return float(thresholds[np.flatnonzero(gain >= gain.max() - _ROUNDING)[0]])


def _roc(scores: Scores, labels: Labels) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return sklearn.metrics.roc_curve(labels, scores, drop_intermediate=False)


# How a threshold may be chosen, in the report's words.
RULES: dict[str, Callable[[Scores, Labels], float]] = {
    "Youden": youden_threshold,
    **{
        f"specificity {target:.2f}": partial(threshold_for_specificity, least=target)
        for target in TARGETS
    },
    **{
        f"sensitivity {target:.2f}": partial(threshold_for_sensitivity, least=target)
        for target in TARGETS
    },
}
