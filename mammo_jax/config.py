"""The configuration: every field, with the paper's values.

`configs/*.py` put these together; any field can be overridden on the command
line (`--config.batch_size=4`).
"""

from typing import Any

from ml_collections import ConfigDict

from mammo_jax.common.errors import UserError
from mammo_jax.models import TOPS, default_model_config
from mammo_jax.models.groups import GROUPS


def _all_layers(rate: float) -> dict[str, float]:
    return dict.fromkeys(GROUPS, rate)


def _patch_stages(*epochs: int) -> dict[str, dict[str, Any]]:
    """Returns the stages of section 2.2, which train from the last layer down."""
    rates = (
        {"head": 1e-3},
        {"head": 1e-4, "top_of_trunk": 1e-4},
        {"head": 1e-5, "top_of_trunk": 1e-5, "bottom": 1e-5},
    )
    return {
        f"stage{number}": {"epochs": length, "rates": rates}
        for number, (length, rates) in enumerate(zip(epochs, rates, strict=True), 1)
    }


# All layers at the lowest rate, for the additional epochs of section 3.2.
_FINE_TUNING = {"stage1": {"epochs": 200, "rates": _all_layers(1e-6), "l2": 1e-2}}

# The stages of a training, one a row: epochs, the learning rates of the layer groups
# that are trained, the L2 penalty on the new layers' kernels.
STAGES: dict[str, dict[str, dict[str, Any]]] = {
    "patch": _patch_stages(3, 10, 37),
    # s1 is a tenth of s10's size: 200 epochs, the stages in proportion.
    "patch_s1": _patch_stages(12, 40, 148),
    # Networks of random values.
    "patch_random": {"stage1": {"epochs": 50, "rates": _all_layers(1e-3)}},
    "patch_random_s1": {"stage1": {"epochs": 200, "rates": _all_layers(1e-3)}},
    # Section 2.3: two stages of whole-image training.
    "whole": {
        "stage1": {"epochs": 30, "rates": {"new_layers": 1e-4}, "l2": 1e-3},
        "stage2": {"epochs": 20, "rates": _all_layers(1e-6), "l2": 1e-2},
    },
    # The hybrid trained on.
    "whole_extended": _FINE_TUNING,
    # A trained whole-image classifier on another set of images.
    "transfer": _FINE_TUNING,
    # For the preset of phantoms: few steps, at higher rates.
    "patch_phantom": {
        "stage1": {
            "epochs": 5,
            "rates": _all_layers(4e-3) | {"new_layers": 1e-3},
            "decay": "cosine",
        }
    },
    "whole_phantom": {
        # In so few steps the new layers are only done if their rate is high and falls.
        "stage1": {
            "epochs": 12,
            "rates": {"new_layers": 3e-3},
            "l2": 1e-6,
            "decay": "cosine",
        },
        "stage2": {
            "epochs": 1,
            "rates": _all_layers(1e-4) | {"head": 1e-6},
            "l2": 1e-6,
            "decay": "cosine",
        },
    },
    # The paper has no such stages: every group has its own rate from the first step,
    # which layer groups make possible and frozen layers only imitate.
    "patch_one_stage": {
        "stage1": {
            "epochs": 50,
            "rates": {"head": 1e-3, "top_of_trunk": 1e-4, "bottom": 1e-5},
            "warmup_epochs": 1,
            "decay": "cosine",
        }
    },
    "whole_one_stage": {
        "stage1": {
            "epochs": 50,
            "rates": _all_layers(1e-6) | {"new_layers": 1e-4, "top_of_trunk": 1e-5},
            "l2": 1e-3,
            "warmup_epochs": 1,
            "decay": "cosine",
        }
    },
}

# Table 2: the random forest on heatmaps, for `config.model.top.kind = "forest"`.
FOREST = {"trees": 500, "max_depth": 9, "min_samples_split": 300}


def stage_table(name: str) -> ConfigDict:
    """Returns a table of stages with every field and every group's rate spelt out."""
    rows = {
        stage: {
            "epochs": row["epochs"],
            "rates": _all_layers(0.0) | row["rates"],
            "l2": row.get("l2", 0.0),
            "warmup_epochs": float(row.get("warmup_epochs", 0)),
            "decay": row.get("decay", "constant"),
        }
        for stage, row in STAGES[name].items()
    }
    return ConfigDict(rows)


