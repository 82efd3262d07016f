"""Calibration, against sklearn and scores whose line is known."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import sklearn.calibration
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.special import expit

from mammo_jax.evaluation import calibration
from mammo_jax.training.step import balanced_weights


def _alone(scores):
    return [str(number) for number in range(len(scores))]


def _problem(count: int, factor: float, shift: float = 0.0):
    """Scores whose log-odds were multiplied and shifted."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, count)
    labels = (rng.random(count) < expit(logits)).astype(int)
    return expit(logits * factor + shift), labels


def test_scores_and_losses_are_sklearns():
    scores, labels = _problem(200, 1.7)
    got = calibration.calibration(scores, labels, _alone(scores))
    brier = sklearn.metrics.brier_score_loss(labels, scores)
    assert got["brier"] == pytest.approx(brier)
    assert got["log_loss"] == pytest.approx(sklearn.metrics.log_loss(labels, scores))


def test_reliability_is_sklearns_with_bins_of_equal_counts():
    scores, labels = _problem(200, 1.7)
    got = calibration.reliability(scores, labels, _alone(scores))
    share, mean = sklearn.calibration.calibration_curve(
        labels, scores, n_bins=10, strategy="quantile"
    )
    assert [entry["mean_score"] for entry in got] == pytest.approx(mean)
    assert [entry["malignant_share"][0] for entry in got] == pytest.approx(share)
    assert [entry["images"] for entry in got] == [20] * 10


@given(arrays.arrays(float, st.integers(1, 60), elements=st.floats(0, 1)))
def test_every_image_is_in_one_bin(scores):
    labels = (np.arange(len(scores)) % 2).astype(int)
    got = calibration.calibration(scores, labels, _alone(scores))
    assert sum(entry["images"] for entry in got["bins"]) == len(scores)
    means = [entry["mean_score"] for entry in got["bins"]]
    assert means == sorted(means)
    assert 0 <= got["expected_error"] <= 1
    assert np.isfinite(got["log_loss"])


@pytest.mark.parametrize(("factor", "shift"), [(0.3, 0.0), (1.0, 1.5), (4.0, -2.0)])
def test_the_line_that_was_put_in_is_taken_back(factor, shift):
    scores, labels = _problem(20_000, factor, shift)
    line = calibration.fit_line(scores, labels)
    assert line.slope == pytest.approx(1 / factor, rel=0.05)
    assert line.intercept == pytest.approx(-shift / factor, abs=0.05)
    mended = calibration.apply_line(scores, line)
    error = calibration.calibration(mended, labels, _alone(scores))["expected_error"]
    assert error < 0.01
    assert (np.diff(mended[np.argsort(scores)]) >= 0).all()


def test_the_line_has_the_least_log_loss():
    scores, labels = _problem(300, 2.5, 1.0)
    logits = np.log(scores / (1 - scores))

    def log_loss(line):
        signs = np.where(labels == 1, -1, 1)
        return np.logaddexp(0, signs * (line[0] * logits + line[1])).mean()

    found = scipy.optimize.minimize(log_loss, (1.0, 0.0), method="BFGS")
    assert calibration.fit_line(scores, labels) == pytest.approx(found.x, abs=1e-3)


@pytest.mark.parametrize(("batch", "read_as"), [(2, 0.09), (4, 0.16), (32, 0.45)])
def test_balanced_batches_shift_the_share_as_the_page_says(batch, read_as):
    # Scores that cannot tell images apart have the least loss at the weights' share.
    labels = (np.random.default_rng(0).random((2000, batch)) < 0.05).astype(int)
    weights = np.asarray(
        jax.vmap(lambda row: balanced_weights(row, 2))(jnp.asarray(labels))
    )
    share = weights[labels == 1].sum() / weights.sum()
    a, b = 1 - 0.95**batch, 1 - 0.05**batch
    assert share == pytest.approx(a / (a + b), abs=0.01)
    assert round(a / (a + b), 2) == read_as
    page = Path(__file__).parents[2] / "docs" / "evaluating.md"
    assert f"{read_as:.2f}" in page.read_text()


@pytest.mark.parametrize(
    "labels", [[1, 1, 1, 1], [0, 0, 1, 1], [1, 1, 0, 0]], ids=["one", "all", "inverse"]
)
def test_there_may_be_no_line(labels):
    # One class; classes that the scores separate; scores that are the wrong way round.
    scores = np.array([0.1, 0.3, 0.7, 1.0])
    assert calibration.fit_line(scores, np.array(labels)) is None
    assert calibration.fit_line(np.full(4, 0.5), np.array([0, 1, 0, 1])) is None
