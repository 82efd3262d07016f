"""AUC and its interval, against sklearn, brute force and simulation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mammo_jax.evaluation import metrics

SCORES = st.lists(st.integers(0, 5), min_size=2, max_size=25)


def _wins(positive: float, negatives: np.ndarray) -> np.ndarray:
    return (positive > negatives) + 0.5 * (positive == negatives)


@given(SCORES, SCORES)
def test_auc_is_the_share_of_ordered_pairs(positives, negatives):
    scores = np.array(positives + negatives, float)
    labels = np.array([1] * len(positives) + [0] * len(negatives))
    pairs = [_wins(p, np.array(negatives)) for p in positives]
    assert metrics.roc_auc(scores, labels) == pytest.approx(np.mean(pairs))


@given(SCORES, SCORES)
def test_delong_variance_is_that_of_the_structural_components(positives, negatives):
    # DeLong et al. (1988), equations 4 to 6, written out pair by pair.
    pairs = np.array([_wins(p, np.array(negatives, float)) for p in positives])
    expected = pairs.mean(1).var(ddof=1) / len(positives)
    expected += pairs.mean(0).var(ddof=1) / len(negatives)
    got = metrics.delong_variance(
        np.array(positives, float), np.array(negatives, float)
    )
    assert got == pytest.approx(expected, abs=1e-12)


def test_interval_covers_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(0)
    labels = np.repeat([1, 0], 40)
    truth = 0.8413447  # Two unit normals, sqrt(2) apart: Phi(1).
    hits = 0
    for _ in range(400):
        scores = rng.normal(labels * np.sqrt(2))
        auc = metrics.roc_auc_with_interval(scores, labels)
        hits += auc.low <= truth <= auc.high
    assert 0.92 <= hits / 400 <= 0.98


def test_one_class_alone_has_no_auc():
    auc = metrics.roc_auc_with_interval(np.array([0.1, 0.9]), np.array([1, 1]))
    assert auc == metrics.Auc(None, None, None)


def test_a_single_example_of_a_class_has_no_interval():
    auc = metrics.roc_auc_with_interval(np.array([0.1, 0.9, 0.3]), np.array([0, 1, 0]))
    assert auc == metrics.Auc(1.0, None, None)


def test_a_perfect_separation_is_not_certain():
    scores, labels = np.arange(40) / 40, np.repeat([0, 1], 20)
    auc = metrics.roc_auc_with_interval(scores, labels)
    # Clopper-Pearson for 20 of 20.
    assert (auc.value, auc.high) == (1.0, 1.0)
    assert auc.low == pytest.approx(0.8316, abs=1e-4)
    mirrored = metrics.roc_auc_with_interval(-scores, labels)
    assert (mirrored.value, mirrored.low) == (0.0, 0.0)
    assert mirrored.high == pytest.approx(1 - auc.low)
