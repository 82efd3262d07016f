"""The bootstrap over patients, against sklearn's weights and scipy's bootstrap."""

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st

from mammo_jax.evaluation import bootstrap

IMAGES = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 1), st.integers(0, 3)),
    min_size=1,
    max_size=30,
)
REFERENCES = {
    bootstrap.weighted_auc: sklearn.metrics.roc_auc_score,
    bootstrap.weighted_average_precision: sklearn.metrics.average_precision_score,
}


@pytest.mark.parametrize("statistic", REFERENCES)
@given(images=IMAGES)
def test_weighted_figures_are_sklearns(statistic, images):
    scores, labels, weights = np.array(images).T
    got = statistic(scores.astype(float), labels)(weights[None].astype(float))
    if len(set(labels[weights > 0])) < 2:
        assert np.isnan(got).all()
        return
    expected = REFERENCES[statistic](labels, scores, sample_weight=weights)
    assert got == pytest.approx([expected])


def test_with_one_image_a_patient_it_is_the_ordinary_bootstrap():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 60)
    scores = labels + rng.normal(size=120)
    got = bootstrap.patient_interval(
        [str(row) for row in range(120)], bootstrap.weighted_auc(scores, labels)
    )
    ordinary = scipy.stats.bootstrap(
        (scores, labels),
        lambda s, t: sklearn.metrics.roc_auc_score(t, s),
        paired=True,
        vectorized=False,
        n_resamples=2000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert got.low == pytest.approx(ordinary.low, abs=0.012)
    assert got.high == pytest.approx(ordinary.high, abs=0.012)
    assert got.undefined == 0


def test_views_of_one_patient_do_not_count_as_more_patients():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 40)
    scores = labels + rng.normal(size=80)
    patients = [str(row) for row in range(80)]
    once = bootstrap.patient_interval(patients, bootstrap.weighted_auc(scores, labels))
    four = bootstrap.patient_interval(
        patients * 4,
        bootstrap.weighted_auc(np.tile(scores, 4), np.tile(labels, 4)),
    )
    assert (four.low, four.high) == pytest.approx((once.low, once.high))


def test_intervals_are_the_same_every_time_and_in_chunks(monkeypatch):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 50)
    statistic = bootstrap.weighted_auc(rng.random(50), labels)
    patients = [str(row // 2) for row in range(50)]
    first = bootstrap.patient_interval(patients, statistic)
    assert bootstrap.patient_interval(patients, statistic) == first
    monkeypatch.setattr(bootstrap, "_CHUNK_ELEMENTS", 50 * 7)
    assert bootstrap.patient_interval(patients, statistic) == first


def test_replicates_of_one_class_are_counted_and_left_out():
    scores, labels = np.array([0.1, 0.4, 0.3, 0.8]), np.array([0, 0, 1, 1])
    got = bootstrap.patient_interval(
        ["a", "b", "c", "c"], bootstrap.weighted_auc(scores, labels)
    )
    # No patient c, or neither a nor b: (2/3)^3 + (1/3)^3.
    assert got.undefined == pytest.approx(9 / 27, abs=0.04)
    assert 0 <= got.low <= got.high <= 1


@pytest.mark.parametrize("labels", [[0, 0, 0, 0], [0, 0, 1, 1]])
def test_where_replicates_say_nothing_there_is_no_interval(labels):
    # One class; a perfect separation.
    statistic = bootstrap.weighted_auc(np.array([0.1, 0.2, 0.3, 0.4]), np.array(labels))
    got = bootstrap.patient_interval(["a", "b", "c", "d"], statistic)
    assert (got.low, got.high) == (None, None)
