"""A network's configuration: its fields, its checks, and the paper's rows."""

import dataclasses
import operator
from collections.abc import Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from mammo_jax.common.errors import UserError, refuse
from mammo_jax.models.layers import HALVINGS
from mammo_jax.models.resnet import STEMS, WIRINGS
from mammo_jax.models.tops import ACTIVATIONS, BLOCKS, parse_block
from mammo_jax.models.vgg import SIZES

# The largest width multiplier: wider layers would not fit into any memory.
MAX_WIDTH = 16

_RESIDUAL_DEFAULT = ("512-512-1024x2", "512-512-1024x2")


def _blocks(kind: str, first: str, second: str) -> dict[str, Any]:
    return {"kind": kind, "blocks": (first, second)}


def _heatmap(pool: int, *fc: int) -> dict[str, Any]:
    return {"kind": "heatmap", "pool": pool, "fc": fc}


# name: the keys of `config.top` that make a row of the paper's Table 2 or 3.
TOPS: dict[str, dict[str, Any]] = {
    "patch": {"kind": "patch", "blocks": ()},
    # Table 2, on ResNet50; the second also on VGG16, the paper's hybrid.
    "residual_512-512-2048x1": _blocks("residual", "512-512-2048x1", "512-512-2048x1"),
    "residual_512-512-1024x2": _blocks("residual", *_RESIDUAL_DEFAULT),
    "residual_256-128x1": _blocks("residual", "256-256-256x1", "128-128-128x1"),
    "residual_256-128x3": _blocks("residual", "256-256-256x3", "128-128-128x3"),
    "residual_512-256x3": _blocks("residual", "256-256-512x3", "128-128-256x3"),
    # Table 3, on VGG16 and VGG19.
    "vgg_512x3": _blocks("vgg", "512x3", "512x3"),
    "vgg_512x1": _blocks("vgg", "512x1", "512x1"),
    "vgg_256-128x3": _blocks("vgg", "256x3", "128x3"),
    "vgg_256-128x1": _blocks("vgg", "256x1", "128x1"),
    "vgg_128-64x1": _blocks("vgg", "128x1", "64x1"),
    # Both tables.
    "heatmap_5x5": _heatmap(5, 64, 32),
    "heatmap_2x2": _heatmap(2, 512, 256),
    "heatmap_1x1": _heatmap(1, 2048, 1024),
}


@dataclasses.dataclass(frozen=True)
class Top:
    """Layers that turn the trunk's features into logits.

    Attributes:
      kind: "patch", the dense layer of a patch classifier (section 2.2); of the tops
        for whole images (section 2.3) "residual", "vgg" or "heatmap".
      blocks: in the paper's notation, such as "512-512-1024x2" or "512x1"; at least
        one. Read for residual and vgg only, the rest for heatmap.
      pool: side and stride of the max-pool over the heatmap.
      fc: features of the two fully connected layers.
      activation: a key of `mammo_jax.models.tops.ACTIVATIONS`.
      window: side of a patch in the trunk's positions; 7 for 224 pixels.
    """

    kind: str = "residual"
    blocks: tuple[str, ...] = _RESIDUAL_DEFAULT
    pool: int = 5
    fc: tuple[int, int] = (64, 32)
    activation: str = "softmax"
    window: int = 7


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A checked configuration of a network, made by `read_model_config`.

    Attributes:
      trunk: "resnet50", "vgg16", "vgg19" or "yaroslav".
      wiring: a key of `mammo_jax.models.resnet.WIRINGS`, that of the ported weights;
        read for resnet50 only.
      stem: a key of `mammo_jax.models.resnet.STEMS`; read for resnet50 only. "gentle"
        keeps twice the resolution in the first layers.
      width: multiplies every number of the trunk's channels.
      stride: a key of `mammo_jax.models.layers.HALVINGS`: pixels from one position of
        the trunk's features to the next; 16 and 8 leave out its last stages, so that
        images of a half and a quarter of the paper's size give its 36x28 positions.
        YaroslavNet, and no other, goes to 64.
      zero_init_residual: True if residual units start as identities: a network of
        random values trains much faster so. The paper's Keras did not do it.
      batch_norm: a key of `BATCH_NORM`.
      batch_norm_per_device: True if each of the devices that share a microbatch
        normalises by its own images, which spares them an exchange in every layer;
        False: by the images of all, so that their number changes roundings alone.
      compute_dtype: "float32" or "bfloat16".
      remat: True if each block is computed again in the backward pass: less memory,
        more time.
      num_classes: number of logits.
      image_size: height and width of the images in pixels; the dense layers of a
        heatmap top depend on it.
      top: see `Top`.
    """

    trunk: str = "resnet50"
    wiring: str = "keras2017"
    stem: str = "standard"
    width: float = 1.0
    stride: int = 32
    zero_init_residual: bool = False
    batch_norm: str = "batch"
    batch_norm_per_device: bool = False
    compute_dtype: str = "float32"
    remat: bool = False
    num_classes: int = 2
    image_size: tuple[int, int] = (1152, 896)
    top: Top = Top()


def default_model_config() -> ConfigDict:
    """Returns ResNet50 with two [512-512-1024]x2 blocks, the paper's best model."""
    return ConfigDict(dataclasses.asdict(ModelConfig()))


