"""Names and layouts of ImageNet weights in the libraries that publish them.

A scheme turns our name of a trunk variable into the name that the library
gives it. Every scheme covers every variable, so a file can be checked whole.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from mammo_jax.models.vgg import DEPTHS


class Scheme(NamedTuple):
    """Names and layout of one library.

    Attributes:
      title: for messages.
      wiring: of ResNet50 in that library; "" for VGG, which has one wiring.
      rename: returns the library's name for one of ours.
      transpose: True if kernels are stored as (out, in, height, width).
      ignored: pattern of the names that a trunk has no use for.
      input_std: divisor of the network's input, after the mean of ImageNet was
        subtracted from 0..255.
    """

    title: str
    wiring: str
    rename: Callable[[str], str]
    transpose: bool
    ignored: str
    input_std: tuple[float, float, float]


# Keras's weights were trained on 0..255 less a mean, torchvision's and timm's on
# (0..1 - mean) / std with this std.
_KERAS_STD = (1.0, 1.0, 1.0)
_TORCH_STD = (0.229 * 255, 0.224 * 255, 0.225 * 255)

_UNIT = re.compile(r"trunk/stage(\d)/unit(\d)/(conv|bn)(\d)")
_SHORTCUT = re.compile(r"trunk/stage(\d)/unit(\d)/shortcut_(conv|bn)")
_VGG_CONV = re.compile(r"trunk/block(\d)/conv(\d)")

_KERAS_LEAVES = {
    "conv": {"kernel": "kernel", "bias": "bias"},
    "bn": {
        "scale": "gamma",
        "bias": "beta",
        "mean": "moving_mean",
        "var": "moving_variance",
    },
}
_TORCH_LEAVES = {
    "conv": {"kernel": "weight", "bias": "bias"},
    "bn": {
        "scale": "weight",
        "bias": "bias",
        "mean": "running_mean",
        "var": "running_var",
    },
}


def _split(path: str) -> tuple[str, str, str]:
    """Returns the layer, its kind ("conv" or "bn"), and the variable's own name."""
    layer, _, leaf = path.rpartition("/")
    return layer, "bn" if "bn" in layer.rpartition("/")[2] else "conv", leaf


def _keras2017_resnet(path: str) -> str:
    layer, kind, leaf = _split(path)
    prefix = {"conv": "res", "bn": "bn"}[kind]
    if match := _UNIT.fullmatch(layer):
        stage, unit, _, index = match.groups()
        name = (
            f"{prefix}{stage}{'abcdef'[int(unit) - 1]}_branch2{'abc'[int(index) - 1]}"
        )
    elif match := _SHORTCUT.fullmatch(layer):
        stage, unit, _ = match.groups()
        name = f"{prefix}{stage}{'abcdef'[int(unit) - 1]}_branch1"
    else:
        name = {"conv": "conv1", "bn": "bn_conv1"}[kind]
    return f"{name}/{_KERAS_LEAVES[kind][leaf]}"


def _keras_resnet(path: str) -> str:
    layer, kind, leaf = _split(path)
    if match := _UNIT.fullmatch(layer):
        stage, unit, _, index = match.groups()
        name = f"conv{stage}_block{unit}_{index}_{kind}"
    elif match := _SHORTCUT.fullmatch(layer):
        stage, unit, _ = match.groups()
        name = f"conv{stage}_block{unit}_0_{kind}"
    else:
        name = f"conv1_{kind}"
    return f"{name}/{_KERAS_LEAVES[kind][leaf]}"


def _torchvision_resnet(path: str) -> str:
    layer, kind, leaf = _split(path)
    if match := _UNIT.fullmatch(layer):
        stage, unit, _, index = match.groups()
        name = f"layer{int(stage) - 1}.{int(unit) - 1}.{kind}{index}"
    elif match := _SHORTCUT.fullmatch(layer):
        stage, unit, _ = match.groups()
        place = {"conv": 0, "bn": 1}[kind]
        name = f"layer{int(stage) - 1}.{int(unit) - 1}.downsample.{place}"
    else:
        name = f"{kind}1"
    return f"{name}.{_TORCH_LEAVES[kind][leaf]}"


