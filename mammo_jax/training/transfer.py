"""Settings of the network of a run that starts from another run.

A whole-image classifier gives its whole design, a patch classifier its trunk. The
weights carry over to no other network.
"""

import copy
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from mammo_jax.common.errors import UserError
from mammo_jax.common.run_directory import CONFIG_FILE, as_json, read_json
from mammo_jax.models import default_model_config
from mammo_jax.weights.model_description import read_config

_log = logging.getLogger(__name__)

# Fields that the weights of each trunk, and of each kind of top, belong to.
_TRUNK = ("trunk", "width")
_TRUNK_FIELDS = {
    "resnet50": (*_TRUNK, "wiring", "stem"),
    "vgg16": _TRUNK,
    "vgg19": _TRUNK,
}
_BLOCKS = ("num_classes", "top.kind", "top.blocks")
_HEATMAP = tuple(
    f"top.{name}" for name in ("kind", "pool", "fc", "activation", "window")
)
_TOP_FIELDS = {
    "patch": (),
    "residual": _BLOCKS,
    "vgg": _BLOCKS,
    "heatmap": ("num_classes", "image_size", *_HEATMAP),
}
# Fields that a whole-image classifier gives too, unless the run has others.
_MAY_DIFFER = ("batch_norm", "image_size")


def take_network(config: ConfigDict, workdir: Path) -> ConfigDict:
    """Returns the configuration with the network of the run that it starts from.

    A field that still has its default becomes that of `config.init_from`, and a log
    line says which did.

    Args:
      config: configuration of a run; it stays as it is.
      workdir: directory of the run. Once the run has begun there, the run that it
        started from need not be there any more.

    Raises:
      UserError: there is no finished run to start from, or a field was set to a value
        that contradicts it; names the field and both values.
    """
    if not config.get("init_from"):
        return config
    directory = Path(config.init_from).expanduser()
    there = _read_source(config, directory, workdir)
    taken = copy.deepcopy(config)
    changes = dict(_changes(as_json(config.model), there, directory))
    taken.model.update_from_flattened_dict(changes)
    if changes:
        _log.info(
            "the network is that of %s: %s",
            directory,
            ", ".join(f"config.model.{key}={value}" for key, value in changes.items()),
        )
    return taken


def _read_source(config: ConfigDict, directory: Path, workdir: Path) -> Any:
    """Returns the model configuration of the run that another one starts from."""
    try:
        return read_config(directory)["model"]
    except UserError as error:
        if (workdir / CONFIG_FILE).is_file():
            own = read_json(workdir / CONFIG_FILE)
            if own.get("init_from") == config.init_from:
                return own["model"]
        raise UserError(f"config.init_from: {error}") from error


def _changes(
    here: Mapping[str, Any], there: Mapping[str, Any], directory: Path
) -> Iterator[tuple[str, Any]]:
    defaults = as_json(default_model_config())
    top = _TOP_FIELDS[there["top"]["kind"]]
    bound = (*_TRUNK_FIELDS[there["trunk"]], *top)
    for field in dict.fromkeys((*bound, *(_MAY_DIFFER if top else ()))):
        ours, theirs, default = (_value(x, field) for x in (here, there, defaults))
        if theirs is None or ours == theirs:  # An older run lacks newer fields.
            continue
        if ours == default:
            yield field, tuple(theirs) if isinstance(theirs, list) else theirs
        elif field in bound:
            raise UserError(
                f"config.model.{field} is {ours!r}, but {theirs!r} in the run of "
                f"config.init_from, {directory}, whose weights fit no other network; "
                "leave the field out"
            )


def _value(table: Mapping[str, Any], field: str) -> Any:
    part, _, rest = field.partition(".")
    return _value(table[part], rest) if rest else table.get(part)