class BatchStatistics(NamedTuple):
    """The layers that normalise by the batch's statistics in training.

    The others use their running statistics in training as in evaluation, and leave
    them as they are.
    """

    trunk: bool
    top: bool


BATCH_NORM = {
    # The paper's Keras.
    "batch": BatchStatistics(trunk=True, top=True),
    # For small batches: the trunk computes what it computed for the patches.
    "frozen_trunk": BatchStatistics(trunk=False, top=True),
    # Accumulated microbatches then equal the whole batch exactly.
    "frozen": BatchStatistics(trunk=False, top=False),
}

CHOICES: dict[str, tuple[str | int, ...]] = {
    "trunk": ("resnet50", *SIZES),
    "wiring": tuple(WIRINGS),
    "stem": tuple(STEMS),
    "stride": tuple(HALVINGS),
    "batch_norm": tuple(BATCH_NORM),
    "compute_dtype": ("float32", "bfloat16"),
    "top.kind": ("patch", *BLOCKS, "heatmap"),
    "top.activation": tuple(ACTIVATIONS),
}
# The smallest value of each number; a softmax over one class says nothing.
_LEAST = {"num_classes": 2, "top.pool": 1, "top.window": 1}
_MOST_BLOCKS = 16
# Pairs of whole numbers from 1 on.
_PAIRS = ("image_size", "top.fc")


def read_model_config(
    fields: ConfigDict | Mapping[str, Any], name: str = "config.model"
) -> ModelConfig:
    """Checks a user's fields and freezes them.

    Args:
      fields: keys of `default_model_config`; keys left out keep their default.
      name: prefix of the fields in messages.

    Raises:
      UserError: an unknown key, or a value that is not one of the choices, out of
        range or no block.
    """
    full = _put_over_defaults(fields, name)
    value = {
        key: operator.attrgetter(key)(full) for key in (*CHOICES, *_LEAST, *_PAIRS)
    }
    blocks = full.top.blocks if full.top.kind in BLOCKS else None
    refuse(
        {
            f"{name}.{key} is {value[key]!r}; it must be one of "
            f"{', '.join(map(str, choices))}": value[key] not in choices
            for key, choices in CHOICES.items()
        }
        | {
            f"{name}.{key} is {value[key]}; it must be at least {least}": (
                value[key] < least
            )
            for key, least in _LEAST.items()
        }
        | {
            f"{name}.{key} is {pair}; it must be 2 whole numbers above 0": (
                [type(n) is int and n > 0 for n in pair] != [True, True]
            )
            for key, pair in ((key, tuple(value[key])) for key in _PAIRS)
        }
        | {
            f"{name}.stride is 64, which only the trunk yaroslav has": (
                full.stride == 64 and full.trunk != "yaroslav"
            ),
            f"{name}.width is {full.width}; it must be above 0, at most {MAX_WIDTH}": (
                not 0 < full.width <= MAX_WIDTH
            ),
            f"{name}.top.blocks is empty, but {name}.top.kind is {full.top.kind!r}": (
                blocks == ()
            ),
            f"{name}.top.blocks are more than {_MOST_BLOCKS}": (
                len(blocks or ()) > _MOST_BLOCKS
            ),
        }
    )
    for block in blocks or ():
        parse_block(full.top.kind, block, f"{name}.top.blocks")
    values = full.to_dict()
    return ModelConfig(**{**values, "top": Top(**values["top"])})


def _put_over_defaults(fields: ConfigDict | Mapping[str, Any], name: str) -> ConfigDict:
    """Puts the fields over the defaults, each of its default's type."""
    full = default_model_config().lock()
    plain = fields.to_dict() if isinstance(fields, ConfigDict) else dict(fields)
    if not isinstance(plain.get("top", {}), Mapping):
        raise UserError(f"{name}.top is {plain['top']!r}; it must be a table of fields")
    try:
        full.update(plain)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        first_line = str(error.args[0]).partition("\n")[0]
        raise UserError(f"{name}: {first_line}") from None
    # ConfigDict takes None in the place of every type.
    tables = {name: full, f"{name}.top": full.top}
    refuse(
        {
            f"{table}.{key} has no value": value is None
            for table, values in tables.items()
            for key, value in values.items()
        }
    )
    return full
