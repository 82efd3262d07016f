"""Do scores mean what they say: Brier score, reliability, temperature scaling."""

from typing import Any

import numpy as np
import scipy.optimize
import scipy.special
import sklearn.metrics
from jaxtyping import Float, Int

from mammo_jax.evaluation.operating_points import share

_BINS = 10
# Fewer images than this in a bin say nothing; there are then fewer bins.
_LEAST_IN_BIN = 10
# Scores of exactly 0 and 1 have no logit; float32 softmax rounds to them.
_CLIP = float(np.finfo(np.float32).eps)
_LOG_TEMPERATURES = (-4.0, 4.0)

Scores = Float[np.ndarray, " images"]
Labels = Int[np.ndarray, " images"]


def calibration(scores: Scores, labels: Labels) -> dict[str, Any]:
    """`brier` (mean squared error), `log_loss` (nats), `expected_error`, `bins`.

    The bins are those of `reliability`; `expected_error` is the mean distance between
    score and share of malignant images over them, weighted with their counts.
    """
    bins = reliability(scores, labels)
    distances = [
        entry["images"] * abs(entry["mean_score"] - entry["malignant_share"][0])
        for entry in bins
    ]
    return {
        "brier": float(np.mean((scores - labels) ** 2)),
        "log_loss": float(
            sklearn.metrics.log_loss(
                labels, np.clip(scores, _CLIP, 1 - _CLIP), labels=[0, 1]
            )
        ),
        "expected_error": sum(distances) / len(scores),
        "bins": bins,
    }


def reliability(scores: Scores, labels: Labels) -> list[dict[str, Any]]:
    """Mean score and share of malignant images in bins of about equal counts.

    There are at most ten, with ten images or more in each where there are as many;
    equal scores are never cut apart.

    Returns:
      For each bin, in ascending order: `images`, `mean_score`, and `malignant_share`
      as (value, low, high) with Wilson's 95 % interval.
    """
    count = int(np.clip(len(scores) // _LEAST_IN_BIN, 1, _BINS))
    edges = np.quantile(scores, np.linspace(0, 1, count + 1)[1:-1])
    bin_of = np.searchsorted(edges, scores, side="right")
    result = []
    for number in np.unique(bin_of):
        inside = bin_of == number
        result.append(
            {
                "images": int(inside.sum()),
                "mean_score": float(scores[inside].mean()),
                "malignant_share": share(int(labels[inside].sum()), int(inside.sum())),
            }
        )
    return result


def fit_temperature(scores: Scores, labels: Labels) -> float | None:
    """The temperature that the scores' logits are divided by for the least log loss.

    Guo et al., On Calibration of Modern Neural Networks (2017). To be fitted on
    validation images, not on those that are then evaluated.

    Returns:
      Above 1 where the scores are too sure. None where there is no such temperature:
      one class only, scores that separate the classes, or that say nothing.
    """
    if len(np.unique(labels)) < 2:
        return None
    logits = _logits(scores)
    signs = np.where(labels == 1, -1.0, 1.0)

    def log_loss(log_temperature: float) -> float:
        return float(np.logaddexp(0, signs * logits / np.exp(log_temperature)).mean())

    found = scipy.optimize.minimize_scalar(
        log_loss, bounds=_LOG_TEMPERATURES, method="bounded", options={"xatol": 1e-6}
    )
    if min(abs(found.x - end) for end in _LOG_TEMPERATURES) < 1e-2:
        return None
    return float(np.exp(found.x))


def apply_temperature(scores: Scores, temperature: float) -> Scores:
    """Scores, 0..1, after their logits were divided by the temperature."""
    return scipy.special.expit(_logits(scores) / temperature)


def _logits(scores: Scores) -> Scores:
    return scipy.special.logit(np.clip(scores.astype(np.float64), _CLIP, 1 - _CLIP))
