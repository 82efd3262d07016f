"""Names and layouts of ImageNet weights in the libraries that publish them.

A scheme turns our name of a trunk variable into the name that the library
gives it. Every scheme covers every variable, so a file can be checked whole.
"""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from mammo_jax.models.vgg import DEPTHS

# Returns a library's name of a layer: its kind ("conv" or "bn"), its stage (VGG: block)
# and unit, and its number there. Stage 0 is the layers before stage 2 of ResNet50,
# number 0 the layers of a shortcut.
LayerName = Callable[[str, int, int, int], str]

_VARIABLE = re.compile(
    r"trunk/(?:(?:stage|block)(\d)/)?(?:unit(\d)/)?(?:shortcut_)?(conv|bn)(\d?)/(\w+)"
)


class Library(NamedTuple):
    """Conventions of a library."""

    leaves: Mapping[str, str]  # its names of a layer's variables
    transpose: bool  # kernels are stored as (out, in, height, width)
    ignored: str  # pattern of the names that a trunk has no use for
    # Divisor of the network's input, after ImageNet's mean was subtracted from 0..255.
    input_std: tuple[float, float, float]


class Scheme(NamedTuple):
    """Names of a trunk's variables in one library."""

    title: str  # for messages
    wiring: str  # of ResNet50 in that library; "" for VGG, which has one wiring
    library: Library
    layer: LayerName

    def rename(self, name: str) -> str:
        """Returns the library's name of one of our variables."""
        match = _VARIABLE.fullmatch(name)
        assert match is not None, name
        stage, unit, kind, number, leaf = match.groups()
        layer = self.layer(kind, int(stage or 0), int(unit or 0), int(number or 0))
        return layer + self.library.leaves[f"{kind}/{leaf}"]

    def to_our_layout(self, value: np.ndarray) -> np.ndarray:
        """Returns a view of a weight whose kernels are (height, width, in, out)."""
        is_kernel = self.library.transpose and value.ndim == 4
        return value.transpose(2, 3, 1, 0) if is_kernel else value


# Keras's weights were trained on 0..255 less a mean.
_KERAS = Library(
    leaves={
        "conv/kernel": "/kernel",
        "conv/bias": "/bias",
        "bn/scale": "/gamma",
        "bn/bias": "/beta",
        "bn/mean": "/moving_mean",
        "bn/var": "/moving_variance",
    },
    transpose=False,
    ignored=r"(fc\d+|predictions|avg_pool|flatten.*)/.+",
    input_std=(1.0, 1.0, 1.0),
)
# torchvision's and timm's were trained on (0..1 - mean) / std.
_TORCH = Library(
    leaves={
        "conv/kernel": ".weight",
        "conv/bias": ".bias",
        "bn/scale": ".weight",
        "bn/bias": ".bias",
        "bn/mean": ".running_mean",
        "bn/var": ".running_var",
    },
    transpose=True,
    ignored=r"(fc|classifier|pre_logits|head)\..+|.+\.num_batches_tracked|n_averaged",
    input_std=(0.229 * 255, 0.224 * 255, 0.225 * 255),
)


def _keras2017(kind: str, stage: int, unit: int, number: int) -> str:
    if not stage:
        return {"conv": "conv1", "bn": "bn_conv1"}[kind]
    branch = f"2{'abc'[number - 1]}" if number else "1"
    return f"{kind.replace('conv', 'res')}{stage}{'abcdef'[unit - 1]}_branch{branch}"


def _keras(kind: str, stage: int, unit: int, number: int) -> str:
    return f"conv{stage}_block{unit}_{number}_{kind}" if stage else f"conv1_{kind}"


def _torchvision(kind: str, stage: int, unit: int, number: int) -> str:
    if not stage:
        return f"{kind}1"
    shortcut = {"conv": "downsample.0", "bn": "downsample.1"}[kind]
    place = f"{kind}{number}" if number else shortcut
    return f"layer{stage - 1}.{unit - 1}.{place}"


def _hugging_face(kind: str, stage: int, unit: int, number: int) -> str:
    part = {"conv": "convolution", "bn": "normalization"}[kind]
    if not stage:
        return f"resnet.embedder.embedder.{part}"
    place = f"layer.{number - 1}" if number else "shortcut"
    return f"resnet.encoder.stages.{stage - 2}.layers.{unit - 1}.{place}.{part}"


def _keras_vgg(kind: str, stage: int, unit: int, number: int) -> str:
    return f"block{stage}_conv{number}"


def _torchvision_vgg(depths: tuple[int, ...]) -> LayerName:
    def layer(kind: str, stage: int, unit: int, number: int) -> str:
        # A convolution and its ReLU are two places, each block's pool is one.
        place = 2 * (sum(depths[: stage - 1]) + number - 1) + stage - 1
        return f"features.{place}"

    return layer


# Schemes that the weights of each architecture come in.
SCHEMES: dict[str, tuple[Scheme, ...]] = {
    "resnet50": (
        Scheme("Keras 2.0 names (res2a_branch2a)", "keras2017", _KERAS, _keras2017),
        Scheme(
            "keras.applications names (conv2_block1_1_conv)", "keras", _KERAS, _keras
        ),
        Scheme(
            "torchvision or timm names (layer1.0.conv1)",
            "torchvision",
            _TORCH,
            _torchvision,
        ),
        Scheme(
            "Hugging Face names (resnet.encoder.stages.0)",
            "torchvision",
            _TORCH,
            _hugging_face,
        ),
    ),
} | {
    name: (
        Scheme("Keras names (block1_conv1)", "", _KERAS, _keras_vgg),
        Scheme(
            "torchvision or timm names (features.0)",
            "",
            _TORCH,
            _torchvision_vgg(depths),
        ),
    )
    for name, depths in DEPTHS.items()
}
