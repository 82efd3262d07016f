"""Layer groups with their own learning rates: the paper's staged training.

A stage is a row of a table: how many epochs, the learning rate of every layer
group, and the L2 penalty. `optax.multi_transform` gives each group its rate. A
group whose rate is zero is not part of the optimiser at all, and the train step
does not differentiate it.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax

from mammo_jax.common.errors import UserError
from mammo_jax.models.groups import BOTTOM, HEAD, NEW_LAYERS, TOP_OF_TRUNK

Params = dict[str, jax.Array]
GROUPS = (BOTTOM, TOP_OF_TRUNK, HEAD, NEW_LAYERS)
DECAYS = ("constant", "cosine")


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of the training.

    Attributes:
      name: of the row in the table of stages.
      epochs: sweeps over the training set.
      rates: learning rate of each layer group; 0 leaves a group as it is.
      l2: penalty l2 * sum(w^2) on the kernels of the newly added layers.
      warmup_epochs: in which the rates rise from zero.
      decay: of the rates after that: `constant`, or `cosine` to zero at the
        stage's end.
    """

    name: str
    epochs: int
    rates: Mapping[str, float]
    l2: float
    warmup_epochs: float = 0.0
    decay: str = "constant"


def stages_from_config(table: Mapping[str, Mapping]) -> tuple[Stage, ...]:
    """Reads the table of stages, in the order of their names.

    Raises:
      UserError: a stage trains nothing, or nothing is trained at all.
    """
    stages = [
        Stage(**{**row, "name": name, "rates": dict(row["rates"])})
        for name, row in sorted(table.items())
    ]
    stages = [stage for stage in stages if stage.epochs > 0]
    if not stages:
        raise UserError("config.stages: every stage has 0 epochs; nothing would train")
    for stage in stages:
        unknown = set(stage.rates) - set(GROUPS)
        if unknown:
            raise UserError(
                f"config.stages.{stage.name}.rates: unknown layer groups "
                f"{sorted(unknown)}; the groups are {list(GROUPS)}"
            )
        _check_schedule(stage)
    return tuple(stages)


def _check_schedule(stage: Stage) -> None:
    where = f"config.stages.{stage.name}"
    if stage.decay not in DECAYS:
        raise UserError(
            f"{where}.decay is {stage.decay!r}; it must be one of {', '.join(DECAYS)}"
        )
    if not 0 <= stage.warmup_epochs <= stage.epochs:
        raise UserError(
            f"{where}.warmup_epochs is {stage.warmup_epochs}; it must be between 0 and "
            f"the stage's {stage.epochs} epochs"
        )


def trained_parameters(stage: Stage, labels: Mapping[str, str]) -> frozenset[str]:
    """The names of the parameters that `stage` changes.

    Args:
      stage: the row of the table.
      labels: layer group of every parameter.

    Raises:
      UserError: a group has no rate, or the stage trains none of this model.
    """
    missing = set(labels.values()) - set(stage.rates)
    if missing:
        raise UserError(
            f"config.stages.{stage.name}.rates gives no rate for {sorted(missing)}; "
            "write 0.0 to leave a group as it is"
        )
    trained = {name for name, group in labels.items() if stage.rates[group] != 0}
    if not trained:
        raise UserError(
            f"config.stages.{stage.name} trains nothing: this model's groups "
            f"{sorted(set(labels.values()))} all have rate 0"
        )
    return frozenset(trained)


def rate_factor(stage: Stage, steps_per_epoch: int) -> Callable[[Any], Any]:
    """What the stage's rates are multiplied by, 0..1, at each of its steps."""
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
) -> optax.GradientTransformation:
    """Adam for every trained group with its own rate.

    The L2 penalty is coupled: its gradient 2 * l2 * w passes through Adam, as in
    the paper's Keras, which is not AdamW.
    """
    trained = trained_parameters(stage, labels)
    groups = {name: labels[name] for name in sorted(trained)}

    def penalised(params: Params) -> dict[str, bool]:
        return {
            name: labels[name] == NEW_LAYERS and name.endswith("/kernel")
            for name in params
        }

    factor = rate_factor(stage, steps_per_epoch)

    def transform(rate: float) -> optax.GradientTransformation:
        steps = [
            optax.scale_by_adam(),
            optax.scale_by_learning_rate(lambda step: rate * factor(step)),
        ]
        if stage.l2:
            steps.insert(0, optax.add_decayed_weights(2 * stage.l2, mask=penalised))
        return optax.chain(*steps)

    return optax.multi_transform(
        {
            group: transform(stage.rates[group])
            for group in sorted(set(groups.values()))
        },
        groups,
    )


def carry_moments(fresh: Any, previous: Any) -> Any:
    """`fresh` with Adam's moments and count of the groups that `previous` has.

    Args:
      fresh: the optimiser's state at the start of a stage.
      previous: that of the stage before, at its end.
    """

    def is_adam(part: Any) -> bool:
        return isinstance(part, optax.ScaleByAdamState)

    def graft(new: Any, old: Any) -> Any:
        # The names of the other groups are there too, without values.
        def take(there: Params, here: Params) -> Params:
            return {name: here.get(name, value) for name, value in there.items()}

        return new._replace(
            count=old.count, mu=take(new.mu, old.mu), nu=take(new.nu, old.nu)
        )

    def carry(group: str, state: Any) -> Any:
        if group not in previous.inner_states:
            return state
        leaves = jax.tree.leaves(previous.inner_states[group], is_leaf=is_adam)
        (moments,) = filter(is_adam, leaves)
        return jax.tree.map(
            lambda part: graft(part, moments) if is_adam(part) else part,
            state,
            is_leaf=is_adam,
        )

    return fresh._replace(
        inner_states={
            group: carry(group, state) for group, state in fresh.inner_states.items()
        }
    )
