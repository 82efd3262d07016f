"""Rows of a prediction table, and the losses over a split."""

import numpy as np
import pytest
from sklearn.metrics import log_loss
from sklearn.utils.class_weight import compute_sample_weight

from mammo_jax.training.scoring import (
    as_predictions,
    balanced_loss,
    collect,
    cross_entropies,
    told_apart,
)


def test_ids_that_are_alike_are_numbered_and_others_left_alone():
    # Patches of two lesions may lie in one place.
    ids = ["P_1_7_7", "P_1_7_8", "P_1_7_7", "P_1_7_7"]
    assert told_apart(ids) == ("P_1_7_7", "P_1_7_8", "P_1_7_7_2", "P_1_7_7_3")


def test_the_balanced_loss_is_that_of_sample_weights_over_the_split():
    rng = np.random.default_rng(0)
    labels = np.array([0] * 7 + [1] * 2 + [3] * 4)
    shares = rng.dirichlet(np.ones(4), len(labels))
    losses = cross_entropies(shares, labels)
    assert losses.mean() == pytest.approx(log_loss(labels, shares, labels=range(4)))
    weights = compute_sample_weight("balanced", labels) * 3  # Classes that occur.
    names = dict.fromkeys(
        ("image_id", "patient_id", "laterality", "view"), labels.astype(str)
    )
    table = {**names, "label": labels, "probabilities": shares, "losses": losses}
    found = balanced_loss(as_predictions(table, (1,)))
    assert found == pytest.approx(np.mean(weights * losses))


def test_a_probability_of_zero_has_a_finite_loss():
    losses = cross_entropies(np.array([[1.0, 0.0]]), np.array([1]))
    assert np.isfinite(losses).all()


def test_a_batch_is_waited_for_only_when_the_next_is_begun():
    begun = []

    def begin(batch):
        begun.append(batch["label"][0])
        return {"score": batch["label"]}

    def fetch(values):
        waited.append((values[0], len(begun)))
        return values

    waited = []
    batches = [
        {"label": np.full(2, n), "weight": np.array([1, n < 3])} for n in (1, 2, 3)
    ]
    table = collect(
        batches, begin, description="", total=5, after_batch=lambda: None, fetch=fetch
    )
    assert table["score"].tolist() == [1, 1, 2, 2, 3]
    assert waited == [(1, 2), (2, 3), (3, 3)]
