"""Calibration: do scores mean what they say, and a straight line that mends them."""

from typing import Any, NamedTuple

import numpy as np
from etils import epy

from mammo_jax.evaluation.metrics import Labels, Patients, Scores
from mammo_jax.evaluation.operating_points import share

with epy.lazy_imports():  # They take seconds, and training begins without them.
    import scipy.special
    import sklearn.linear_model
    import sklearn.metrics

_BINS = 10
# Fewer images than this in a bin say nothing; there are then fewer bins.
_LEAST_IN_BIN = 10
# Scores of exactly 0 and 1 have no logit; float32 softmax rounds to them.
_CLIP = float(np.finfo(np.float32).eps)
# Scores that separate the classes have a line as steep as the optimiser goes.
_STEEPEST = 50.0


class Line(NamedTuple):
    """A straight line through the scores' log-odds (Platt, 1999).

    Attributes:
      slope: factor of a score's log-odds; below 1 the scores were too sure.
      intercept: addition in nats of log-odds; it mends a shifted prior.
    """

    slope: float
    intercept: float


def calibration(scores: Scores, labels: Labels, patients: Patients) -> dict[str, Any]:
    """Computes how far scores are from the truth.

    `brier` is the mean squared error, `log_loss` is in nats, `bins` are those of
    `reliability`, and `expected_error` is the mean distance between score and share of
    malignant images over them, weighted with their counts.
    """
    bins = reliability(scores, labels, patients)
    distances = [
        entry["images"] * abs(entry["mean_score"] - entry["malignant_share"][0])
        for entry in bins
    ]
    clipped = np.clip(scores, _CLIP, 1 - _CLIP)
    return {
        "brier": float(np.mean((scores - labels) ** 2)),
        "log_loss": float(sklearn.metrics.log_loss(labels, clipped, labels=[0, 1])),
        "expected_error": sum(distances) / len(scores),
        "bins": bins,
    }


def reliability(
    scores: Scores, labels: Labels, patients: Patients
) -> list[dict[str, Any]]:
    """Compares score and share of malignant images in bins of about equal counts.

    There are at most ten, with ten images or more in each where there are as many;
    equal scores are never cut apart.

    Returns:
      For each bin, in ascending order: `images`, `mean_score`, and `malignant_share`
      as [value, low, high].
    """
    names = np.asarray(patients)
    count = int(np.clip(len(scores) // _LEAST_IN_BIN, 1, _BINS))
    edges = np.quantile(scores, np.linspace(0, 1, count + 1)[1:-1])
    bin_of = np.searchsorted(edges, scores, side="right")
    return [
        {
            "images": int(inside.sum()),
            "mean_score": float(scores[inside].mean()),
            "malignant_share": share(labels[inside] == 1, names[inside]),
        }
        for inside in (bin_of == number for number in np.unique(bin_of))
    ]


def fit_line(scores: Scores, labels: Labels) -> Line | None:
    """Fits the line whose scores have the least log loss.

    To be fitted on validation images, not on those that are then evaluated.

    Returns:
      None where there is no such line: one class only, scores that separate the
      classes, or that are alike or the wrong way round.
    """
    if len(np.unique(labels)) < 2:
        return None
    regression = sklearn.linear_model.LogisticRegression(
        C=np.inf, tol=1e-8, max_iter=1000
    )
    separated = min(scores[labels == 1]) > max(scores[labels == 0])
    if separated or np.ptp(scores) == 0:
        return None
    regression.fit(_logits(scores)[:, None], labels)
    slope = float(regression.coef_[0, 0])
    if not 0 < slope < _STEEPEST:
        return None
    return Line(slope, float(regression.intercept_[0]))


def apply_line(scores: Scores, line: Line) -> Scores:
    """Returns the scores, 0..1, with their log-odds on the line."""
    odds = _logits(scores) * line.slope + line.intercept
    return np.asarray(scipy.special.expit(odds))


def _logits(scores: Scores) -> Scores:
    clipped = np.clip(scores.astype(np.float64), _CLIP, 1 - _CLIP)
    return np.asarray(scipy.special.logit(clipped))
