"""Adam with a learning rate for each layer group: the paper's staged training.

A group whose rate is zero is not part of the optimiser at all, and the train step
does not differentiate it.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import optax

from mammo_jax.common.errors import UserError
from mammo_jax.models.groups import NEW_LAYERS
from mammo_jax.training.stages import Stage
from mammo_jax.training.state import Arrays, Leaves


class Optimizer(NamedTuple):
    """An optimiser of some of a model's parameters."""

    trained: frozenset[str]  # names of the parameters that it changes
    transform: optax.GradientTransformation  # their update from their gradients

    def init(self, params: Leaves) -> Any:
        """Returns the state before the first step, from all parameters of the model."""
        return self.transform.init(
            {name: params[name] for name in sorted(self.trained)}
        )


def rate_factor(stage: Stage, steps_per_epoch: int) -> optax.Schedule:
    """Returns the factor of the stage's rates, 0..1, as a function of its steps."""
    warmup = round(stage.warmup_epochs * steps_per_epoch)
    total = stage.epochs * steps_per_epoch
    after = {
        "constant": optax.constant_schedule(1.0),
        "cosine": optax.cosine_decay_schedule(1.0, max(total - warmup, 1)),
    }[stage.decay]
    # The first step already moves: it is the first of `warmup` equal rises.
    rise = optax.linear_schedule(1 / (warmup + 1), 1.0, max(warmup, 1))
    return optax.join_schedules([rise, after], [warmup])


def make_optimizer(
    stage: Stage, labels: Mapping[str, str], steps_per_epoch: int
) -> Optimizer:
    """Makes Adam for every trained layer group with the group's own rate.

    The L2 penalty is coupled: its gradient 2 * l2 * w passes through Adam, as in
    the paper's Keras, which is not AdamW. `labels` has every parameter's layer group.

    Raises:
      UserError: the stage trains no parameter of this model.
    """
    groups = {
        name: labels[name] for name in sorted(labels) if stage.rates[labels[name]]
    }
    if not groups:
        raise UserError(
            f"config.stages.{stage.name} trains nothing: this model's groups "
            f"{sorted(set(labels.values()))} all have rate 0"
        )

    def penalised(params: Leaves) -> dict[str, bool]:
        return {x: labels[x] == NEW_LAYERS and x.endswith("/kernel") for x in params}

    factor = rate_factor(stage, steps_per_epoch)

    def transform(rate: float) -> optax.GradientTransformation:
        steps = [
            optax.scale_by_adam(),
            optax.scale_by_learning_rate(lambda step: rate * factor(step)),
        ]
        if stage.l2:
            steps.insert(0, optax.add_decayed_weights(2 * stage.l2, mask=penalised))
        return optax.chain(*steps)

    transforms = {
        group: transform(stage.rates[group]) for group in sorted(set(groups.values()))
    }
    return Optimizer(frozenset(groups), optax.multi_transform(transforms, groups))


def carry_moments(fresh: Any, previous: Any) -> Any:
    """Returns `fresh` with Adam's moments and count of the groups `previous` has.

    `fresh` is an optimiser's state at the start of a stage, `previous` one at the end
    of the stage before.
    """

    def take(there: Arrays, here: Arrays) -> Arrays:
        # The names of the other groups are there too, without values.
        return {name: here.get(name, value) for name, value in there.items()}

    def carry(group: str, state: Any) -> Any:
        if group not in previous.inner_states:
            return state
        adam = optax.ScaleByAdamState.__name__
        new = optax.tree_utils.tree_get(state, adam)
        old = optax.tree_utils.tree_get(previous.inner_states[group], adam)
        moments = old._replace(mu=take(new.mu, old.mu), nu=take(new.nu, old.nu))
        return optax.tree_utils.tree_set(state, **{adam: moments})

    states = {group: carry(group, x) for group, x in fresh.inner_states.items()}
    return fresh._replace(inner_states=states)
