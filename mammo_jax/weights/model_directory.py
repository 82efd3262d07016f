"""Model of a finished run's directory: all that is needed to score images.

Four files of it are the model: `config.json`, `model.json` (see
`mammo_jax.weights.model_description`), `model.safetensors` and `metrics.json`. Scoring
needs nothing else of the run and nothing of the data set.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from mammo_jax.common import devices
from mammo_jax.common.errors import UserError
from mammo_jax.common.run_directory import CONFIG_FILE
from mammo_jax.models import abstract_model, variables
from mammo_jax.models.classifier import feature_size
from mammo_jax.models.folding import fold
from mammo_jax.models.model_config import ModelConfig, read_model_config
from mammo_jax.weights.conversion import compare_shapes, list_problems
from mammo_jax.weights.model_description import (
    DESCRIPTION_FILE,
    WEIGHTS_FILE,
    Description,
    load_description,
    read_config,
)
from mammo_jax.weights.published import file_digest
from mammo_jax.weights.weight_files import read_weights, write_weights


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """Trained model."""

    config: ConfigDict  # of the run
    model_config: ModelConfig
    # Side, in the trunk's positions, of the window that a patch classifier, alone or
    # below a heatmap top, is slid with: a patch. None for other models.
    window: int | None
    # Structure and parameters of the best epoch. In float32 normalisation is folded in,
    # and no statistics are left; else they are among the parameters.
    graphdef: Any
    params: variables.Variables
    description: Description


def load_model(directory: Path) -> LoadedModel:
    """Reads the model of a finished run's best epoch, with all that scoring needs.

    Raises:
      UserError: the directory is no run, its run is unfinished, or a file in it is
        missing or damaged.
    """
    description = load_description(directory)
    try:
        config = ConfigDict(read_config(directory))
    except (ValueError, AttributeError, KeyError) as error:  # of its keys
        raise UserError(f"{directory / CONFIG_FILE} is damaged: {error}") from error
    model_config = read_model_config(config.model)
    if model_config.num_classes != len(description.class_names):
        raise UserError(
            f"{directory} is damaged: {DESCRIPTION_FILE} names "
            f"{len(description.class_names)} classes, and its network has "
            f"{model_config.num_classes}"
        )
    graphdef, params, batch_stats = load_variables(directory)
    if model_config.compute_dtype == "float32":
        graphdef, params = fold(graphdef, params, batch_stats)
    else:  # Other kernels round to other scores than those of the run's own evaluation.
        params |= batch_stats
    window = None
    if model_config.top.kind == "heatmap":
        window = model_config.top.window
    elif description.task == "patch":
        patch = (description.patch_size, description.patch_size)
        model: Any = variables.merge(graphdef, params, {})
        window, _ = feature_size(model.trunk, patch)
    return LoadedModel(
        config=config,
        model_config=model_config,
        window=window,
        graphdef=graphdef,
        params=_on_device(params),
        description=description,
    )


def _on_device(params: variables.Variables) -> variables.Variables:
    placed = jax.device_put(params)
    here = next(iter(placed.values())).sharding
    return devices.lay_out(placed, devices.formats(placed, here))


def save_variables(
    directory: Path, params: variables.Variables, batch_stats: variables.Variables
) -> None:
    """Writes `model.safetensors`: parameters and running statistics by their paths."""
    values = {name: np.asarray(value) for name, value in (params | batch_stats).items()}
    write_weights(directory / WEIGHTS_FILE, values)


def load_variables(
    directory: Path,
) -> tuple[Any, variables.Variables, variables.Variables]:
    """Reads structure, parameters and statistics of a finished run's best epoch.

    Raises:
      UserError: as `load_model`.
    """
    digest = load_description(directory).sha256
    model = abstract_model(read_model_config(read_config(directory)["model"]))
    graphdef, params, batch_stats = variables.split(model)
    path = directory / WEIGHTS_FILE
    if not path.is_file():
        raise UserError(
            f"{directory} has no {WEIGHTS_FILE}, its weights; copy it back from where "
            "the run was made, or remove its metrics.json and give its training "
            "command again"
        )
    if digest and file_digest(path, "sha256") != digest:
        raise UserError(
            f"{path} is damaged or of another model: its SHA-256 is not the one in "
            f"{DESCRIPTION_FILE}; copy both files again from where the model was made"
        )
    found = read_weights(path)
    problems = compare_shapes(_describe(found), _describe(params | batch_stats))
    if details := list_problems(problems):
        raise UserError(f"{path} is damaged or of another model: {details}")
    values = jax.device_put(found)
    return (
        graphdef,
        {name: values[name] for name in params},
        {name: values[name] for name in batch_stats},
    )


def _describe(values: Mapping[str, Any]) -> dict[str, str]:
    return {name: f"{x.dtype}{list(x.shape)}" for name, x in values.items()}
