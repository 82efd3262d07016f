"""The configuration: every field, with the paper's values.

`configs/*.py` put these together; any field can be overridden on the command
line (`--config.batch_size=4`).
"""

from ml_collections import ConfigDict

from mammo_jax.errors import UserError
from mammo_jax.models import default_model_config

# Section 2.2: learning rates of the layer groups and epochs of the three stages
# of patch training. 1e-3 for the last layer, 1e-4 from the top of the trunk up,
# 1e-5 for all layers.
PATCH_STAGES = {
    "stage1": {"epochs": 3, "rate": 1e-3, "groups": ("head",)},
    "stage2": {"epochs": 10, "rate": 1e-4, "groups": ("head", "top_of_trunk")},
    "stage3": {
        "epochs": 37,
        "rate": 1e-5,
        "groups": ("head", "top_of_trunk", "bottom"),
    },
}
# Section 2.3: the two stages of whole-image training, with their weight decay.
WHOLE_STAGES = {
    "stage1": {"epochs": 30, "rate": 1e-4, "groups": ("new_layers",), "l2": 1e-3},
    "stage2": {
        "epochs": 20,
        "rate": 1e-6,
        "groups": ("new_layers", "head", "top_of_trunk", "bottom"),
        "l2": 1e-2,
    },
}
_GROUPS = ("bottom", "top_of_trunk", "head", "new_layers")


def stage_table(rows: dict[str, dict]) -> ConfigDict:
    """Spells out each stage's rate for every group, so that each can be overridden."""
    return ConfigDict(
        {
            name: {
                "epochs": row["epochs"],
                "rates": {
                    group: row["rate"] if group in row["groups"] else 0.0
                    for group in _GROUPS
                },
                "l2": row.get("l2", 0.0),
            }
            for name, row in rows.items()
        }
    )


def base_config() -> ConfigDict:
    """The fields that patch and whole-image training share."""
    config = ConfigDict()
    config.seed = 0

    config.data = ConfigDict()
    config.data.data_dir = "data"
    config.data.dataset = ""
    # Which split of the dataset serves for what.
    config.data.train_split = "train"
    config.data.validation_split = "validation"
    config.data.test_split = "test"
    # Mean grey level (0..255) to subtract; -1 takes the one in the dataset.
    config.data.pixel_mean = -1.0
    config.data.threads = 4

    # Section 2.1.
    config.augment = ConfigDict()
    config.augment.rotation = 25.0
    config.augment.shear = 0.2
    config.augment.zoom = (0.8, 1.2)
    config.augment.channel_shift = 20.0
    config.augment.horizontal_flip = True
    config.augment.vertical_flip = True

    config.model = default_model_config()
    config.eval_batch_size = 2
    config.log_every_steps = 50
    # Checkpoints are written after every epoch, and this often within one; 0: never.
    config.checkpoint_every_steps = 500
    # Steps an epoch has; 0 makes it a sweep through the training set.
    config.steps_per_epoch = 0
    return config


def patch_config() -> ConfigDict:
    """The paper's patch classifier: ResNet50 on s10 (sections 2.1 and 2.2)."""
    config = base_config()
    config.task = "patch"
    config.data.dataset = "cbis_ddsm/paper_s10"
    # ImageNet weights of the trunk (safetensors); empty starts from random ones.
    config.pretrained = "weights/resnet50.safetensors"
    config.batch_size = 32
    config.accum_steps = 1
    config.eval_batch_size = 32
    config.early_stopping_patience = 5
    config.stages = stage_table(PATCH_STAGES)
    config.model.num_classes = 5
    config.model.top.kind = "patch"
    return config


def whole_config() -> ConfigDict:
    """The paper's best model: ResNet50 + two [512-512-1024]x2 (section 2.3)."""
    config = base_config()
    config.task = "whole"
    config.data.dataset = "cbis_ddsm/paper_whole"
    # A finished patch run's directory; empty trains `config.patch` first.
    config.init_from = ""
    config.batch_size = 2
    config.accum_steps = 2
    config.early_stopping_patience = 10
    config.stages = stage_table(WHOLE_STAGES)
    config.model.num_classes = 2
    config.model.top.kind = "residual"
    config.model.top.blocks = ("512-512-1024x2", "512-512-1024x2")
    config.patch = patch_config()
    share_with_patch(config)
    # Synthetic data to make first; 0 cases: the data is the user's own.
    config.phantom = ConfigDict(
        {"cases": 0, "seed": 0, "height": 1152, "contrast": 1.0}
    )
    return config