def base_config() -> ConfigDict:
    """Returns the fields that patch and whole-image training share."""
    config = ConfigDict()
    config.seed = 0

    config.data = ConfigDict()
    config.data.data_dir = "data"
    config.data.dataset = ""
    # The splits of the dataset that serve for training, validation and test.
    config.data.train_split = "train"
    config.data.validation_split = "validation"
    config.data.test_split = "test"
    # Mean grey level (0..255) to subtract; -1 takes the one in the dataset.
    config.data.pixel_mean = -1.0
    # Threads that read images; 0: as many as there are cores.
    config.data.threads = 0
    # Processes that read training images, which share the threads; 0: this one reads.
    # Batches do not depend on either.
    config.data.workers = 0

    # Section 2.1.
    config.augment = ConfigDict()
    config.augment.rotation = 25.0
    config.augment.shear = 0.2
    config.augment.zoom = (0.8, 1.2)
    config.augment.channel_shift = 20.0
    config.augment.horizontal_flip = True
    config.augment.vertical_flip = True

    config.model = default_model_config()
    # Every stage starts its optimiser anew, as the paper's Keras did; False carries
    # the moments of the groups that the stage before trained as well.
    config.reset_optimizer = True
    # The decay of the parameters' moving averages, which then are validated, tested
    # and saved; 0 keeps none, as in the paper.
    config.ema_decay = 0.0
    # Devices over which a microbatch's images, and the rows of an image, are spread.
    config.devices = ConfigDict({"data": 1, "spatial": 1})
    # Compile for a GPU without operations whose result may change from call to call.
    config.deterministic = False
    # Stop at the operation that gives the first value that is no number (slow).
    config.debug_nans = False
    # Trace a few steps for TensorBoard's profile page.
    config.profile = False
    config.eval_batch_size = 2
    # Average the scores of the four flips of each image (section 4).
    config.tta = False
    config.log_every_steps = 50
    # Checkpoints are written after every epoch, and within one after a step that ends
    # this many minutes or more after the last; 0: after every step. Several processes
    # look at the clock after every tenth step.
    config.checkpoint_minutes = 10.0
    # Steps of an epoch; 0 makes it a sweep through the training set.
    config.steps_per_epoch = 0
    return config


def patch_config() -> ConfigDict:
    """Returns the paper's patch classifier: ResNet50 on s10 (sections 2.1, 2.2)."""
    config = base_config()
    config.task = "patch"
    config.data.dataset = "cbis_ddsm/paper_s10"
    # ImageNet weights of the trunk (safetensors); empty starts from random ones.
    config.pretrained = "weights/resnet50.safetensors"
    config.batch_size = 32
    config.accum_steps = 1
    config.eval_batch_size = 32
    config.early_stopping_patience = 5
    config.stages = stage_table("patch")
    config.model.num_classes = 5
    config.model.top.kind = "patch"
    return config


def whole_config() -> ConfigDict:
    """Returns the paper's best model: ResNet50, two [512-512-1024]x2 (section 2.3)."""
    config = base_config()
    config.task = "whole"
    config.data.dataset = "cbis_ddsm/paper_whole"
    # The directory of a finished run, or hf://OWNER/NAME, to start from. A patch
    # classifier gives its trunk, a whole-image classifier its whole design; the fields
    # of `config.model` need not be set and must not contradict it. Empty trains
    # `config.patch` first.
    config.init_from = ""
    # Finished whole-image runs on the same dataset, with commas between: their scores
    # of the validation and test images are averaged with this run's (section 4).
    config.ensemble = ""
    config.batch_size = 2
    # Microbatches that a batch is cut into, for cards with little memory; batch
    # normalisation then sees fewer images.
    config.accum_steps = 1
    config.early_stopping_patience = 10
    config.stages = stage_table("whole")
    config.patch = patch_config()
    share_with_patch(config)
    # Synthetic data to make first; 0 cases: the data is the user's own.
    config.phantom = ConfigDict(
        {"cases": 0, "seed": 0, "height": 1152, "contrast": 1.0, "test_share": 0.2}
    )
    return config


def set_top(config: ConfigDict, name: str) -> None:
    """Gives a whole-image configuration a top of the paper's tables."""
    config.model.top.update(TOPS[name])


# The fields that the patch stage of a whole-image run must have in common with it.
_SHARED = {
    "": (
        "seed",
        "reset_optimizer",
        "ema_decay",
        "deterministic",
        "debug_nans",
        "profile",
    ),
    "data": ("data_dir", "threads", "workers"),
    "devices": ("data",),
}
# The fields of `config.model` that they need not have in common.
_OWN_MODEL = ("batch_norm", "image_size", "num_classes", "top")


def share_with_patch(config: ConfigDict) -> None:
    """Ties the patch stage's fields to the run's, so that one override serves both."""
    model = tuple(field for field in config.model if field not in _OWN_MODEL)
    for part, fields in {**_SHARED, "model": model}.items():
        ours, theirs = (x[part] if part else x for x in (config, config.patch))
        for field in fields:
            del theirs[field]
            theirs[field] = ours.get_ref(field)


_FLIPS_ONLY = {"rotation": 0.0, "shear": 0.0, "zoom": (1.0, 1.0)}

