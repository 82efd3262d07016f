"""Writes the directories of finished runs of tiny, untrained models, for the tests."""

from pathlib import Path

from ml_collections import ConfigDict

from mammo_jax.common import run_directory
from mammo_jax.config import patch_config, whole_config
from mammo_jax.datasets.labels import PATCH_CLASSES, WHOLE_CLASSES
from mammo_jax.models import build_model, read_model_config, variables
from mammo_jax.weights.model_description import (
    FILM,
    FOR_PRESENTATION,
    Description,
    save_description,
)
from mammo_jax.weights.model_directory import save_variables

HEIGHT, WIDTH = 128, 96
MEAN = 30.0


def make_config(task: str = "whole", **model: object) -> ConfigDict:
    """Returns a configuration whose model computes in milliseconds."""
    config = {"whole": whole_config, "patch": patch_config}[task]()
    config.eval_batch_size = 2
    config.model.trunk, config.model.width = "vgg16", 1 / 16
    config.model.image_size = (HEIGHT, WIDTH)
    config.model.top.window = 2
    (config.patch if task == "whole" else config).pretrained = ""
    if task == "whole":
        config.model.top.blocks = ("4-4-8x1",)
    config.model.update(model)
    return config


def write_run(
    directory: Path,
    task: str = "whole",
    *,
    seed: int = 0,
    stretch: bool = False,
    size: tuple[int, int] = (HEIGHT, WIDTH),
    **model: object,
):
    """Writes a finished run into `directory`; returns its model."""
    config = make_config(task, **model)
    network = build_model(read_model_config(config.model), seed)
    _, params, stats = variables.split(network)
    directory.mkdir(parents=True)
    run_directory.write_json(directory / "config.json", run_directory.as_json(config))
    run_directory.write_json(directory / "metrics.json", {})
    save_variables(directory, params, stats)
    is_patch = task == "patch"
    save_description(
        directory,
        Description(
            task=task,
            dataset="made/up",
            class_names=PATCH_CLASSES if is_patch else WHOLE_CLASSES,
            malignant_classes=(2, 4) if is_patch else (1,),
            pixel_mean=MEAN,
            height=size[0],
            width=size[1],
            stretch=stretch,
            intent=FOR_PRESENTATION if stretch else FILM,
            patch_size=64 if is_patch else 0,
        ),
    )
    return network
