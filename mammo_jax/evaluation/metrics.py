"""Areas under the ROC curve and the precision-recall curve, with patients' intervals.

The views of one patient are not independent. The covariance of DeLong, DeLong and
Clarke-Pearson (1988) is therefore summed over patients first, as in Obuchowski (1997),
Nonparametric analysis of clustered ROC curve data; where every patient has one image it
is DeLong's own. `python -m benchmarks.interval_coverage` shows what the intervals
cover with two views a patient: 0.93 to 0.99, up to an AUC of 0.98 and down to 40
patients; very uneven numbers of images cost some of it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from etils import epy
from jaxtyping import Float, Int

with epy.lazy_imports():  # They take seconds, and training begins without them.
    import scipy.optimize
    import scipy.special
    import scipy.stats
    import sklearn.metrics

Scores = Float[np.ndarray, " images"]
Labels = Int[np.ndarray, " images"]
# The patient of each image.
Patients = Sequence[str] | np.ndarray
# The part of the normal distribution that a 95 % interval leaves out on each side.
_TAIL = 0.025
# Below, a standard deviation comes from rounding the ranks' shares.
_LEAST_DEVIATION = 1e-8


class Estimate(NamedTuple):
    """A figure with its 95 % interval over patients.

    Attributes:
      value: None where the figure is undefined: the images are all of one class.
      low: lower end of the interval; None where there is none: too few patients.
      high: upper end.
    """

    value: float | None
    low: float | None = None
    high: float | None = None


def roc_auc(scores: Scores, labels: Labels) -> float | None:
    """Returns the exact area under the ROC curve, ties counting one half.

    None when only one class is present: the area is then undefined.
    """
    if len(np.unique(labels)) < 2:
        return None
    return float(sklearn.metrics.roc_auc_score(labels, scores))


def structural_components(
    positives: Float[np.ndarray, " m"], negatives: Float[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " n"]]:
    """Returns for each score the share of the other class that it is right about.

    Ties count one half. The mean of either is the AUC (DeLong et al., equation 4); the
    midranks are those of Sun and Xu (2014).
    """
    m, n = len(positives), len(negatives)
    pooled = scipy.stats.rankdata(np.concatenate([positives, negatives]))
    return (
        (pooled[:m] - scipy.stats.rankdata(positives)) / n,
        1 - (pooled[m:] - scipy.stats.rankdata(negatives)) / m,
    )


def auc_covariance(
    models: Sequence[Scores], labels: Labels, patients: Patients
) -> Float[np.ndarray, "models models"] | None:
    """Returns the covariance of several models' AUCs on the same images.

    Both classes are there. None where one has images of fewer than two patients.
    """
    malignant = labels == 1
    of_image = np.unique(np.asarray(patients), return_inverse=True)[1]
    counts = _patients_of_classes(labels, patients)
    if min(counts) < 2:
        return None
    sums = np.zeros((2, len(models), int(np.max(of_image)) + 1))
    for model, scores in enumerate(models):
        parts = structural_components(scores[malignant], scores[~malignant])
        for which, (mask, part) in enumerate(
            zip((malignant, ~malignant), parts, strict=True)
        ):
            np.add.at(sums[which, model], of_image[mask], part - part.mean())
    m, n = malignant.sum(), (~malignant).sum()
    everybody = sums.shape[2]
    (first, second), (p, q) = (sums[0] / m, sums[1] / n), counts
    crossed = first @ second.T
    return np.asarray(
        first @ first.T * (p / (p - 1))
        + second @ second.T * (q / (q - 1))
        + (crossed + crossed.T) * (everybody / (everybody - 1))
    )


def auc_estimate(scores: Scores, labels: Labels, patients: Patients) -> Estimate:
    """Returns the AUC, 0..1, with its interval over patients.

    The interval is the fifth of Newcombe (2006), Confidence intervals for an effect
    size measure based on the Mann-Whitney statistic, Part 2: the areas whose own
    standard error the value is within reach of, which covers near 1, too. The numbers
    of images are divided by what DeLong's variance grows by over patients, down to the
    number of `effective_patients`.
    """
    value = roc_auc(scores, labels)
    if value is None:
        return Estimate(None)
    covariance = auc_covariance([scores], labels, patients)
    if covariance is None:
        return Estimate(value)
    alone = auc_covariance([scores], labels, np.arange(len(labels)).astype(str))
    images = np.array([(labels == 1).sum(), (labels != 1).sum()])
    names = np.asarray(patients)
    counts = np.array(
        [effective_patients(names[mask]) for mask in (labels == 1, labels != 1)]
    )
    if alone is not None and alone[0, 0] > 0:
        growth = covariance[0, 0] / alone[0, 0]
        counts = np.clip(images / max(growth, 1.0), counts, images)
    return _newcombe(value, *map(float, counts))


def _newcombe(value: float, positives: float, negatives: float) -> Estimate:
    """Returns the interval of an area between so many independent images."""

    def excess(area: float) -> float:
        """Squared distance to an area, less that area's own squared half width."""
        mean = (positives + negatives) / 2
        spread = 2 * mean - 1 - (3 * mean - 3) / ((2 - area) * (1 + area))
        variance = area * (1 - area) * spread / (positives * negatives)
        reach = float(scipy.stats.norm.isf(_TAIL)) ** 2
        return (value - area) ** 2 - reach * variance

    # An area of exactly 0 or 1 has no width, and would be an end of its own.
    inside = min(max(value, _LEAST_DEVIATION), 1 - _LEAST_DEVIATION)
    low = scipy.optimize.brentq(excess, 0.0, inside) if value > 0 else 0.0
    high = scipy.optimize.brentq(excess, inside, 1.0) if value < 1 else 1.0
    return Estimate(value, float(low), float(high))


