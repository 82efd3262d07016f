"""State that a run carries from one step to the next."""

import dataclasses
from typing import Any

import clu.metrics
import flax
import jax
import jax.numpy as jnp

Arrays = dict[str, jax.Array]
# Arrays by name; JAX also builds states of shapes, or of nothing, in their place.
Leaves = dict[str, Any]


@flax.struct.dataclass
class EpochMetrics(clu.metrics.Collection):  # type: ignore[misc]
    """Means over the epoch so far; part of the state, so a restart keeps them."""

    loss: clu.metrics.Average.from_output("loss")  # type: ignore[valid-type]
    accuracy: clu.metrics.Average.from_output("accuracy")  # type: ignore[valid-type]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """State that the jitted train step reads and renews."""

    params: Leaves  # by name, such as `trunk/conv1/kernel`; float32
    batch_stats: Leaves  # running means and variances of the batch normalisations
    opt_state: Any  # of the stage's optimiser: moments of the trained parameters only
    metrics: EpochMetrics  # means over the epoch so far
    # Exponential moving averages of the parameters; None without `config.ema_decay`.
    averages: Leaves | None = None

    @classmethod
    def begin(
        cls, params: Leaves, batch_stats: Leaves, ema_decay: float
    ) -> "TrainState":
        """Returns the state before any stage was entered."""
        averages = jax.tree.map(jnp.copy, params) if ema_decay else None
        return cls(params, batch_stats, None, EpochMetrics.empty(), averages)

    @property
    def evaluated_params(self) -> Leaves:
        """Parameters that validation, test and the saved model use."""
        return self.params if self.averages is None else self.averages
