"""A run's settings: its configuration, checked once, before any work."""

import dataclasses
import operator
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from mammo_jax.common.errors import UserError, refuse
from mammo_jax.datasets.augment import Augmentation
from mammo_jax.datasets.pipeline import Dataset, open_dataset
from mammo_jax.images.grid import Grid
from mammo_jax.models.model_config import (
    BATCH_NORM,
    CHOICES,
    ModelConfig,
    default_model_config,
    read_model_config,
)
from mammo_jax.training.stages import Stage, read_stages
from mammo_jax.weights.published import download_name

# The smallest value of each number; 0 steps an epoch mean a whole sweep.
_LEAST = {
    "seed": 0,
    "data.threads": 0,
    "data.workers": 0,
    "batch_size": 1,
    "accum_steps": 1,
    "eval_batch_size": 1,
    "log_every_steps": 1,
    "steps_per_epoch": 0,
    "checkpoint_minutes": 0,
    "early_stopping_patience": 0,
    "devices.data": 1,
    "devices.spatial": 1,
    "ema_decay": 0,
}


_DEFAULT_SIZE = default_model_config().image_size


class Task(NamedTuple):
    """Meaning of a task's labels."""

    malignant_classes: tuple[int, ...]
    score: str  # validation figure that picks the best epoch


TASKS = {"patch": Task((2, 4), "accuracy"), "whole": Task((1,), "auc")}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Checked settings of a run; whoever has them need not check again."""

    config: ConfigDict
    model: ModelConfig
    stages: tuple[Stage, ...]
    augmentation: Augmentation
    patch: "Settings | None" = None  # those of the patch classifier to train first

    @property
    def task(self) -> Task:
        """Meaning of the labels."""
        return TASKS[self.config.task]


def read_settings(config: ConfigDict, name: str = "config") -> Settings:
    """Checks a run's configuration, and that of the patch stage within it.

    `name` is the prefix of its fields on the command line.

    Raises:
      UserError: a field has no value that can run; names it and the allowed values.
    """
    if config.task not in TASKS:
        raise UserError(f"{name}.task is {config.task!r}; it must be one of {[*TASKS]}")
    values = {field: operator.attrgetter(field)(config) for field in _LEAST}
    refuse(
        {
            f"{name}.{field} is {values[field]}; it must be at least {least}": (
                values[field] < least
            )
            for field, least in _LEAST.items()
        }
    )
    model = read_model_config(config.model, f"{name}.model")
    _check_pretrained(config.get("pretrained"), model, name)
    zoom = tuple(config.augment.zoom)
    microbatch = config.batch_size // config.accum_steps
    cut = f"a microbatch ({name}.batch_size / {name}.accum_steps)"
    by_batch = model.top.kind == "heatmap" and BATCH_NORM[model.batch_norm].top
    together = config.devices.data if model.batch_norm_per_device else 1
    uneven = (
        f"images, which is not divisible by {name}.devices.data ({config.devices.data})"
    )
    refuse(
        {
            f"{name}.model.top.kind is 'patch', but {name}.task is 'whole'; choose "
            "a top for whole images, such as 'residual'": (
                config.task == "whole" and model.top.kind == "patch"
            ),
            f"{name}.ema_decay is {config.ema_decay}; it must be below 1": (
                config.ema_decay >= 1
            ),
            f"{name}.augment.zoom is {zoom}; it must be (lowest, highest)": (
                len(zoom) != 2
                or not all(isinstance(factor, int | float) for factor in zoom)
                or not 0 < zoom[0] <= zoom[1]
            ),
            f"{name}.batch_size ({config.batch_size}) is not divisible by "
            f"{name}.accum_steps ({config.accum_steps})": (
                config.batch_size % config.accum_steps
            ),
            f"{cut} has 1 image{' a device' * (together > 1)}, but the fully connected "
            "layers of a heatmap top normalise over its images and need 2; let "
            f"{name}.batch_size be {2 * config.accum_steps * together} or more, or set "
            f"{name}.model.batch_norm=frozen": by_batch and microbatch == together,
            f"{cut} has {microbatch} {uneven}": microbatch % config.devices.data,
            f"{name}.eval_batch_size has {config.eval_batch_size} {uneven}": (
                config.eval_batch_size % config.devices.data
            ),
        }
    )
    patch_first = config.task == "whole" and not config.init_from and "patch" in config
    return Settings(
        config=config,
        model=model,
        stages=read_stages(config.stages, f"{name}.stages"),
        augmentation=Augmentation(**{**config.augment.to_dict(), "zoom": zoom}),
        patch=read_settings(config.patch, f"{name}.patch") if patch_first else None,
    )


def _check_pretrained(path: str | None, model: ModelConfig, name: str) -> None:
    if path and not Path(path).expanduser().is_file():
        key = download_name(model.trunk, model.wiring)
        file = Path(path)
        others = {str(trunk) for trunk in CHOICES["trunk"]} - {model.trunk}
        if any(trunk in file.name for trunk in others):  # As the default's may be.
            file = file.with_name(f"{model.trunk}.safetensors")
        get = f"mammo-jax convert-weights --download={key} --out={file}"
        if file != Path(path):
            get += f" and set the field to {file}"
        raise UserError(
            f"{name}.pretrained: there is no weight file {path}; "
            + f"get it with {get}, or " * bool(key)
            + "set the field to '' for random values"
        )


def open_data(settings: Settings) -> Dataset:
    """Opens the data set of a run and checks it against the run's settings.

    Raises:
      UserError: the data set is not built, lacks a split, or has other classes, fewer
        images than a batch, or another image size than a heatmap model.
    """
    config, model = settings.config, settings.model
    dataset = open_dataset(config.data.dataset, config.data.data_dir)
    refuse(
        {
            f"config.data.{field} is {config.data[field]!r}, but {dataset.name} in "
            f"{config.data.data_dir} has the splits {sorted(dataset.sources)}": (
                config.data[field] not in dataset.sources
            )
            for field in ("train_split", "validation_split", "test_split")
        }
    )
    names, (height, width) = dataset.class_names, dataset.image_shape
    spatial, train = config.devices.spatial, config.data.train_split
    examples = len(dataset.sources[train])
    refuse(
        {
            f"{dataset.name} has {len(names)} classes {[*names]}, but "
            f"config.model.num_classes is {model.num_classes}": (
                len(names) != model.num_classes
            ),
            # Every other model averages over however many positions there are.
            f"the images of {dataset.name} are {height}x{width}, but "
            f"config.model.image_size is {model.image_size}; set it to theirs, or name "
            "other images": config.task == "whole"
            and model.image_size != (height, width)
            and (model.top.kind == "heatmap" or model.image_size != _DEFAULT_SIZE),
            f"the {height} rows of {dataset.name} cannot be spread evenly over "
            f"config.devices.spatial ({spatial}) devices": height % spatial,
            f"the split {train!r} of {dataset.name} has {examples} examples, fewer "
            f"than config.batch_size ({config.batch_size})": (
                examples < config.batch_size
            ),
        }
    )
    return dataset


def check_grid(grid: Grid, dataset: Dataset, what: str) -> None:
    """Refuses to go on from a model of mammograms of another size than the data's.

    Raises:
      UserError: names both sizes.
    """
    there, here = (f"{x.height}x{x.width}" for x in (grid, dataset.grid))
    refuse(
        {
            f"{what} saw mammograms of {there}, and those of {dataset.name} are "
            f"{here}; a lesion would be of another size than it has learned": (
                there != here
            )
        }
    )
