"""A model that can learn learns eight phantoms by heart."""

import numpy as np
import pytest

from mammo_jax.datasets import pipeline
from mammo_jax.models import build_model, default_model_config, read_model_config
from mammo_jax.models.groups import GROUPS
from mammo_jax.training.stage_step import make_train_step

STEPS = 120


@pytest.mark.slow
def test_eight_phantoms_are_learnt_by_heart(phantom_data):
    data = pipeline.open_dataset("cbis_ddsm/paper_whole_h288", str(phantom_data))
    source = data.sources["train"]
    labels = np.array([int(source[i]["label"]) for i in range(len(source))])
    chosen = [*np.flatnonzero(labels == 0)[:4], *np.flatnonzero(labels == 1)[:4]]
    examples = [source[int(index)] for index in chosen]
    batch = {
        "image": np.stack([x["image"] for x in examples]),
        "label": labels[chosen].astype(np.int32),
    }
    config = default_model_config()
    config.width, config.wiring, config.zero_init_residual = 1 / 8, "torchvision", True
    config.top.blocks = ("16-16-32x1", "16-16-32x1")
    train_step, state = make_train_step(
        build_model(read_model_config(config), 0),
        stages={"stage1": {"epochs": 1, "rates": dict.fromkeys(GROUPS, 1e-3)}},
        pixel_mean=data.pixel_mean,
    )
    losses = []
    while len(losses) < STEPS and (not losses or losses[-1] >= 0.05):
        state, loss = train_step(state, batch)
        # The classes weigh as much as they are, so both classes even double it.
        losses.append(float(loss) / 2)
    assert losses[-1] < 0.05, losses[::10]
