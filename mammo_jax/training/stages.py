"""Stages of a training: their lengths, and the rates of the layer groups.

The paper trains its networks from the last layer down, in stages. A stage is a row of a
table; the stages follow one another in the order in which the table has them.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from mammo_jax.common.errors import UserError, refuse
from mammo_jax.common.run_directory import as_json
from mammo_jax.models.groups import GROUPS

DECAYS = ("constant", "cosine")


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of a training, checked."""

    name: str  # key of its row in the table of stages
    epochs: int  # sweeps over the training set, at least 1
    rates: Mapping[str, float]  # of each layer group; 0 leaves a group as it is
    l2: float = 0.0  # weight of the penalty l2 * sum(w^2) on new layers' kernels
    warmup_epochs: float = 0.0  # in which the rates rise from zero
    decay: str = "constant"  # course after that: or `cosine`, to zero at the end


def read_stages(
    table: ConfigDict | Mapping[str, Any], where: str = "config.stages"
) -> tuple[Stage, ...]:
    """Reads a table of stages in its own order; rows of 0 epochs are left out.

    `where` is the table's name in messages.

    Raises:
      UserError: a field or a layer group is unknown or missing, a number makes no
        sense, or every row has 0 epochs.
    """
    # A ConfigDict is iterated in the order of its names, its JSON in that of writing.
    rows = as_json(table) if isinstance(table, ConfigDict) else table
    if not isinstance(rows, Mapping):
        raise UserError(f"{where} is {rows!r:.60}; it must be a table of stages")
    stages = [_read_stage(name, row, f"{where}.{name}") for name, row in rows.items()]
    if not any(stage.epochs for stage in stages):
        raise UserError(f"{where}: every stage has 0 epochs; nothing would train")
    return tuple(stage for stage in stages if stage.epochs)


def _read_stage(name: str, row: Mapping[str, Any], where: str) -> Stage:
    if not isinstance(row, Mapping):
        raise UserError(f"{where} is {row!r:.60}; it must be a table of fields")
    if not isinstance(row.get("rates", {}), Mapping):
        raise UserError(
            f"{where}.rates is {row['rates']!r:.60}; it must give the rate of each of "
            f"the layer groups {', '.join(GROUPS)}"
        )
    try:
        numbers = {x: float(row[x]) for x in ("l2", "warmup_epochs") if x in row}
        rates = {group: float(rate) for group, rate in row["rates"].items()}
        stage = Stage(name=name, **{**row, **numbers, "rates": rates})
        _check(stage, where)
    except (TypeError, ValueError, KeyError) as error:
        fields = ", ".join(field.name for field in dataclasses.fields(Stage)[1:])
        raise UserError(f"{where}: {error}; its fields are {fields}") from error
    return stage


def _check(stage: Stage, where: str) -> None:
    unknown, missing = {*stage.rates} - {*GROUPS}, {*GROUPS} - {*stage.rates}
    numbers = {**stage.rates, "l2": stage.l2}
    refuse(
        {
            f"{where}.rates: unknown layer groups {sorted(unknown)}; the groups are "
            f"{', '.join(GROUPS)}": unknown,
            f"{where}.rates gives no rate for {sorted(missing)}; write 0.0 to leave a "
            "group as it is": missing,
            **{
                f"{where}: {name} is {value}; it must be at least 0": not value >= 0
                for name, value in numbers.items()
            },
            f"{where}.epochs is {stage.epochs}; it must be at least 0": (
                stage.epochs < 0
            ),
            f"{where}.decay is {stage.decay!r}; it must be one of "
            f"{', '.join(DECAYS)}": stage.decay not in DECAYS,
            f"{where}.warmup_epochs is {stage.warmup_epochs}; it must be between 0 and "
            f"the stage's {stage.epochs} epochs": (
                stage.epochs and not 0 <= stage.warmup_epochs <= stage.epochs
            ),
        }
    )
