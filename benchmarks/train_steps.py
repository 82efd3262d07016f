"""The train step of a configuration without data or values, for compiling only."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from mammo_jax.models import abstract_model, groups_of, variables
from mammo_jax.training import optimizer, step
from mammo_jax.training.experiment import abstract_batch
from mammo_jax.training.state import EpochMetrics, TrainState

# A set of the paper's size; only learning-rate schedules read it.
STEPS_PER_EPOCH = 1000


class AbstractStep(NamedTuple):
    """A train step and the shapes and types of its arguments.

    Attributes:
      function: see `mammo_jax.training.step.make_train_step`.
      state: what it renews.
      batch: what it reads.
    """

    function: Callable
    state: TrainState
    batch: Mapping[str, jax.ShapeDtypeStruct]


def abstract_step(config: ConfigDict, stage: str) -> AbstractStep:
    """The step of one stage of a run's configuration.

    Args:
      config: of a run, see `mammo_jax.config`; its `model.image_size` is the images'.
      stage: a row of its table of stages.
    """
    model = abstract_model(config.model)
    graphdef, params, stats = variables.split(model)
    labels = {name: groups_of(name, config.model.trunk) for name in params}
    (row,) = optimizer.stages_from_config({stage: config.stages[stage]})
    trained = optimizer.trained_parameters(row, labels)
    transform = optimizer.make_optimizer(row, labels, STEPS_PER_EPOCH)
    function = step.make_train_step(
        graphdef,
        transform,
        step.StepOptions(trained, num_classes=config.model.num_classes, pixel_mean=0.0),
    )

    def state() -> TrainState:
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (params, stats))
        moving = {name: zeros[0][name] for name in sorted(trained)}
        return TrainState(
            params=zeros[0],
            batch_stats=zeros[1],
            opt_state=transform.init(moving),
            metrics=EpochMetrics.empty(),
        )

    return AbstractStep(
        function, jax.eval_shape(state), abstract_batch(config, config.model.image_size)
    )


def count_flops(function: Any, *arguments: Any) -> float:
    """Floating-point operations of a jitted function, by XLA's count.

    Of the program that a GPU is given; it is lowered only. On a CPU the convolutions
    are another library's, which XLA does not count.
    """
    lowered = function.trace(*arguments).lower(lowering_platforms=("cuda",))
    return lowered.cost_analysis()["flops"]
