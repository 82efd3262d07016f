"""AUC and its interval, against sklearn, brute force and simulation."""

from fractions import Fraction

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from mammo_jax.evaluation import metrics


def alone(count):
    """As many patients, of one image each."""
    return np.array([str(number) for number in range(count)])


def variance_of(positives, negatives):
    scores = np.concatenate([positives, negatives])
    labels = np.repeat([1, 0], [len(positives), len(negatives)])
    found = metrics.auc_covariance([scores], labels, alone(len(scores)))
    return found[0, 0]


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
    got = variance_of(np.array(positives, float), np.array(negatives, float))
    assert got == pytest.approx(expected, abs=1e-12)


def draw_patients(rng, auc, patients, shared):
    """Two views of each patient, 4 of 10 malignant; `shared` is their correlation."""
    labels = (np.arange(patients) < 0.4 * patients).repeat(2).astype(int)
    noise = rng.normal(size=(2, 2 * patients))
    noise[0, 1::2] = noise[0, ::2]
    shift = np.sqrt(2) * scipy.stats.norm.ppf(auc)
    scores = np.sqrt(shared) * noise[0] + np.sqrt(1 - shared) * noise[1]
    return scores + shift * labels, labels, alone(patients).repeat(2)


@pytest.mark.parametrize("truth", [0.8, 0.98])
def test_the_interval_covers_the_truth_although_views_are_alike(truth):
    rng, hits = np.random.default_rng(0), 0
    for _ in range(300):
        auc = metrics.auc_estimate(*draw_patients(rng, truth, 60, 0.7))
        hits += auc.low <= truth <= auc.high
    # The percentile bootstrap over patients covers 0.83 of the time at 0.98.
    assert 0.92 <= hits / 300 <= 0.995


def test_the_interval_of_average_precision_covers_what_many_patients_have():
    rng, hits = np.random.default_rng(0), 0
    truth = metrics.average_precision_estimate(*draw_patients(rng, 0.85, 20_000, 0.5))
    for _ in range(200):
        found = metrics.average_precision_estimate(*draw_patients(rng, 0.85, 60, 0.5))
        hits += found.low <= truth.value <= found.high
    assert hits / 200 >= 0.92


def test_two_copies_of_every_image_are_no_more_patients():
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=40), np.repeat([0, 1], 20)
    once = metrics.auc_covariance([scores], labels, alone(40))
    copies = scores.repeat(2), labels.repeat(2)
    twice = metrics.auc_covariance([copies[0]], copies[1], np.repeat(alone(40), 2))
    np.testing.assert_allclose(twice, once, rtol=1e-12)


def test_the_variance_is_that_of_drawing_patients_again():
    rng = np.random.default_rng(3)
    scores, labels, patients = draw_patients(rng, 0.85, 80, 0.6)
    labels[1::8] ^= 1  # Some patients have images of both classes.
    rows_of = [np.flatnonzero(np.array(patients) == p) for p in sorted({*patients})]
    drawn = []
    for _ in range(400):
        rows = np.concatenate([rows_of[i] for i in rng.integers(0, 80, 80)])
        drawn.append(metrics.roc_auc(scores[rows], labels[rows]))
    found = metrics.auc_covariance([scores], labels, patients)[0, 0]
    assert np.sqrt(found) == pytest.approx(np.std(drawn), rel=0.12)


def test_one_class_alone_has_no_auc():
    assert metrics.auc_estimate(np.array([0.1, 0.9]), np.array([1, 1]), list("pq")) == (
        metrics.Estimate(None)
    )


def test_a_single_patient_of_a_class_has_no_interval():
    scores, labels = np.array([0.1, 0.9, 0.9, 0.3]), np.array([0, 1, 1, 0])
    auc = metrics.auc_estimate(scores, labels, list("pqqr"))
    assert auc == metrics.Estimate(1.0)


def test_a_perfect_separation_is_not_certain():
    scores, labels = np.arange(40) / 40, np.repeat([0, 1], 20)
    auc = metrics.auc_estimate(scores, labels, alone(40))
    assert (auc.value, auc.high) == (1.0, 1.0)
    assert 0.75 < auc.low < 0.95
    mirrored = metrics.auc_estimate(-scores, labels, alone(40))
    assert (mirrored.value, mirrored.low) == (0.0, 0.0)
    assert mirrored.high == pytest.approx(1 - auc.low)
    # Two equal views of each patient make it no surer.
    twice = metrics.auc_estimate(
        scores.repeat(2), labels.repeat(2), alone(40).repeat(2)
    )
    assert twice == pytest.approx(auc)


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
    found = variance_of(abnormal, normal)
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
    found = np.sqrt(variance_of(abnormal, normal))
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
    got, p_value = metrics.compare_aucs(*scores.T, labels, alone(len(scores)))
    assert got.value == pytest.approx(areas[0] - areas[1], abs=1e-12)
    if variance > 1e-12 and p_value is not None:
        z = (areas[0] - areas[1]) / np.sqrt(variance)
        assert p_value == pytest.approx(2 * scipy.stats.norm.sf(abs(z)))
        half = (got.high - got.low) / 2
        assert half == pytest.approx(1.959964 * np.sqrt(variance), rel=1e-6)


def test_two_equal_models_do_not_differ():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 50)
    noise = rng.normal(size=50)
    scores = labels + noise
    same = metrics.compare_aucs(scores, np.exp(scores), labels, alone(50))
    assert same == (metrics.Estimate(0.0, 0.0, 0.0), 1.0)
    # Of a null hypothesis that is true, 1 in 20 tests is below 0.05.
    rejected = 0
    for _ in range(400):
        labels = np.repeat([0, 1], 40)
        first, second = labels + rng.normal(size=(2, 80))
        rejected += metrics.compare_aucs(first, second, labels, alone(80))[1] < 0.05
    assert 0.025 <= rejected / 400 <= 0.08


def test_of_one_class_there_is_no_difference():
    scores, labels = np.array([0.1, 0.9]), np.array([1, 1])
    found = metrics.compare_aucs(scores, scores, labels, list("pq"))
    assert found == (metrics.Estimate(None), None)


@pytest.mark.parametrize(
    ("sizes", "effective"), [([2, 2, 2], 3.0), ([1, 1, 1, 4], 49 / 19), ([5], 1.0)]
)
def test_a_patient_of_many_images_makes_the_others_count_less(sizes, effective):
    names = np.arange(len(sizes)).repeat(sizes).astype(str)
    assert metrics.effective_patients(names) == pytest.approx(effective)


def test_the_interval_covers_the_truth_although_patients_have_uneven_numbers():
    rng = np.random.default_rng(0)
    sizes = np.resize([2, 20], 100)
    labels = (np.arange(100) // 2 % 5 < 2).repeat(sizes).astype(int)
    names = np.arange(100).repeat(sizes).astype(str)
    shift = np.sqrt(2) * scipy.stats.norm.ppf(0.9)
    held = 0
    for _ in range(200):
        common = rng.normal(size=100).repeat(sizes)
        own = rng.normal(size=len(labels))
        scores = np.sqrt(0.7) * common + np.sqrt(0.3) * own + shift * labels
        _, low, high = metrics.auc_estimate(scores, labels, names)
        held += low <= 0.9 <= high
    assert held / 200 >= 0.9
