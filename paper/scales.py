"""The scales at which the rows are run: the paper's own, and a small one on phantoms.

The phantoms are drawn as the demo's (preset `phantom` in `mammo_jax.config`) at half
their height, with lesions of 9 times the contrast. The rows take CBIS-DDSM's official
split there, with a test release of as many patients as train. The settings were chosen
on phantoms of seeds 20 to 22, which no row draws.
"""

import re
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from paper.rows import PAPER_HEIGHT, Row, dataset_at

# In pixels, of the grid and of the phantoms: shrinking would skip specks.
HEIGHT = 288
_DRAWN = {"height": HEIGHT, "contrast": 9.0}
# Arguments of `mammo_jax.phantom`; the seeds differ, so that no patient is in two sets.
PHANTOMS: dict[str, dict[str, Any]] = {
    "cbis_ddsm": {"cases": 800, "test_share": 0.5, "seed": 0, **_DRAWN},
    "inbreast": {"cases": 115, "seed": 1, **_DRAWN},
    "pretraining": {"cases": 300, "test_share": 0.0, "seed": 2, **_DRAWN},
}
# Share of the channels of all layers.
WIDTH = 0.125
# On a quarter of the paper's height a quarter of its stride, so that maps have as many
# positions, and a position sees as much of the image.
STRIDE = 8
_MODEL = {
    "model.wiring": "torchvision",
    "model.zero_init_residual": True,
    "model.compute_dtype": "float32",
    "model.remat": False,
    "augment.rotation": 0.0,
    "augment.shear": 0.0,
    "augment.zoom": (1.0, 1.0),
    "data.threads": 2,
    "log_every_steps": 10,
    "early_stopping_patience": 0,
}
_WHOLE = _MODEL | {
    # New layers normalise by the batch, as in the paper; the trunk, which is trained
    # for few steps, keeps the statistics of the patches.
    "model.batch_norm": "frozen_trunk",
    "batch_size": 4,
    "accum_steps": 1,
    "eval_batch_size": 8,
    "steps_per_epoch": 120,
}
# Fields of the configuration by kind of row; a row's own win, but for those about the
# length of the training.
FIELDS: dict[str, dict[str, Any]] = {
    "patch": _MODEL | {"accum_steps": 1, "steps_per_epoch": 80, "eval_batch_size": 64},
    "whole": _WHOLE,
    # A tree may split as large a share of the images as in the paper.
    "forest": _WHOLE | {"forest.min_samples_split": 120},
    "transfer": _WHOLE | {"steps_per_epoch": 20},
}
# Epochs and the rate of every group that the paper trains, by the name of the paper's
# table of stages and the stage.
STAGES: dict[str, dict[str, tuple[int, float]]] = {
    "patch": {"stage1": (1, 1e-3), "stage2": (1, 1e-3), "stage3": (1, 1e-3)},
    "patch_s1": {"stage1": (1, 1e-3), "stage2": (1, 1e-3), "stage3": (1, 1e-3)},
    "patch_random": {"stage1": (3, 4e-3)},
    "patch_random_s1": {"stage1": (3, 4e-3)},
    "whole": {"stage1": (6, 3e-3), "stage2": (1, 1e-4)},
    "whole_extended": {"stage1": (2, 1e-4)},
    "whole_one_stage": {"stage1": (7, 3e-3)},
    "transfer": {"stage1": (3, 1e-4)},
}
# The fall of the rates of a table of stages; the row's own where it is not here.
_DECAY = dict.fromkeys(
    ("patch_random", "patch_random_s1", "whole", "whole_one_stage"), "cosine"
)
# Fields of the pretraining, and the highest learning rate of each trunk's: VGG has no
# batch normalisation and keeps the paper's.
PRETRAINING: dict[str, Any] = {
    "steps_per_epoch": 200,
    "stages.stage1.epochs": 4,
    "stages.stage1.decay": "cosine",
}
PRETRAINING_RATES = {"resnet50": 4e-3, "vgg16": 1e-3, "vgg19": 1e-3}
# The seeds that a preset runs unless told otherwise; the paper trained once.
SEEDS = {"paper": 1, "phantom": 8}
# A claim is judged from so many seeds on; on phantoms each has a trunk of its own.
FEWEST_SEEDS = {"paper": 2, "phantom": 4}

_PAPER_WIDTH, _PAPER_STRIDE = 896, 32
# When they halve, ResNet50 rounds up, VGG down.
_ROUNDS_UP = {"resnet50"}
_LEAST_CHANNELS = 4
# The scale decides how long a training is, whatever a row says.
_LENGTH = re.compile(r"early_stopping_patience|stages\.\w+\.epochs")


def apply_scale(config: ConfigDict, row: Row, folder: Path, seed: int) -> None:
    """Changes a row's configuration, without its patch stage, to the small scale.

    The row's own fields are put in last, but for those about the training's length.
    Data and weights are in `folder`. Each `seed` has a pretrained trunk of its own, so
    that what another pretraining would change is in every interval.
    """
    width = HEIGHT * _PAPER_WIDTH // PAPER_HEIGHT
    patch = HEIGHT * 224 // PAPER_HEIGHT
    config.data.data_dir = str(data_dir(folder))
    dataset = row.dataset.replace("/paper_", "/official_")
    config.data.dataset = dataset_at(dataset, HEIGHT)
    config.model.width = WIDTH
    # YaroslavNet's is twice the others'.
    stride = config.model.stride * STRIDE // _PAPER_STRIDE
    config.model.stride = stride
    config.model.image_size = (HEIGHT, width)
    top = config.model.top
    rounding = stride - 1 if row.trunk in _ROUNDS_UP else 0
    top.window = (patch + rounding) // stride
    top.blocks = tuple(_narrow(block) for block in top.blocks)
    top.fc = tuple(_channels(count) for count in top.fc)
    if row.kind == "patch":
        config.model.image_size = (patch, patch)
        weights = weights_file(folder, row.trunk, seed)
        config.pretrained = str(weights) if row.pretrained else ""
    config.update_from_flattened_dict(FIELDS[row.kind])
    if row.stages:
        _apply_stages(config, row.stages)
    own = {n: value for n, value in row.fields.items() if not _LENGTH.fullmatch(n)}
    config.update_from_flattened_dict(own)


def data_dir(folder: Path) -> Path:
    """Returns the directory of the packaged phantoms."""
    return folder / "data"


def weights_file(folder: Path, trunk: str, seed: int) -> Path:
    """Returns the file of a trunk that was pretrained on phantoms with a seed."""
    return folder / "weights" / f"{trunk}_{seed}.safetensors"


def _narrow(block: str) -> str:
    channels, _, units = block.rpartition("x")
    narrow = re.sub(r"\d+", lambda n: str(_channels(int(n[0]))), channels)
    return f"{narrow}x{units}"


def _channels(count: int) -> int:
    return max(_LEAST_CHANNELS, round(count * WIDTH))


def _apply_stages(config: ConfigDict, name: str) -> None:
    """Trains the same groups in the same stages, for fewer epochs at higher rates.

    Where the paper's groups have rates of their own, these keep their proportions.
    """
    for stage, (epochs, rate) in STAGES[name].items():
        row = config.stages[stage]
        row.epochs = epochs
        highest = max(row.rates.values())
        for group in row.rates:
            row.rates[group] *= rate / highest
        row.l2 = min(row.l2, _LARGEST_L2)
        row.warmup_epochs = min(row.warmup_epochs, float(epochs - 1))
        row.decay = _DECAY.get(name, row.decay)


# The demo's penalty; the paper's are for a hundred times as many steps.
_LARGEST_L2 = 1e-6
