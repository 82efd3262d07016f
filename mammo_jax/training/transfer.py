"""Settings of the network of a run that starts from another run.

A whole-image classifier gives its whole design, a patch classifier its trunk.
"""

import copy
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from mammo_jax.common.errors import UserError, of_field
from mammo_jax.common.run_directory import CONFIG_FILE, as_json, has_begun, read_json
from mammo_jax.models import default_model_config, read_model_config
from mammo_jax.weights.hub import find_directory
from mammo_jax.weights.model_description import read_config

_log = logging.getLogger(__name__)

# Fields that the weights of each trunk, and of each kind of top, belong to.
_TRUNK = ("trunk", "width", "stride")
_TRUNK_FIELDS = {"resnet50": (*_TRUNK, "wiring", "stem")}
_BLOCKS = ("num_classes", "top.kind", "top.blocks")
_HEATMAP = ("kind", "pool", "fc", "activation", "window")
_TOP_FIELDS = {
    "patch": (),
    "residual": _BLOCKS,
    "vgg": _BLOCKS,
    "heatmap": ("num_classes", "image_size", *(f"top.{name}" for name in _HEATMAP)),
}
# Fields that a whole-image classifier gives too, unless the run has others.
_MAY_DIFFER = ("batch_norm", "image_size")


def take_network(config: ConfigDict, workdir: Path) -> ConfigDict:
    """Returns the configuration with the network of the run that it starts from.

    A field that still has its default becomes that of `config.init_from`, and a log
    line says which did. A run in `workdir` that has begun goes on with its own network,
    so the run that it started from need not be there any more.

    Raises:
      UserError: there is no finished run to start from, or a field was set to a value
        that contradicts it; names the field and both values.
    """
    if not config.get("init_from"):
        return config
    own = read_json(workdir / CONFIG_FILE) if has_begun(workdir) else {}
    if own.get("init_from") == config.init_from:
        there = _over_defaults(own, workdir)
        # The run's directory refuses a field that was set otherwise.
        changes = dict(_changes(as_json(config.model), there, None))
    else:
        with of_field("config.init_from"):
            directory = find_directory(config.init_from)
            there = _over_defaults(read_config(directory), directory)
        changes = dict(_changes(as_json(config.model), there, config.init_from))
    taken = copy.deepcopy(config)
    taken.model.update_from_flattened_dict(changes)
    if changes:
        _log.info(
            "the network is that of %s: %s",
            config.init_from,
            ", ".join(f"config.model.{key}={value}" for key, value in changes.items()),
        )
    return taken


def _over_defaults(config: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    """Returns a run's settings of its network; an older run lacks newer fields."""
    fields, name = config.get("model"), f"{directory / CONFIG_FILE}: model"
    if not isinstance(fields, dict):
        raise UserError(f"{name} is {fields!r:.40}; it must be a table of fields")
    read_model_config(fields, name)
    full = default_model_config()
    full.update(fields)
    return as_json(full)


def _changes(
    here: Mapping[str, Any], there: Mapping[str, Any], source: str | None
) -> Iterator[tuple[str, Any]]:
    """Finds the fields to take; refuses those that contradict the source, if given."""
    defaults = as_json(default_model_config())
    top = _TOP_FIELDS[there["top"]["kind"]]
    bound = (*_TRUNK_FIELDS.get(there["trunk"], _TRUNK), *top)
    for field in dict.fromkeys((*bound, *(_MAY_DIFFER if top else ()))):
        ours, theirs, default = (_value(x, field) for x in (here, there, defaults))
        if ours == theirs:
            continue
        if ours == default:
            yield field, tuple(theirs) if isinstance(theirs, list) else theirs
        elif source and field in bound:
            raise UserError(
                f"config.model.{field} is {ours!r}, but {theirs!r} in the run of "
                f"config.init_from, {source}, whose weights fit no other network; "
                "leave the field out"
            )


def _value(table: Mapping[str, Any], field: str) -> Any:
    part, _, rest = field.partition(".")
    return _value(table[part], rest) if rest else table.get(part)
