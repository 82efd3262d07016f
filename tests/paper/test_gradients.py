"""Gradient sizes at the trunk's last feature map, by another way."""

import itertools
from types import SimpleNamespace
from unittest.mock import Mock

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from mammo_jax.common.signals import StopRequest
from mammo_jax.models import build_model, read_model_config, variables
from mammo_jax.models.network_input import network_input
from mammo_jax.training.state import TrainState
from paper import gradients
from paper.gradients import make_gradient_norms

TOPS = {
    "residual": {"kind": "residual", "blocks": ("4-4-8x1",)},
    "softmax": {"kind": "heatmap", "pool": 1, "fc": (8, 4), "window": 2},
}


@pytest.mark.parametrize("top", TOPS)
def test_the_norm_is_the_rate_at_which_the_log_odds_change(top):
    config = {
        "trunk": "vgg16",
        "width": 1 / 16,
        "image_size": (128, 96),
        "top": TOPS[top],
    }
    model = build_model(read_model_config(config), 1)
    graphdef, params, stats = variables.split(model)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 65535, (2, 128, 96)).astype(np.uint16)
    norms = make_gradient_norms(graphdef, 30.0)(params, stats, pixels)
    images = network_input(pixels, 30.0)
    features = np.asarray(model.trunk(images, False))

    def log_odds(features):
        shares = jax.nn.softmax(model.classify(jax.numpy.asarray(features), False))
        return np.log(np.asarray(shares[:, 1], np.float64) / shares[:, 0])

    def logits(features):
        return model.classify(features, False)

    _, pull_back = jax.vjp(logits, jax.numpy.asarray(features))
    for image in range(2):
        one = np.zeros((2, 2), np.float32)
        one[image] = -1, 1
        (gradient,) = pull_back(one)
        size = np.linalg.norm(gradient)
        np.testing.assert_allclose(norms[image], size, rtol=1e-3)
        # The steepest small step changes the log-odds at that rate.
        step = np.asarray(gradient) * (3e-3 * np.linalg.norm(features) / size)
        change = log_odds(features + step) - log_odds(features - step)
        rate = change[image] / (2 * np.linalg.norm(step))
        np.testing.assert_allclose(rate, size, rtol=0.05)


class _Experiment:
    """Two stages of three and two epochs; its parameters are the steps done."""

    graphdef, pixel_mean = None, 0.0
    settings = SimpleNamespace(
        model=read_model_config({}),
        stages=(SimpleNamespace(epochs=3), SimpleNamespace(epochs=2)),
    )

    def __init__(self, steps_per_epoch):
        self.steps_per_epoch = steps_per_epoch
        self.entered = []

    def evaluation_batches(self, role):
        return iter([{"weight": np.array([1.0, 0.0]), "image": None}])

    def training_batches(self, start):
        return itertools.count(start)

    def evaluation_arrays(self, batch):
        return batch

    def training_arrays(self, batch):
        return batch

    def enter_stage(self, index, state):
        self.entered.append((index, state.params))
        return state

    def train_step(self, index):
        def step(state, batch):
            assert batch == state.params
            return Mock(spec=TrainState, params=state.params + 1, batch_stats=0), 0.0

        return step


@pytest.mark.parametrize(
    ("steps_per_epoch", "every"), [(40, 8), (5, 1), (9, 2), (3, 1)]
)
def test_all_epochs_of_every_stage_are_measured(monkeypatch, steps_per_epoch, every):
    experiment = _Experiment(steps_per_epoch)
    experiment.abstract = {}, {}
    start = Mock(spec=TrainState, params=0, batch_stats=0)
    experiment.initial_state = lambda *arguments: start
    monkeypatch.setattr(gradients, "open_experiment", lambda config: experiment)
    monkeypatch.setattr(gradients, "load_variables", lambda path: (None, {}, {}))
    monkeypatch.setattr(gradients.conversion, "take_over", lambda *given: ({}, {}, ()))
    # The second image only fills the batch.
    monkeypatch.setattr(
        gradients,
        "make_gradient_norms",
        lambda graphdef, mean: lambda params, stats, probe: np.array([params, -1.0]),
    )
    config = ConfigDict({"init_from": "", "seed": 0})
    with StopRequest() as stop:
        curve = gradients._measure(config, stop)
    assert experiment.entered == [(1, 3 * steps_per_epoch)]
    expected = [
        epoch * steps_per_epoch + step
        for epoch in range(5)
        for step in range(every, steps_per_epoch + 1, every)
    ]
    assert curve.steps == [0, *expected]
    assert len(expected) <= 5 * 5
    assert curve.norms == curve.steps
