"""A model that can learn learns eight phantoms by heart."""

import numpy as np
import pytest

from mammo_jax.datasets import pipeline
from mammo_jax.models import build_model, default_model_config, groups_of, variables
from mammo_jax.training import optimizer, step
from mammo_jax.training.state import EpochMetrics, TrainState

STEPS = 120


@pytest.mark.slow
def test_eight_phantoms_are_learnt_by_heart(phantom_data):
    data = pipeline.open_dataset("cbis_ddsm/paper_whole_h288", str(phantom_data))
    source = data.sources["train"]
    labels = np.array([int(source[i]["label"]) for i in range(len(source))])
    chosen = [*np.flatnonzero(labels == 0)[:4], *np.flatnonzero(labels == 1)[:4]]
    examples = [source[int(index)] for index in chosen]
    batch = {
        "image": np.stack([x["image"] for x in examples])[None],
        "label": labels[chosen].astype(np.int32)[None],
        "channel_shift": np.zeros((1, 8, 3), np.float32),
    }
    config = default_model_config()
    config.width, config.wiring, config.zero_init_residual = 1 / 8, "torchvision", True
    config.top.blocks = ("16-16-32x1", "16-16-32x1")
    graphdef, params, stats = variables.split(build_model(config, 0))
    groups = {name: groups_of(name, "resnet50") for name in params}
    stage = optimizer.Stage("stage1", 1, dict.fromkeys(optimizer.GROUPS, 1e-3), 0.0)
    transform = optimizer.make_optimizer(stage, groups, STEPS)
    options = step.StepOptions(frozenset(params), 2, data.pixel_mean, unroll=True)
    train_step = step.make_train_step(graphdef, transform, options)
    state = TrainState(params, stats, transform.init(params), EpochMetrics.empty())
    losses = []
    while len(losses) < STEPS and (not losses or losses[-1] >= 0.05):
        state, loss = train_step(state, batch)
        # The classes weigh as much as they are, so both classes even double it.
        losses.append(float(loss) / 2)
    assert losses[-1] < 0.05, losses[::10]
