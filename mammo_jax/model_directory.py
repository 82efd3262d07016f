"""A finished run's directory as a model: all that is needed to score images.

Besides `config.json` and `checkpoints/` a run's directory holds `model.json`, which
says how the training images were prepared; nothing of the data set is needed any more.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
from flax import nnx
from ml_collections import ConfigDict

from mammo_jax.errors import UserError
from mammo_jax.models import build_model, variables
from mammo_jax.models.classifier import feature_size
from mammo_jax.models.config import checked_config
from mammo_jax.training import workdir as workdirs
from mammo_jax.training.checkpoint import Checkpoints

DESCRIPTION_FILE = "model.json"
CHECKPOINTS_DIR = "checkpoints"
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
      params: of the best checkpoint.
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
    """Reads the best checkpoint of a finished run, with all that scoring needs.

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


def load_variables(
    directory: Path,
) -> tuple[Any, variables.Variables, variables.Variables]:
    """Structure, parameters and statistics of a finished run's best checkpoint.

    Raises:
      UserError: as `load_model`.
    """
    graphdef, *like = variables.split(abstract_model(_read_config(directory)["model"]))
    folder = directory / CHECKPOINTS_DIR
    # Asked first: opening the checkpoints would make the folder.
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist: the run has lost its checkpoints")
    with Checkpoints(folder) as checkpoints:
        last = checkpoints.last_step()
        if last < 0:
            raise UserError(f"{folder} holds no checkpoint")
        best = checkpoints.progress(last).best_step
        return graphdef, *checkpoints.load_model(best, *like)


def abstract_model(model_config: Any) -> nnx.Module:
    """A model without values: shapes and types alone."""
    keys: Any = _OneKey()
    return nnx.eval_shape(lambda: build_model(model_config, rngs=keys))


class _OneKey:
    """Stands in for `nnx.Rngs` where no value is drawn.

    Its counter would cost two thirds of the time in which a model is built so.
    """

    def params(self) -> jax.Array:
        return jax.random.key(0)


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
