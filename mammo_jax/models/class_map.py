"""Class maps: the log-odds of malignancy at every position of an image.

The all-convolutional models average their last features over all positions and apply
a dense layer, which is linear: the same layer applied at each position gives a class
activation map (Zhou et al., "Learning Deep Features for Discriminative Localization",
2016), and the mean of the map over all positions is the image's own log-odds. Patch
classifiers, alone or below a heatmap top, are slid over the image (section 2.3).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from jaxtyping import Array, Float, UInt16

from mammo_jax.datasets.labels import PATCH_CLASSES
from mammo_jax.models import variables
from mammo_jax.models.classifier import abstract_model
from mammo_jax.models.flips import on_flips
from mammo_jax.models.model_config import ModelConfig
from mammo_jax.models.network_input import network_input

_MALIGNANT_PATCHES = [
    index for index, name in enumerate(PATCH_CLASSES) if name.endswith("_malignant")
]
# Kinds of tops whose class map is of the patch classes.
PATCH_KINDS = ("patch", "heatmap")
# The log-odds that an overlay shows in full: 50 to 1.
_CERTAIN = np.log(50.0)


class ClassMaps(NamedTuple):
    """Scores and class maps of whole images."""

    scores: Float[Array, "*flips batch"]  # probability of malignancy, 0..1
    maps: Float[Array, "*flips batch rows columns"]  # its log-odds at every position


ClassMapStep = Callable[[Any, Any, UInt16[Array, "batch height width"]], ClassMaps]


def make_class_map_step(
    graphdef: Any,
    *,
    window: int | None,
    pixel_mean: float,
    malignant_classes: Sequence[int],
    flips: Sequence[tuple[int, ...]],
    at_once: bool,
) -> ClassMapStep:
    """Makes the step from whole images to scores and maps; it is not jitted.

    Args:
      graphdef: structure of the model.
      window: side of the window that a patch classifier is slid with, in the trunk's
        positions; None for a model that has none.
      pixel_mean: mean that the model was trained with, on the scale 0..255.
      malignant_classes: indices of the model's outputs that mean malignancy.
      flips: see `mammo_jax.models.flips`; there is an axis of flips before the batch,
        and a map of a flipped image lies as the flipped image does.
      at_once: see `mammo_jax.models.flips.on_flips`.

    The score of a patch classifier is the highest probability of malignancy over all
    positions.
    """

    def class_map_step(params: Any, stats: Any, images: Array) -> ClassMaps:
        model: Any = variables.merge(graphdef, params, stats)

        def map_classes(images: Array) -> ClassMaps:
            inputs = network_input(images, pixel_mean)
            whole, positions = model.class_map(inputs, window)
            mapped = (
                _MALIGNANT_PATCHES if model.kind in PATCH_KINDS else malignant_classes
            )
            maps = log_odds(positions, mapped)
            no_whole = whole is None
            odds = maps.max((1, 2)) if no_whole else log_odds(whole, malignant_classes)
            return ClassMaps(jax.nn.sigmoid(odds), maps)

        maps: ClassMaps = on_flips(map_classes, images, flips, at_once=at_once)
        return maps

    return class_map_step


def log_odds(
    logits: Float[Array | np.ndarray, "*positions class"],
    malignant_classes: Sequence[int],
) -> Float[Array, "*positions"]:
    """Computes the natural logarithm of the malignant classes' odds together."""
    others = [i for i in range(logits.shape[-1]) if i not in malignant_classes]
    malignant, benign = (
        jax.nn.logsumexp(logits[..., jnp.array(classes)], axis=-1)
        for classes in (malignant_classes, others)
    )
    return malignant - benign


def strength(
    maps: Float[np.ndarray, "*positions"], config: ModelConfig
) -> Float[np.ndarray, "*positions"]:
    """Scales a map to -1 (against malignancy) to 1 (for it), for an overlay.

    All-convolutional models give the log-odds, 0 at even odds and 1 at 50 to 1. Patch
    classifiers give the probability, 0..1, since theirs is of a patch and few patches
    are malignant.
    """
    if config.top.kind in PATCH_KINDS:
        return np.asarray(scipy.special.expit(maps))
    return np.asarray(np.clip(maps / _CERTAIN, -1, 1))


_network = functools.cache(abstract_model)


class Positions(NamedTuple):
    """The places of a map's positions along one side of the image's grid."""

    first: float  # index of the pixel at the centre of the first position's view
    step: int  # pixels from one position to the next


def map_positions(config: ModelConfig, window: int | None, size: int) -> Positions:
    """Places a map's positions on a side of `size` pixels.

    Each layer that slides a window of k pixels in steps of s, with p pixels of padding
    before the first, puts its position i on position s*i + (k-1)/2 - p of its input.
    The strided 1x1 convolutions of the residual units thus look at the first of two
    positions, so that a map lies up to half a step off what its shape suggests.
    """
    first, step = 0.0, 1
    for width, stride, padding in _network(config).windows(window):
        if isinstance(padding, str):
            (pads,) = jax.lax.padtype_to_pads((size,), (width,), (stride,), padding)
        else:
            pads = padding[0]
        first += step * ((width - 1) / 2 - pads[0])
        step *= stride
        size = (size + sum(pads) - width) // stride + 1
    return Positions(first, step)


def project(
    position_map: Float[np.ndarray, "rows columns"],
    config: ModelConfig,
    window: int | None,
    grid: tuple[int, int],
    picture: tuple[int, int],
) -> Float[np.ndarray, "height width"]:
    """Lays a map, or what is made of it, over a picture of the original image.

    The grid squeezes the original, each side by itself, and so does the picture; a
    share of one's height is the same share of the other's. Between the positions'
    centres the map is interpolated linearly, outside of them it is constant.

    Args:
      position_map: the position map of one image.
      config: the model's configuration.
      window: see `make_class_map_step`.
      grid: height and width of the images that the model sees.
      picture: height and width of the picture.
    """
    weights = [
        _interpolation(count, map_positions(config, window, size), size, length)
        for count, size, length in zip(position_map.shape, grid, picture, strict=True)
    ]
    laid: np.ndarray = weights[0] @ position_map @ weights[1].T
    return laid.astype(np.float32)


def _interpolation(
    count: int, positions: Positions, size: int, length: int
) -> Float[np.ndarray, "length count"]:
    """Weighs `count` positions for each of a picture's `length` pixels."""
    pixels = (np.arange(length) + 0.5) * size / length - 0.5
    places = (pixels - positions.first) / positions.step
    return np.stack(
        [np.interp(places, np.arange(count), row) for row in np.eye(count)], axis=1
    )
