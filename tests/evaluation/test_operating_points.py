"""Thresholds, against every threshold tried out."""

from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mammo_jax.evaluation import operating_points

CLASS = st.lists(st.integers(0, 8), min_size=1, max_size=20)


def _all_points(scores, labels):
    """(sensitivity, specificity) at every possible threshold."""
    for threshold in [*sorted(set(scores)), np.inf]:
        called = scores >= threshold
        yield called[labels == 1].mean(), (~called)[labels == 0].mean()


def _alone(labels):
    return [str(number) for number in range(len(labels))]


def _problem(positives, negatives):
    scores = np.array(positives + negatives) / 8
    return scores, np.repeat([1, 0], [len(positives), len(negatives)])


@pytest.mark.parametrize("target", operating_points.TARGETS)
@given(positives=CLASS, negatives=CLASS)
def test_fixed_specificity_gives_the_most_sensitivity(target, positives, negatives):
    scores, labels = _problem(positives, negatives)
    threshold = operating_points.choose_threshold(scores, labels, "specificity", target)
    got = operating_points.at_threshold(scores, labels, _alone(labels), threshold)
    reached = [(s, t) for s, t in _all_points(scores, labels) if t >= target]
    found = got["sensitivity"][0], got["specificity"][0]
    assert found == pytest.approx(max(reached))


@pytest.mark.parametrize("target", operating_points.TARGETS)
@given(positives=CLASS, negatives=CLASS)
def test_fixed_sensitivity_gives_the_most_specificity(target, positives, negatives):
    scores, labels = _problem(positives, negatives)
    threshold = operating_points.choose_threshold(scores, labels, "sensitivity", target)
    got = operating_points.at_threshold(scores, labels, _alone(labels), threshold)
    reached = [(t, s) for s, t in _all_points(scores, labels) if s >= target]
    found = got["specificity"][0], got["sensitivity"][0]
    assert found == pytest.approx(max(reached))


@given(positives=CLASS, negatives=CLASS)
def test_youden_is_the_largest_gain(positives, negatives):
    scores, labels = _problem(positives, negatives)
    threshold = operating_points.choose_threshold(scores, labels, "Youden")
    got = operating_points.at_threshold(scores, labels, _alone(labels), threshold)
    best = max(s + t - 1 for s, t in _all_points(scores, labels))
    assert got["sensitivity"][0] + got["specificity"][0] - 1 == pytest.approx(best)


@given(positives=CLASS, negatives=CLASS, threshold=st.floats(0, 1))
def test_counts_add_up(positives, negatives, threshold):
    scores, labels = _problem(positives, negatives)
    got = operating_points.at_threshold(scores, labels, _alone(labels), threshold)
    assert got["true_positive"] + got["false_negative"] == len(positives)
    assert got["true_negative"] + got["false_positive"] == len(negatives)
    assert got["true_positive"] + got["false_positive"] == (scores >= threshold).sum()


def test_a_share_has_wilsons_interval():
    # Wilson (1927), written out.
    count, total, z = 8, 10, NormalDist().inv_cdf(0.975)
    share = count / total
    centre = (share + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z / (1 + z**2 / total)
    half *= np.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    hits = np.array([True] * 8 + [False] * 2)
    expected = [0.8, centre - half, centre + half]
    assert operating_points.share(hits, _alone(hits)) == pytest.approx(expected)
    # Two equal views of each patient say no more than one.
    twice = operating_points.share(hits.repeat(2), np.repeat(_alone(hits), 2))
    assert twice == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("truth", [0.7, 0.95])
def test_the_interval_of_a_share_covers_it_although_views_are_alike(truth):
    rng, covered = np.random.default_rng(0), 0
    for _ in range(400):
        first = rng.random(50) < truth
        second = np.where(rng.random(50) < 0.7, first, rng.random(50) < truth)
        hits = np.stack([first, second], axis=1).ravel()
        _, low, high = operating_points.share(hits, np.repeat(_alone(first), 2))
        covered += low <= truth <= high
    assert 0.92 <= covered / 400 <= 0.985


def test_nothing_has_no_share():
    assert operating_points.share(np.zeros(0, bool), []) is None


def test_a_threshold_above_every_score_calls_nothing_malignant():
    scores, labels = np.array([0.2, 0.9]), np.array([1, 0])
    threshold = operating_points.choose_threshold(scores, labels, "specificity", 0.95)
    got = operating_points.at_threshold(scores, labels, _alone(labels), threshold)
    assert got["threshold"] is None
    assert got["true_positive"] == got["false_positive"] == 0
    assert got["positive_predictive_value"] is None
