"""A finished run's directory as a model: all that is needed to score images.

Four files of it are the model: `config.json`, `model.json`, `model.safetensors` and
`metrics.json`. Scoring needs nothing else of the run and nothing of the data set.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors.numpy
from ml_collections import ConfigDict

from mammo_jax.errors import UserError
from mammo_jax.files import replace_file
from mammo_jax.models import abstract_model, variables
from mammo_jax.models.classifier import feature_size
from mammo_jax.models.config import checked_config
from mammo_jax.models.conversion import list_names
from mammo_jax.models.weight_files import read_weights
from mammo_jax.training import workdir as workdirs

DESCRIPTION_FILE = "model.json"
WEIGHTS_FILE = "model.safetensors"
_MAX_SIDE = 1 << 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Description:
    """What a model's images must be like, and what its outputs mean.

    Attributes:
      task: "whole" or "patch".
      dataset: that it was trained on, such as `cbis_ddsm/paper_whole`.
      class_names: in the order of the model's outputs.
      malignant_classes: indices of those that mean malignancy.
      pixel_mean: to subtract, on the scale 0..255.
      height: rows of the grid that whole mammograms are squeezed to.
      width: columns of that grid.
      stretch: whether each mammogram is stretched to the full range first.
      patch_size: side of the training patches on that grid; 0 for whole images.
    """

    task: str
    dataset: str
    class_names: tuple[str, ...]
    malignant_classes: tuple[int, ...]
    pixel_mean: float
    height: int
    width: int
    stretch: bool
    patch_size: int


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A trained model.

    Attributes:
      directory: of its run.
      config: of the run.
      model_config: of the network. Of a patch classifier, `top.window` is the side
        of its training patches.
      graphdef: the model without its variables.
      params: of the best epoch.
      batch_stats: its running statistics.
      description: see `Description`.
    """

    directory: Path
    config: ConfigDict
    model_config: ConfigDict
    graphdef: Any
    params: variables.Variables
    batch_stats: variables.Variables
    description: Description


def save_description(directory: Path, description: Description) -> None:
    """Writes `model.json`."""
    values = dataclasses.asdict(description)
    workdirs.write_json(directory / DESCRIPTION_FILE, values)


def load_model(directory: Path) -> LoadedModel:
    """Reads the model of a finished run's best epoch, with all that scoring needs.

    Raises:
      UserError: the directory is no run, its run is unfinished, or a file in it is
        missing or damaged.
    """
    config = ConfigDict(_read_config(directory))
    description = load_description(directory)
    graphdef, params, batch_stats = load_variables(directory)
    model_config = checked_config(config.model)
    if description.task == "patch":
        patch = (description.patch_size, description.patch_size)
        model: Any = variables.merge(graphdef, params, batch_stats)
        model_config.top.window, _ = feature_size(model.trunk, patch)
    return LoadedModel(
        directory=directory,
        config=config,
        model_config=model_config,
        graphdef=graphdef,
        params=params,
        batch_stats=batch_stats,
        description=description,
    )


def save_variables(
    directory: Path, params: variables.Variables, batch_stats: variables.Variables
) -> None:
    """Writes `model.safetensors`: parameters and running statistics by their paths."""
    values = {
        name: np.ascontiguousarray(value)
        for name, value in (params | batch_stats).items()
    }
    with replace_file(directory / WEIGHTS_FILE) as partial:
        safetensors.numpy.save_file(values, partial)


def load_variables(
    directory: Path,
) -> tuple[Any, variables.Variables, variables.Variables]:
    """Structure, parameters and statistics of a finished run's best epoch.

    Raises:
      UserError: as `load_model`.
    """
    model = abstract_model(_read_config(directory)["model"])
    graphdef, params, batch_stats = variables.split(model)
    path = directory / WEIGHTS_FILE
    if not path.is_file():
        raise UserError(
            f"{directory} has no {WEIGHTS_FILE}, its weights; copy it back from where "
            "the run was made"
        )
    values = jax.device_put(read_weights(path))
    _check_weights(path, values, params | batch_stats)
    return (
        graphdef,
        {name: values[name] for name in params},
        {name: values[name] for name in batch_stats},
    )


def _check_weights(
    path: Path, values: variables.Variables, like: variables.Variables
) -> None:
    def described(x: Any) -> str:
        return f"{x.dtype}{list(x.shape)}"

    problems = {
        "missing": [name for name in like if name not in values],
        "unexpected": [name for name in values if name not in like],
        "misshapen": [
            f"{name} is {described(values[name])}, not {described(expected)}"
            for name, expected in like.items()
            if name in values and described(values[name]) != described(expected)
        ],
    }
    if any(problems.values()):
        details = "; ".join(
            f"{len(names)} {problem} ({list_names(names)})"
            for problem, names in problems.items()
            if names
        )
        raise UserError(f"{path} is damaged or of another model: {details}")


def load_description(directory: Path) -> Description:
    """Reads `model.json`.

    Raises:
      UserError: it is missing or damaged.
    """
    path = directory / DESCRIPTION_FILE
    if not path.is_file():
        raise UserError(
            f"{directory} has no {DESCRIPTION_FILE}, which says how its images are "
            "prepared; copy it back from where the run was made (the run of a random "
            "forest keeps no model)"
        )
    values = workdirs.read_json(path)
    names = {field.name for field in dataclasses.fields(Description)}
    if set(values) != names:
        raise UserError(f"{path} is damaged: it must have {', '.join(sorted(names))}")
    for name, is_valid in _VALID.items():
        if not is_valid(values[name]):
            raise UserError(f"{path} is damaged: {name} is {values[name]!r:.40}")
    for name in ("class_names", "malignant_classes"):
        values[name] = tuple(values[name])
    if max(values["malignant_classes"]) >= len(values["class_names"]):
        raise UserError(f"{path} is damaged: malignant_classes names no class")
    return Description(**values)


def _read_config(directory: Path) -> dict[str, Any]:
    """The configuration of a finished run."""
    if not directory.is_dir():
        raise UserError(f"{directory}: no such directory; give a run's directory")
    if not (directory / workdirs.CONFIG_FILE).is_file():
        raise UserError(
            f"{directory} holds no model (no {workdirs.CONFIG_FILE}); give the "
            "directory of a finished run, such as runs/demo"
        )
    config = workdirs.read_json(directory / workdirs.CONFIG_FILE)
    if not isinstance(config.get("model"), dict):
        raise UserError(
            f"{directory / workdirs.CONFIG_FILE} is of no run of this program"
        )
    if not (directory / workdirs.METRICS_FILE).exists():
        raise UserError(
            f"{directory} holds no finished run (no {workdirs.METRICS_FILE}); finish "
            "it by giving its training command again"
        )
    return config


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 < value < _MAX_SIDE


def _is_list_of(kind: type, value: Any) -> bool:
    return isinstance(value, list) and value != [] and {*map(type, value)} == {kind}


_VALID = {
    "task": lambda value: value in ("whole", "patch"),
    "dataset": lambda value: isinstance(value, str),
    "class_names": lambda value: _is_list_of(str, value),
    "malignant_classes": lambda value: _is_list_of(int, value) and min(value) >= 0,
    "pixel_mean": lambda value: (
        isinstance(value, (int, float)) and math.isfinite(value)
    ),
    "height": _is_count,
    "width": _is_count,
    "stretch": lambda value: isinstance(value, bool),
    "patch_size": lambda value: value == 0 or _is_count(value),
}