def _hugging_face_resnet(path: str) -> str:
    layer, kind, leaf = _split(path)
    part = {"conv": "convolution", "bn": "normalization"}[kind]
    encoder = "resnet.encoder.stages"
    if match := _UNIT.fullmatch(layer):
        stage, unit, _, index = match.groups()
        place = f"layers.{int(unit) - 1}.layer.{int(index) - 1}"
        name = f"{encoder}.{int(stage) - 2}.{place}.{part}"
    elif match := _SHORTCUT.fullmatch(layer):
        stage, unit, _ = match.groups()
        name = f"{encoder}.{int(stage) - 2}.layers.{int(unit) - 1}.shortcut.{part}"
    else:
        name = f"resnet.embedder.embedder.{part}"
    return f"{name}.{_TORCH_LEAVES[kind][leaf]}"


def _keras_vgg(path: str) -> str:
    layer, kind, leaf = _split(path)
    block, index = _VGG_CONV.fullmatch(layer).groups()  # type: ignore[union-attr]
    return f"block{block}_conv{index}/{_KERAS_LEAVES[kind][leaf]}"


def _torchvision_vgg(depths: tuple[int, ...]) -> Callable[[str], str]:
    def rename(path: str) -> str:
        layer, kind, leaf = _split(path)
        groups = _VGG_CONV.fullmatch(layer).groups()  # type: ignore[union-attr]
        block, index = int(groups[0]), int(groups[1])
        # A convolution and its ReLU are two places, each block's pool is one.
        place = 2 * (sum(depths[: block - 1]) + index - 1) + block - 1
        return f"features.{place}.{_TORCH_LEAVES[kind][leaf]}"

    return rename


_KERAS_TOPS = r"(fc\d+|predictions|avg_pool|flatten.*)/.+"
_TORCH_TOPS = r"(fc|classifier|pre_logits|head)\..+|.+\.num_batches_tracked|n_averaged"


def _keras(title: str, wiring: str, rename: Callable[[str], str]) -> Scheme:
    return Scheme(title, wiring, rename, False, _KERAS_TOPS, _KERAS_STD)


def _torch(title: str, wiring: str, rename: Callable[[str], str]) -> Scheme:
    return Scheme(title, wiring, rename, True, _TORCH_TOPS, _TORCH_STD)


# Schemes that the weights of each architecture come in.
SCHEMES: dict[str, tuple[Scheme, ...]] = {
    "resnet50": (
        _keras("Keras 2.0 names (res2a_branch2a)", "keras2017", _keras2017_resnet),
        _keras(
            "keras.applications names (conv2_block1_1_conv)", "keras", _keras_resnet
        ),
        _torch(
            "torchvision or timm names (layer1.0.conv1)",
            "torchvision",
            _torchvision_resnet,
        ),
        _torch(
            "Hugging Face names (resnet.encoder.stages.0)",
            "torchvision",
            _hugging_face_resnet,
        ),
    ),
} | {
    name: (
        _keras("Keras names (block1_conv1)", "", _keras_vgg),
        _torch("torchvision or timm names (features.0)", "", _torchvision_vgg(depths)),
    )
    for name, depths in DEPTHS.items()
}

# Axes that bring a kernel (out, in, height, width) to (height, width, in, out).
_TRANSPOSED = (2, 3, 1, 0)


def to_our_layout(value: np.ndarray, scheme: Scheme) -> np.ndarray:
    """Returns a weight as our layers keep it.

    Float32; a kernel is (height, width, in, out).
    """
    if scheme.transpose and value.ndim == 4:
        value = value.transpose(_TRANSPOSED)
    return np.ascontiguousarray(value, np.float32)


def our_shape(value: np.ndarray, scheme: Scheme) -> tuple[int, ...]:
    """Returns the shape that `to_our_layout` gives, without the work."""
    if scheme.transpose and value.ndim == 4:
        return tuple(value.shape[axis] for axis in _TRANSPOSED)
    return value.shape
