"""AUC and its interval, against sklearn, brute force and simulation."""

import numpy as np
import pytest
import scipy.stats
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


def test_delong_agrees_with_published_figures():
    # The CT ratings of Hanley and McNeil (1982), table I; the area and DeLong's
    # standard error as the Stata manual prints them (roctab).
    ratings = np.arange(1.0, 6)
    normal = np.repeat(ratings, [33, 6, 6, 11, 2])
    abnormal = np.repeat(ratings, [3, 2, 2, 11, 33])
    labels = np.repeat([0, 1], [58, 51])
    area = metrics.roc_auc(np.concatenate([normal, abnormal]), labels)
    assert area == pytest.approx(0.8932, abs=5e-5)
    error = np.sqrt(metrics.delong_variance(abnormal, normal))
    assert error == pytest.approx(0.0307, abs=5e-5)
    assert area - 1.959964 * error == pytest.approx(0.83295, abs=5e-5)


PAIRED = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2)


@given(PAIRED, PAIRED)
def test_paired_test_is_that_of_the_covariance_matrix(positives, negatives):
    # DeLong et al. (1988), equations 5 to 8: L S L', from all pairs.
    positives, negatives = np.array(positives, float), np.array(negatives, float)
    wins = np.array(
        [
            [_wins(p, negatives[:, model]) for p in positives[:, model]]
            for model in (0, 1)
        ]
    )
    s10, s01 = np.cov(wins.mean(2)), np.cov(wins.mean(1))
    contrast = np.array([1, -1])
    variance = contrast @ (s10 / len(positives) + s01 / len(negatives)) @ contrast
    areas = wins.mean((1, 2))
    scores = np.concatenate([positives, negatives])
    labels = np.repeat([1, 0], [len(positives), len(negatives)])
    got = metrics.compare_aucs(scores[:, 0], scores[:, 1], labels)
    assert got.value == pytest.approx(areas[0] - areas[1], abs=1e-12)
    if variance > 1e-12:
        z = (areas[0] - areas[1]) / np.sqrt(variance)
        assert got.p_value == pytest.approx(2 * scipy.stats.norm.sf(abs(z)))
        half = (got.high - got.low) / 2
        assert half == pytest.approx(1.959964 * np.sqrt(variance), rel=1e-6)


def test_two_equal_models_do_not_differ():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 50)
    noise = rng.normal(size=50)
    scores = labels + noise
    same = metrics.compare_aucs(scores, np.exp(scores), labels)
    assert same == metrics.AucDifference(0.0, 0.0, 0.0, 1.0)
    # Of a null hypothesis that is true, 1 in 20 tests is below 0.05.
    rejected = 0
    for _ in range(400):
        labels = np.repeat([0, 1], 40)
        first, second = labels + rng.normal(size=(2, 80))
        rejected += metrics.compare_aucs(first, second, labels).p_value < 0.05
    assert 0.025 <= rejected / 400 <= 0.08


def test_of_one_class_there_is_no_difference():
    scores, labels = np.array([0.1, 0.9]), np.array([1, 1])
    assert metrics.compare_aucs(scores, scores, labels) == metrics.AucDifference(None)
