"""Thresholds from which a score is called malignant, and what follows from them."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from etils import epy
from jaxtyping import Bool

from mammo_jax.evaluation.metrics import (
    Labels,
    Patients,
    Scores,
    effective_patients,
)

with epy.lazy_imports():  # They take seconds, and training begins without them.
    import scipy.stats
    import sklearn.metrics

TARGETS = (0.80, 0.90, 0.95)
# Shares of counts differ by less only through rounding.
_ROUNDING = 1e-12

Mask = Bool[np.ndarray, " images"]


def at_threshold(
    scores: Scores, labels: Labels, patients: Patients, threshold: float
) -> dict[str, Any]:
    """Counts what happens when scores from `threshold` up are called malignant.

    Returns:
      `threshold` (None: above every score); the counts `true_positive`,
      `false_negative`, `true_negative`, `false_positive`; and `sensitivity`,
      `specificity`, `positive_predictive_value`, `negative_predictive_value`, each as
      `share` has it.
    """
    names = np.asarray(patients)
    called, malignant = scores >= threshold, labels == 1
    rates = {
        "sensitivity": (called, malignant),
        "specificity": (~called, ~malignant),
        "positive_predictive_value": (malignant, called),
        "negative_predictive_value": (~malignant, ~called),
    }
    return {
        "threshold": threshold if math.isfinite(threshold) else None,
        "true_positive": int((called & malignant).sum()),
        "false_negative": int((~called & malignant).sum()),
        "true_negative": int((~called & ~malignant).sum()),
        "false_positive": int((called & ~malignant).sum()),
        **{name: share(hits[of], names[of]) for name, (hits, of) in rates.items()},
    }


def share(hits: Mask, patients: Patients) -> list[float] | None:
    """Returns the share of hits and its 95 % interval: [value, low, high].

    The interval is Wilson's with the effective number of images after Rao and Scott
    (1992): fewer than there are where those of one patient are alike, and never fewer
    than `effective_patients`. None of no images.
    """
    images = len(hits)
    if not images:
        return None
    value = float(hits.mean())
    names, of_image = np.unique(np.asarray(patients), return_inverse=True)
    sums = np.bincount(of_image, weights=hits - value)
    effective = effective_patients(
        patients
    )  # Without a spread nothing says that it is more.
    if 0 < value < 1 and len(names) > 1:
        spread = float((sums**2).sum()) * len(names) / (len(names) - 1)
        alone = images * value * (1 - value)
        if spread > 0:
            effective = min(max(images * alone / spread, effective), float(images))
    z = float(scipy.stats.norm.isf(0.025))
    centre = (value + z**2 / (2 * effective)) / (1 + z**2 / effective)
    half = z * math.sqrt(value * (1 - value) / effective + (z / (2 * effective)) ** 2)
    half /= 1 + z**2 / effective
    return [value, max(0.0, centre - half), min(1.0, centre + half)]


def threshold_for_specificity(scores: Scores, labels: Labels, least: float) -> float:
    """Chooses the highest sensitivity with a specificity of `least` or more.

    Both classes must be there. Of several thresholds, the one of the highest
    specificity; infinite where no score may be called malignant.
    """
    false_alarms, found, thresholds = _roc(scores, labels)
    allowed = np.flatnonzero(1 - false_alarms >= least - _ROUNDING)
    best = found[allowed].max()
    return float(thresholds[allowed[found[allowed] >= best - _ROUNDING][0]])


def threshold_for_sensitivity(scores: Scores, labels: Labels, least: float) -> float:
    """Chooses the highest specificity with a sensitivity of `least` or more.

    Both classes must be there. Of several thresholds, that of the highest sensitivity.
    """
    false_alarms, found, thresholds = _roc(scores, labels)
    allowed = np.flatnonzero(found >= least - _ROUNDING)
    best = false_alarms[allowed].min()
    return float(thresholds[allowed[false_alarms[allowed] <= best + _ROUNDING][-1]])


def youden_threshold(scores: Scores, labels: Labels) -> float:
    """Chooses the largest sensitivity + specificity - 1 (Youden, 1950).

    Both classes must be there. Of several thresholds, the highest.
    """
    false_alarms, found, thresholds = _roc(scores, labels)
    gain = found - false_alarms
    return float(thresholds[np.flatnonzero(gain >= gain.max() - _ROUNDING)[0]])


def _roc(scores: Scores, labels: Labels) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Share of false alarms, sensitivity and threshold at every point of the curve."""
    false_alarms, found, thresholds = sklearn.metrics.roc_curve(
        labels, scores, drop_intermediate=False
    )
    return false_alarms, found, thresholds


# The rules by which a threshold may be chosen, in the report's words.
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
