"""Measures how often the intervals of an evaluation hold the truth, by simulation.

  python -m benchmarks.interval_coverage

Scores are normal, of two views of each patient, with 4 of 10 patients malignant;
`shared` is the correlation of a patient's views. An interval of 95 % should hold the
truth in 0.95 of the draws.
"""

import numpy as np
import scipy.stats

from mammo_jax.evaluation.metrics import auc_estimate
from mammo_jax.evaluation.operating_points import share

_DRAWS = 1000


def main() -> None:
    """Prints the table."""
    print("| truth | patients | shared | AUC held | mean width | sensitivity held |")
    print("| --- | --- | --- | ---: | ---: | ---: |")
    for truth in (0.8, 0.9, 0.98):
        for patients in (40, 80, 200):
            for shared in (0.0, 0.7):
                area, width, rate = _coverage(truth, patients, shared)
                print(
                    f"| {truth} | {patients} | {shared} | {area:.3f} | {width:.3f} | "
                    f"{rate:.3f} |",
                    flush=True,
                )


def _coverage(truth: float, patients: int, shared: float) -> tuple[float, float, float]:
    """Shares of draws whose intervals hold an AUC and a sensitivity of `truth`."""
    rng = np.random.default_rng(0)
    labels = (np.arange(patients) < 0.4 * patients).repeat(2).astype(int)
    names = np.arange(patients).repeat(2).astype(str)
    shift = np.sqrt(2) * scipy.stats.norm.ppf(truth)
    threshold = shift - scipy.stats.norm.ppf(truth)
    areas, rates, widths = [], [], []
    for _ in range(_DRAWS):
        common = rng.normal(size=patients).repeat(2)
        own = rng.normal(size=2 * patients)
        scores = np.sqrt(shared) * common + np.sqrt(1 - shared) * own + shift * labels
        _, low, high = auc_estimate(scores, labels, names)
        areas.append(low <= truth <= high)
        widths.append(high - low)
        found = share(scores[labels == 1] >= threshold, names[labels == 1])
        rates.append(found[1] <= truth <= found[2])
    return float(np.mean(areas)), float(np.mean(widths)), float(np.mean(rates))


if __name__ == "__main__":
    main()
