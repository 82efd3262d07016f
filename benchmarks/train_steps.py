"""The train step of a configuration without data or values, for compiling only."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from mammo_jax.common import devices
from mammo_jax.models import abstract_model, read_model_config, variables
from mammo_jax.training.experiment import abstract_batch
from mammo_jax.training.flat_step import jit_flat_step
from mammo_jax.training.stage_step import make_train_step
from mammo_jax.training.state import TrainState

# A set of the paper's size; only learning-rate schedules read it.
STEPS_PER_EPOCH = 1000


class AbstractStep(NamedTuple):
    """A train step and the shapes and types of its arguments.

    Attributes:
      function: see `mammo_jax.training.flat_step.FlatStep.call`.
      state: what it renews.
      batch: what it reads.
    """

    function: Callable
    state: Sequence[jax.ShapeDtypeStruct]
    batch: Mapping[str, jax.ShapeDtypeStruct]


def abstract_step(
    config: ConfigDict, stage: str, mesh: jax.sharding.Mesh | None = None
) -> AbstractStep:
    """The step of one stage of a run's configuration.

    Args:
      config: of a run, see `mammo_jax.config`; its `model.image_size` is the images'.
      stage: a row of its table of stages.
      mesh: of the device that it is for; by default the first of this machine.
    """
    mesh = mesh or devices.make_mesh(1, 1)
    graphdef, *values = variables.split(abstract_model(read_model_config(config.model)))
    made = []

    def state(params: variables.Variables, stats: variables.Variables) -> TrainState:
        function, state = make_train_step(
            variables.merge(graphdef, params, stats),
            stages=config.stages,
            stage=stage,
            steps_per_epoch=STEPS_PER_EPOCH,
            mesh=mesh,
            unroll=False,  # As on the GPU that it is compiled for.
        )
        made.append(function)
        return state

    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), values)
    started = jax.eval_shape(state, *shapes)
    batch = abstract_batch(config, config.model.image_size)
    flat_step, arrays = jit_flat_step(made[0].__wrapped__, started, mesh)
    return AbstractStep(flat_step.call, arrays, batch)


def count_flops(function: Any, *arguments: Any) -> float:
    """Floating-point operations of a jitted function, by XLA's count.

    Of the program that a GPU is given; it is lowered only. On a CPU the convolutions
    are another library's, which XLA does not count.
    """
    lowered = function.trace(*arguments).lower(lowering_platforms=("cuda",))
    return lowered.cost_analysis()["flops"]