# What the patch stage of a whole-image run must have in common with it.
_SHARED = ("seed", "data.data_dir", "data.threads")
_SHARED_MODEL = (
    "trunk",
    "wiring",
    "stem",
    "width",
    "zero_init_residual",
    "compute_dtype",
    "remat",
)


def share_with_patch(config: ConfigDict) -> None:
    """Ties the patch stage's fields to the run's, so that one override serves both."""
    for name in (*_SHARED, *(f"model.{field}" for field in _SHARED_MODEL)):
        *parents, field = name.split(".")
        ours, theirs = config, config.patch
        for parent in parents:
            ours, theirs = ours[parent], theirs[parent]
        del theirs[field]
        theirs[field] = ours.get_ref(field)


# Differences from the paper's configuration, as flat fields.
PRESETS: dict[str, dict[str, object]] = {
    "paper": {},
    # Synthetic mammograms with obvious lesions at half the paper's size, and a narrow
    # trunk that starts from random values: every step of the paper's way, in minutes
    # on two CPU cores. At this size nearest-neighbour turns and zooms would wipe out
    # calcifications of a pixel or two, so of the transformations the flips and the
    # channel shift are left.
    "phantom": {
        "phantom.cases": 260,
        "phantom.contrast": 3.0,
        "data.data_dir": "data/phantom",
        "data.dataset": "cbis_ddsm/paper_whole_h576",
        "model.image_size": (576, 448),
        "model.wiring": "torchvision",
        "model.width": 0.125,
        "model.zero_init_residual": True,
        "model.batch_norm": "frozen",
        "model.top.blocks": ("64-64-128x1", "64-64-128x1"),
        "batch_size": 4,
        "steps_per_epoch": 60,
        "eval_batch_size": 8,
        "log_every_steps": 10,
        "stages.stage1.epochs": 8,
        "stages.stage1.rates.new_layers": 1e-3,
        "stages.stage1.l2": 1e-6,
        "stages.stage2.epochs": 1,
        "stages.stage2.rates.new_layers": 1e-4,
        "stages.stage2.rates.top_of_trunk": 1e-4,
        "stages.stage2.rates.bottom": 1e-4,
        "stages.stage2.l2": 1e-6,
        "patch.data.dataset": "cbis_ddsm/paper_s10_h576",
        "patch.pretrained": "",
        "patch.steps_per_epoch": 100,
        "patch.log_every_steps": 10,
        "patch.stages.stage1.epochs": 7,
        "patch.stages.stage1.rates.top_of_trunk": 1e-3,
        "patch.stages.stage1.rates.bottom": 1e-3,
        "patch.stages.stage2.epochs": 1,
        "patch.stages.stage2.rates.bottom": 1e-4,
        "patch.stages.stage3.epochs": 0,
        **{
            f"{part}augment.{field}": value
            for part in ("", "patch.")
            for field, value in (
                ("rotation", 0.0),
                ("shear", 0.0),
                ("zoom", (1.0, 1.0)),
            )
        },
    },
    # Two optimiser steps of each stage and an evaluation on the few mammograms that
    # `scripts/real_mammograms.py` lays out. They have no lesion masks, so there is
    # no patch stage, and they are all of one split, so this shows that the real
    # scale runs and nothing about accuracy.
    "real": {
        "data.data_dir": "data/real",
        "data.dataset": "cbis_ddsm/official_whole",
        "data.train_split": "test",
        "data.validation_split": "test",
        "data.pixel_mean": 52.18,
        "steps_per_epoch": 2,
        "log_every_steps": 1,
        "stages.stage1.epochs": 1,
        "stages.stage2.epochs": 1,
    },
}
# Presets that start the whole-image model from random values, without a patch stage.
_WITHOUT_PATCH = ("real",)


def apply_preset(config: ConfigDict, preset: str) -> ConfigDict:
    """`config` with a preset's differences.

    Raises:
      UserError: there is no such preset.
    """
    if preset not in PRESETS:
        raise UserError(f"there is no preset {preset!r}; choose from {[*PRESETS]}")
    if preset in _WITHOUT_PATCH:
        del config["patch"]
    config.update_from_flattened_dict(PRESETS[preset])
    return config