def effective_patients(patients: Patients) -> float:
    """Counts patients of equal weight that tell as much as these, after Kish (1965).

    Of images that are alike within a patient, a patient with many of them weighs more
    than the others, and the count is lower than the patients'.
    """
    _, sizes = np.unique(np.asarray(patients), return_counts=True)
    return float(sizes.sum() ** 2 / (sizes**2).sum())


def _patients_of_classes(labels: Labels, patients: Patients) -> tuple[int, int]:
    """Counts the patients with a malignant image, and those with another."""
    names = np.asarray(patients)
    return len(np.unique(names[labels == 1])), len(np.unique(names[labels != 1]))


def average_precision_estimate(
    scores: Scores, labels: Labels, patients: Patients
) -> Estimate:
    """Returns the average precision, 0..1, with its interval over patients.

    The interval is Boyd, Eng and Page's (2013) on the logit scale, with the patients
    who have a malignant image as the count of positives.
    """
    if len(np.unique(labels)) < 2:
        return Estimate(None)
    value = float(sklearn.metrics.average_precision_score(labels, scores))
    positives, _ = _patients_of_classes(labels, patients)
    if value == 1 or positives < 2:
        return Estimate(value)
    half = scipy.stats.norm.isf(_TAIL) / (positives * value * (1 - value)) ** 0.5
    centre = scipy.special.logit(value)
    low, high = scipy.special.expit([centre - half, centre + half])
    return Estimate(value, float(low), float(high))


def compare_aucs(
    first: Scores, second: Scores, labels: Labels, patients: Patients
) -> tuple[Estimate, float | None]:
    """Compares two models' AUCs on the same images (DeLong et al., equation 5).

    Returns:
      The first AUC less the second, -1..1, with its interval over patients, and the
      two-sided p-value of no difference; None without a variance. Scores that order
      the images alike have no difference, and a p-value of 1.
    """
    aucs = roc_auc(first, labels), roc_auc(second, labels)
    if aucs[0] is None or aucs[1] is None:
        return Estimate(None), None
    value = aucs[0] - aucs[1]
    covariance = auc_covariance([first, second], labels, patients)
    if covariance is None:
        return Estimate(value), None
    contrast = np.array([1.0, -1.0])
    deviation = float(np.sqrt(max(0.0, contrast @ covariance @ contrast)))
    if deviation < _LEAST_DEVIATION:
        same = abs(value) < _LEAST_DEVIATION
        return (Estimate(0.0, 0.0, 0.0), 1.0) if same else (Estimate(value), None)
    half = float(scipy.stats.norm.isf(_TAIL)) * deviation
    p_value = 2 * float(scipy.stats.norm.sf(abs(value) / deviation))
    return Estimate(value, value - half, value + half), p_value