# Differences from the paper's configuration, as flat fields; `stages` names a table.
PRESETS: dict[str, dict[str, object]] = {
    "paper": {},
    # Synthetic mammograms with obvious lesions at half the paper's size, and a narrow
    # trunk that starts from random values: every step of the paper's way, in minutes
    # on two CPU cores. The trunk ends a stage early, so that a position sees as much
    # of a patch as in the paper. At this size nearest-neighbour turns and zooms would
    # wipe out calcifications of a pixel or two, so of the transformations the flips
    # and the channel shift are left.
    "phantom": {
        "phantom.cases": 600,
        "phantom.contrast": 6.0,
        # Drawn at the grid's size: shrinking would skip specks.
        "phantom.height": 576,
        # The paper's split takes its test patients from the training release.
        "phantom.test_share": 0.0,
        "data.data_dir": "data/phantom",
        "data.dataset": "cbis_ddsm/paper_whole_h576",
        "model.image_size": (576, 448),
        "model.wiring": "torchvision",
        "model.width": 0.125,
        "model.stride": 16,
        "model.zero_init_residual": True,
        # The trunk, trained for few steps, keeps the statistics of the patches.
        "model.batch_norm": "frozen_trunk",
        "model.top.blocks": ("64-64-128x1", "64-64-128x1"),
        "batch_size": 4,
        "steps_per_epoch": 120,
        "eval_batch_size": 8,
        "log_every_steps": 10,
        "stages": "whole_phantom",
        "patch.data.dataset": "cbis_ddsm/paper_s10_h576",
        "patch.pretrained": "",
        "patch.steps_per_epoch": 240,
        "patch.log_every_steps": 10,
        "patch.stages": "patch_phantom",
        **{
            f"{part}augment.{field}": value
            for part in ("", "patch.")
            for field, value in _FLIPS_ONLY.items()
        },
    },
    # Section 2.2: patches centred on the lesions only.
    "s1": {"patch.data.dataset": "cbis_ddsm/paper_s1", "patch.stages": "patch_s1"},
    # Section 2.2: without ImageNet's weights.
    "from_scratch": {"patch.pretrained": "", "patch.stages": "patch_random"},
    "one_stage": {"stages": "whole_one_stage", "patch.stages": "patch_one_stage"},
    # Half the memory traffic on a card with units for bfloat16; parameters, statistics,
    # losses and the optimiser stay float32.
    "fast": {"model.compute_dtype": "bfloat16"},
    # Section 3.2: the trained classifier in `init_from` on INbreast. The paper's
    # figures are of the validation images; it names 200 epochs, no early stopping.
    "inbreast": {
        "data.dataset": "inbreast/whole",
        "data.test_split": "validation",
        "init_from": "runs/whole_res",
        "early_stopping_patience": 0,
        "stages": "transfer",
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
    # The original resolution, which the paper left to the future (section 5), on a
    # card of 8 GB: one image at a time, in bfloat16, its layers recomputed. A patch
    # shows the same part of the breast as in the paper. On VGG16, the paper's hybrid:
    # --config.model.trunk=vgg16, with that trunk's weights in config.patch.pretrained
    # ('' for random ones). With VGG blocks besides: --config.model.top.kind=vgg
    # --config.model.top.blocks="('512x1', '512x1')".
    "full_resolution": {
        "data.dataset": "cbis_ddsm/paper_whole_h4608",
        "model.image_size": (4608, 3584),
        "model.compute_dtype": "bfloat16",
        "model.remat": True,
        "model.top.window": 28,
        "accum_steps": 2,
        "eval_batch_size": 1,
        "patch.data.dataset": "cbis_ddsm/paper_s10_h4608",
        "patch.accum_steps": 4,
        "patch.eval_batch_size": 8,
        "patch.model.top.window": 28,
    },
    # YaroslavNet of the authors' later code, from random values: its features are at
    # every 64th pixel, so a patch is 3 of them wide. The size of the pool is ours.
    "yaroslav": {
        "model.trunk": "yaroslav",
        "model.stride": 64,
        "model.top.kind": "heatmap",
        "model.top.activation": "relu",
        "model.top.window": 3,
        "model.top.pool": 2,
        "model.top.fc": (16, 8),
        "patch.model.top.window": 3,
        "patch.pretrained": "",
        "patch.stages": "patch_random",
    },
}
# Presets without a patch stage.
WITHOUT_PATCH = ("inbreast", "real")


def apply_preset(config: ConfigDict, preset: str) -> ConfigDict:
    """Puts a preset's differences into `config`, and returns it.

    Raises:
      UserError: there is no such preset.
    """
    if preset not in PRESETS:
        raise UserError(f"there is no preset {preset!r}; choose from {[*PRESETS]}")
    if preset in WITHOUT_PATCH:
        del config["patch"]
    differences = dict(PRESETS[preset])
    for part, prefix in ((config, ""), (config.get("patch"), "patch.")):
        table = differences.pop(f"{prefix}stages", None)
        if table:
            part.stages = stage_table(str(table))
    config.update_from_flattened_dict(differences)
    return config
