"""A train step for a network of one's own, without a data set or a run."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from mammo_jax.common import devices
from mammo_jax.common.errors import UserError
from mammo_jax.config import STAGES, stage_table
from mammo_jax.models import groups_of, variables
from mammo_jax.models.classifier import Classifier
from mammo_jax.models.compiling import jit_network
from mammo_jax.training.optimizer import make_optimizer
from mammo_jax.training.stages import Stage, read_stages
from mammo_jax.training.state import TrainState
from mammo_jax.training.step import StepOptions, TrainStep, build_train_step


def make_train_step(
    net: Classifier,
    *,
    stages: str | ConfigDict | Mapping[str, Any] = "whole",
    stage: str = "stage1",
    accum_steps: int = 1,
    pixel_mean: float = 0.0,
    steps_per_epoch: int = 1000,
    ema_decay: float = 0.0,
    mesh: jax.sharding.Mesh | None = None,
    unroll: bool | None = None,
) -> tuple[TrainStep, TrainState]:
    """Makes the train step of one stage, as a run has it, and the state it begins with.

    The step takes a state, which it uses up, and a batch with

    * `image`: uint16 grey levels 0..65535, (batch, height, width), or cut into
      microbatches, (accumulation, microbatch, height, width);
    * `label`: integers from 0 to the number of classes less 1, (batch,) or
      (accumulation, microbatch);
    * `channel_shift`, which may be left out: float32 offsets of the three channels on
      the scale 0..255, (batch, 3) or (accumulation, microbatch, 3).

    It returns the new state and the batch's loss: the cross-entropy, in which every
    class of the batch weighs the same (sections 2.2 and 2.3 of the paper). A batch of
    another shape or type raises a ValueError. The network itself stays as it is; the
    trained one is
    `variables.merge(nnx.graphdef(net), state.params, state.batch_stats)`.

    Args:
      net: as from `build_model`.
      stages: name of a table in `mammo_jax.config.STAGES`, or a table of that form with
        a rate for every layer group.
      stage: row of that table.
      accum_steps: see `StepOptions`.
      pixel_mean: see `StepOptions`.
      ema_decay: see `StepOptions`.
      unroll: see `StepOptions`; by default True on a CPU.
      steps_per_epoch: length of an epoch; only rates that change read it.
      mesh: devices, see `mammo_jax.common.devices`; by default a single one.

    Raises:
      UserError: there is no such table or stage, or it trains nothing of this network.
    """
    row = _find_stage(stages, stage)
    graphdef, params, stats = variables.split(net)
    labels = {name: groups_of(name, net.trunk_name, net.stride) for name in params}
    optimizer = make_optimizer(row, labels, steps_per_epoch)
    options = StepOptions(
        num_classes=net.num_classes,
        pixel_mean=pixel_mean,
        accum_steps=accum_steps,
        ema_decay=ema_decay,
        unroll=jax.default_backend() == "cpu" if unroll is None else unroll,
    )
    # Copies: a step lets its new state take the memory of the old one.
    params, stats = jax.tree.map(jnp.copy, (params, stats))
    state = TrainState.begin(params, stats, ema_decay)
    state = dataclasses.replace(state, opt_state=optimizer.init(params))
    train_step = jit_network(
        build_train_step(graphdef, optimizer, options, mesh),
        donate_argnums=0,
        out_shardings=devices.replicated(mesh),
    )
    return train_step, state


def _find_stage(stages: str | ConfigDict | Mapping[str, Any], name: str) -> Stage:
    if isinstance(stages, str):
        if stages not in STAGES:
            raise UserError(
                f"there is no table of stages {stages!r}; the tables are "
                f"{', '.join(STAGES)}"
            )
        stages = stage_table(stages)
    rows = {row.name: row for row in read_stages(stages, "stages")}
    if name not in rows:
        raise UserError(
            f"there is no stage {name!r}; the stages of this table are "
            f"{', '.join(rows)}"
        )
    return rows[name]
