"""AUC and its interval, against sklearn, brute force and simulation."""

from fractions import Fraction

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


# How often each of five grades was given to normal and to abnormal images, as in the
# CT ratings of Hanley and McNeil (1982). The expected figures below are computed from
# these counts in other ways; none is quoted.
NORMAL, ABNORMAL = (33, 6, 6, 11, 2), (3, 2, 2, 11, 33)


def _graded(counts: tuple[int, ...]) -> np.ndarray:
    return np.repeat(np.arange(1.0, 6), counts)


def _exact_area_and_variance() -> tuple[Fraction, Fraction]:
    """From the counts, in fractions: no scores, no ranks, no pairs of images.

    With A the area and Q the mean over one class of the squared share of the other
    that an image outranks, DeLong's component of that class of m images is
    (Q - A^2) / (m - 1).
    """
    m, n = sum(ABNORMAL), sum(NORMAL)

    def outranked(grade: int, counts: tuple[int, ...]) -> Fraction:
        ties = Fraction(counts[grade], 2)
        return (sum(counts[:grade]) + ties) / sum(counts)

    above = [outranked(grade, NORMAL) for grade in range(5)]
    below = [1 - outranked(grade, ABNORMAL) for grade in range(5)]
    area = sum(k * share for k, share in zip(ABNORMAL, above, strict=True)) / m
    variance = Fraction(0)
    for counts, shares, size in ((ABNORMAL, above, m), (NORMAL, below, n)):
        squares = sum(k * q**2 for k, q in zip(counts, shares, strict=True)) / size
        variance += (squares - area**2) / (size - 1)
    return area, variance


def test_delong_agrees_with_exact_arithmetic_on_graded_images():
    normal, abnormal = _graded(NORMAL), _graded(ABNORMAL)
    area, variance = _exact_area_and_variance()
    labels = np.repeat([0, 1], [len(normal), len(abnormal)])
    got = metrics.roc_auc(np.concatenate([normal, abnormal]), labels)
    assert got == pytest.approx(float(area), rel=1e-12)
    rank_sum = scipy.stats.mannwhitneyu(abnormal, normal).statistic
    assert got == pytest.approx(rank_sum / (len(normal) * len(abnormal)), rel=1e-12)
    found = metrics.delong_variance(abnormal, normal)
    assert found == pytest.approx(float(variance), rel=1e-12)


def test_delongs_standard_error_is_near_the_bootstraps():
    normal, abnormal = _graded(NORMAL), _graded(ABNORMAL)

    def area(abnormal, normal, axis):
        wins = scipy.stats.mannwhitneyu(abnormal, normal, axis=axis).statistic
        return wins / (abnormal.shape[axis] * normal.shape[axis])

    drawn = scipy.stats.bootstrap(
        (abnormal, normal),
        area,
        n_resamples=2000,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    found = np.sqrt(metrics.delong_variance(abnormal, normal))
    assert found == pytest.approx(drawn.standard_error, rel=0.06)


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
