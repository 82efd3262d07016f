"""Measures how often the intervals of an evaluation hold the truth, by simulation.

  python -m benchmarks.interval_coverage

Scores are normal, of so many `images` of each patient in turn, with 4 of 10 patients
malignant; `shared` is the correlation of a patient's images. An interval of 95 %
should hold the truth in 0.95 of the draws.
"""

import itertools

import numpy as np
import scipy.stats

from mammo_jax.evaluation.metrics import auc_estimate
from mammo_jax.evaluation.operating_points import share

_DRAWS = 1000
# Images of the patients in turn: two views, and uneven numbers.
_IMAGES = ((2,), (1, 1, 1, 4), (2, 20))


def main() -> None:
    """Prints the table."""
    print(
        "| truth | patients | images | shared | AUC held | width | sensitivity held |"
    )
    print("| --- | --- | --- | --- | ---: | ---: | ---: |")
    rows = itertools.product((0.8, 0.9, 0.98), (40, 80, 200), _IMAGES, (0.0, 0.7))
    for truth, patients, images, shared in rows:
        area, width, rate = _coverage(truth, patients, images, shared)
        print(
            f"| {truth} | {patients} | {', '.join(map(str, images))} | {shared} | "
            f"{area:.3f} | {width:.3f} | {rate:.3f} |",
            flush=True,
        )


def _coverage(
    truth: float, patients: int, images: tuple[int, ...], shared: float
) -> tuple[float, float, float]:
    """Shares of draws whose intervals hold an AUC and a sensitivity of `truth`."""
    rng = np.random.default_rng(0)
    sizes = np.resize(images, patients)
    # Every class has patients of every size.
    malignant = np.arange(patients) // len(images) % 5 < 2
    labels = malignant.repeat(sizes).astype(int)
    names = np.arange(patients).repeat(sizes).astype(str)
    shift = np.sqrt(2) * scipy.stats.norm.ppf(truth)
    threshold = shift - scipy.stats.norm.ppf(truth)
    areas, rates, widths = [], [], []
    for _ in range(_DRAWS):
        common = rng.normal(size=patients).repeat(sizes)
        own = rng.normal(size=sizes.sum())
        scores = np.sqrt(shared) * common + np.sqrt(1 - shared) * own + shift * labels
        _, low, high = auc_estimate(scores, labels, names)
        areas.append(low <= truth <= high)
        widths.append(high - low)
        found = share(scores[labels == 1] >= threshold, names[labels == 1])
        rates.append(found[1] <= truth <= found[2])
    return float(np.mean(areas)), float(np.mean(widths)), float(np.mean(rates))


if __name__ == "__main__":
    main()
