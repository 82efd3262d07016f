"""The steps of this project, as `mammo_jax.main` compiles them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.peers.workload import SIZES, Steps, Workload, most_resident_bytes
from benchmarks.train_steps import STEPS_PER_EPOCH, AbstractStep
from mammo_jax.common import devices
from mammo_jax.common.memory import give_back_large_blocks
from mammo_jax.config import whole_config
from mammo_jax.models import build_model, read_model_config, variables
from mammo_jax.training import step
from mammo_jax.training.experiment import abstract_batch
from mammo_jax.training.flat_step import jit_flat_step
from mammo_jax.training.stage_step import make_train_step
from mammo_jax.training.stages import read_stages

give_back_large_blocks()


def prepare(workload: Workload) -> Steps:
    """Random values in the real train step and evaluation step."""
    return prepare_with_program(workload)[0]


def prepare_with_program(workload: Workload) -> tuple[Steps, AbstractStep]:
    """The same, and the train step as it is compiled."""
    config = whole_config()
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
    stages = [stage.name for stage in read_stages(config.stages)]
    model = build_model(read_model_config(config.model), 0)
    mesh = devices.make_mesh(1, 1)
    train_step, state = make_train_step(
        model,
        stages=config.stages,
        stage=stages[0 if workload.stage == "new" else -1],
        steps_per_epoch=STEPS_PER_EPOCH,
        mesh=mesh,
    )
    evaluate = step.make_eval_step(variables.split(model)[0], pixel_mean=0.0)
    del model  # The state has copies of its values.
    random = np.random.default_rng(0)
    shapes = abstract_batch(config, config.model.image_size)
    batch = {
        "image": jnp.asarray(
            random.integers(0, 65535, shapes["image"].shape), "uint16"
        ),
        "label": jnp.zeros(shapes["label"].shape, jnp.int32),
        "channel_shift": jnp.zeros(shapes["channel_shift"].shape),
    }
    flat_step, arrays = jit_flat_step(train_step.__wrapped__, state, mesh)
    abstract = AbstractStep(flat_step.call, arrays, shapes)
    kept: dict[str, Any] = {
        "state": flat_step.flatten(devices.put_replicated(mesh, state)),
        "scored": None,
    }
    del state
    scored = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batch)

    def train() -> None:
        kept["state"], loss = abstract.function(kept["state"], batch)
        jax.block_until_ready((kept["state"], loss))
        kept["scored"] = None

    def loop(steps: int) -> None:
        for _ in range(steps):
            kept["state"], loss = abstract.function(kept["state"], batch)
        jax.block_until_ready((kept["state"], loss))
        kept["scored"] = None

    def score() -> None:
        state = kept["scored"] = kept["scored"] or flat_step.restore(kept["state"])
        jax.block_until_ready(evaluate(state.params, state.batch_stats, scored))

    return Steps(train, score, _peak_bytes, loop=loop), abstract


def _peak_bytes() -> int:
    """Of the allocator on a GPU; a CPU has none that counts."""
    counts = jax.local_devices()[0].memory_stats() or {}
    return counts.get("peak_bytes_in_use") or most_resident_bytes()
