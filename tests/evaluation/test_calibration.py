"""Calibration, against sklearn and scores whose temperature is known."""

import numpy as np
import pytest
import sklearn.calibration
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from mammo_jax.evaluation import calibration


def _problem(count: int, temperature: float):
    """Scores whose logits were multiplied by `temperature`."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, count)
    labels = (rng.random(count) < expit(logits)).astype(int)
    return expit(logits * temperature), labels


def test_scores_and_losses_are_sklearns():
    scores, labels = _problem(200, 1.7)
    got = calibration.calibration(scores, labels)
    brier = sklearn.metrics.brier_score_loss(labels, scores)
    assert got["brier"] == pytest.approx(brier)
    assert got["log_loss"] == pytest.approx(sklearn.metrics.log_loss(labels, scores))


def test_reliability_is_sklearns_with_bins_of_equal_counts():
    scores, labels = _problem(200, 1.7)
    got = calibration.reliability(scores, labels)
    share, mean = sklearn.calibration.calibration_curve(
        labels, scores, n_bins=10, strategy="quantile"
    )
    assert [entry["mean_score"] for entry in got] == pytest.approx(mean)
    assert [entry["malignant_share"][0] for entry in got] == pytest.approx(share)
    assert [entry["images"] for entry in got] == [20] * 10


@given(arrays.arrays(float, st.integers(1, 60), elements=st.floats(0, 1)))
def test_every_image_is_in_one_bin(scores):
    labels = (np.arange(len(scores)) % 2).astype(int)
    got = calibration.calibration(scores, labels)
    assert sum(entry["images"] for entry in got["bins"]) == len(scores)
    means = [entry["mean_score"] for entry in got["bins"]]
    assert means == sorted(means)
    assert 0 <= got["expected_error"] <= 1
    assert np.isfinite(got["log_loss"])


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_the_temperature_that_was_put_in_comes_out(temperature):
    scores, labels = _problem(20_000, temperature)
    assert calibration.fit_temperature(scores, labels) == pytest.approx(
        temperature, rel=0.05
    )


def test_the_temperature_is_that_of_a_logistic_regression():
    scores, labels = _problem(300, 2.5)
    logits = np.log(scores / (1 - scores))[:, None]
    regression = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10)
    slope = regression.fit(logits, labels).coef_[0, 0]
    found = calibration.fit_temperature(scores, labels)
    assert found == pytest.approx(1 / slope, rel=1e-3)


@given(st.floats(0.5, 10))
def test_scaling_keeps_the_order_and_can_be_undone(temperature):
    scores = np.linspace(0.01, 0.99, 30)
    scaled = calibration.apply_temperature(scores, temperature)
    assert (np.diff(scaled) > 0).all()
    back = calibration.apply_temperature(scaled, 1 / temperature)
    np.testing.assert_allclose(back, scores, atol=1e-6)


@pytest.mark.parametrize(
    "labels", [[1, 1, 1, 1], [0, 0, 1, 1], [1, 1, 0, 0]], ids=["one", "all", "inverse"]
)
def test_there_may_be_no_temperature(labels):
    # One class; classes that the scores separate; scores that are the wrong way round.
    scores = np.array([0.1, 0.3, 0.7, 1.0])
    assert calibration.fit_temperature(scores, np.array(labels)) is None
