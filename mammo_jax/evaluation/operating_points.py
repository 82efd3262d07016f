"""Thresholds from which a score is called malignant, and what follows from them."""

import math
from typing import Any

import numpy as np
from etils import epy
from jaxtyping import Bool

from mammo_jax.evaluation.metrics import Labels, Patients, Scores, effective_patients

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
    # Without a spread nothing says that it is more.
    effective = effective_patients(patients)
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


def choose_threshold(
    scores: Scores, labels: Labels, rule: str, least: float = 0.0
) -> float:
    """Chooses a threshold by a rule; both classes must be there.

    Args:
      scores: 0..1.
      labels: 1 malignant, else 0.
      rule: "Youden" for the largest sensitivity + specificity - 1 (Youden, 1950);
        "specificity" for the highest sensitivity with a specificity of `least` or more;
        "sensitivity" for the reverse.
      least: see `rule`.

    Returns:
      Of several thresholds that of the highest specificity, for the rule "sensitivity"
      that of the highest sensitivity; infinite where no score may be called malignant.
    """
    false_alarms, sensitivity, thresholds = sklearn.metrics.roc_curve(
        labels, scores, drop_intermediate=False
    )
    specificity, enough = 1 - false_alarms, least - _ROUNDING
    gain, allowed = {
        "Youden": (sensitivity + specificity, specificity >= 0),
        "specificity": (sensitivity, specificity >= enough),
        "sensitivity": (specificity, sensitivity >= enough),
    }[rule]
    best = np.flatnonzero(allowed & (gain >= gain[allowed].max() - _ROUNDING))
    return float(thresholds[best[-1 if rule == "sensitivity" else 0]])


# The rules by which a threshold is chosen, in the report's words.
RULES = {
    "Youden": ("Youden", 0.0),
    **{
        f"{rule} {target:.2f}": (rule, target)
        for rule in ("specificity", "sensitivity")
        for target in TARGETS
    },
}
