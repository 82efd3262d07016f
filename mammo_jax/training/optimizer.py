"""Layer groups with their own learning rates: the paper's staged training.

A stage is a row of a table: how many epochs, the learning rate of every layer
group, and the L2 penalty. `optax.multi_transform` gives each group its rate. A
group whose rate is zero is not part of the optimiser at all, and the train step
does not differentiate it.
"""

import dataclasses
from collections.abc import Mapping

import jax
import optax

from mammo_jax.errors import UserError
from mammo_jax.models.groups import BOTTOM, HEAD, NEW_LAYERS, TOP_OF_TRUNK

Params = dict[str, jax.Array]
GROUPS = (BOTTOM, TOP_OF_TRUNK, HEAD, NEW_LAYERS)


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of the training.

    Attributes:
      name: of the row in the table of stages.
      epochs: sweeps over the training set.
      rates: learning rate of each layer group; 0 leaves a group as it is.
      l2: penalty l2 * sum(w^2) on the kernels of the newly added layers.
    """

    name: str
    epochs: int
    rates: Mapping[str, float]
    l2: float


def stages_from_config(table: Mapping[str, Mapping]) -> tuple[Stage, ...]:
    """Reads the table of stages, in the order of their names.

    Raises:
      UserError: a stage trains nothing, or nothing is trained at all.
    """
    stages = [
        Stage(name, int(row["epochs"]), dict(row["rates"]), float(row["l2"]))
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
    return tuple(stages)


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


def make_optimizer(
    stage: Stage, labels: Mapping[str, str]
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

    def transform(rate: float) -> optax.GradientTransformation:
        steps = [optax.scale_by_adam(), optax.scale_by_learning_rate(rate)]
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
