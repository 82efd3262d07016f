"""The steps of this project, as `mammo_jax.main` compiles them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.peers.workload import SIZES, Steps, Workload, most_resident_bytes
from benchmarks.train_steps import AbstractStep, abstract_step
from mammo_jax import config as base
from mammo_jax.common.memory import set_up_memory
from mammo_jax.models import build_model, variables
from mammo_jax.training import step

set_up_memory()


def prepare(workload: Workload) -> Steps:
    """Random values in the real train step and evaluation step."""
    return prepare_with_program(workload)[0]


def prepare_with_program(workload: Workload) -> tuple[Steps, AbstractStep]:
    """The same, and the train step as it is compiled."""
    config = base.whole_config()
    if workload.task == "patch":
        config = config.patch
    config.batch_size, config.accum_steps = workload.batch, workload.accumulation
    config.model.update(
        trunk=workload.trunk,
        wiring="torchvision",
        compute_dtype=workload.dtype,
        image_size=SIZES[workload.task],
    )
    if (workload.trunk, workload.task) == ("vgg16", "whole"):
        config.model.top.update(kind="vgg", blocks=("512x1", "512x1"))
    stages = list(config.stages)
    abstract = abstract_step(config, stages[0 if workload.stage == "new" else -1])
    random = np.random.default_rng(0)
    model = build_model(config.model, 0)
    graphdef, params, stats = variables.split(model)
    del model
    state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), abstract.state)
    kept = {"state": dataclasses.replace(state, params=params, batch_stats=stats)}
    batch = {
        "image": jnp.asarray(
            random.integers(0, 65535, abstract.batch["image"].shape), jnp.uint16
        ),
        "label": jnp.zeros(abstract.batch["label"].shape, jnp.int32),
        "channel_shift": jnp.zeros(abstract.batch["channel_shift"].shape),
    }
    scored = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batch)
    evaluate = step.make_eval_step(graphdef, pixel_mean=0.0)

    def train() -> None:
        kept["state"], loss = abstract.function(kept["state"], batch)
        jax.block_until_ready((kept["state"], loss))

    def score() -> None:
        state = kept["state"]
        jax.block_until_ready(evaluate(state.params, state.batch_stats, scored))

    return Steps(train, score, _peak_bytes), abstract


def _peak_bytes() -> int:
    """Of the allocator on a GPU; a CPU has none that counts."""
    counts = jax.local_devices()[0].memory_stats() or {}
    return counts.get("peak_bytes_in_use") or most_resident_bytes()
