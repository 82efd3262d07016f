"""Where a model looked: the log-odds of malignancy at every position of an image.

The all-convolutional models average their last features over all positions and apply
a dense layer, which is linear: the same layer applied at each position gives a class
activation map (Zhou et al., "Learning Deep Features for Discriminative Localization",
2016), and the mean of the map over all positions is the image's own log-odds. Patch
classifiers, alone or below a heatmap top, are slid over the image (section 2.3).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt16

from mammo_jax.common.errors import UserError
from mammo_jax.datasets.labels import PATCH_CLASSES
from mammo_jax.models import flips as flipping
from mammo_jax.models import variables
from mammo_jax.models.classifier import (
    HeatmapClassifier,
    PatchClassifier,
    WholeImageClassifier,
)
from mammo_jax.models.heatmap import ACTIVATIONS
from mammo_jax.models.layers import global_average
from mammo_jax.models.model_config import (
    HeatmapTop,
    ModelConfig,
    PatchTop,
    ResidualTop,
    VGGTop,
)
from mammo_jax.models.network_input import network_input
from mammo_jax.models.resnet import STAGES, STEMS, WIRINGS
from mammo_jax.models.sliding import slide
from mammo_jax.models.vgg import DEPTHS

_WITH_PATCH_CLASSIFIER = PatchTop | HeatmapTop
_MALIGNANT_PATCHES = [
    index for index, name in enumerate(PATCH_CLASSES) if name.endswith("_malignant")
]
# Log-odds that an overlay shows in full: 50 to 1.
_CERTAIN = np.log(50.0)


class Evidence(NamedTuple):
    """What a model says of whole images.

    Attributes:
      scores: probability of malignancy, 0..1.
      maps: log-odds of malignancy at every position.
    """

    scores: Float[Array, "*flips batch"]
    maps: Float[Array, "*flips batch rows columns"]


EvidenceStep = Callable[[Any, Any, UInt16[Array, "batch height width"]], Evidence]


def make_evidence_step(
    graphdef: Any,
    *,
    window: int | None,
    pixel_mean: float,
    malignant_classes: Sequence[int],
    flips: Sequence[tuple[int, ...]],
    at_once: bool,
) -> EvidenceStep:
    """Builds the step from whole images to scores and maps; not jitted.

    Args:
      graphdef: the model without its variables.
      window: side of the window that a patch classifier is slid with, in the trunk's
        positions; None for a model that has none.
      pixel_mean: that the model was trained with, on the scale 0..255.
      malignant_classes: of the model's outputs.
      flips: see `mammo_jax.models.flips`; a map of a flipped image lies as the
        flipped image does.
      at_once: see `mammo_jax.models.flips.on_flips`.

    Returns:
      A function from parameters, statistics and images to `Evidence`, with an axis
      of flips before the batch. The score of a patch classifier is the highest
      probability of malignancy over all positions.
    """

    def evidence_step(params: Any, stats: Any, images: Array) -> Evidence:
        model: Any = variables.merge(graphdef, params, stats)

        def look(images: Array) -> Evidence:
            inputs = network_input(images, pixel_mean)
            if min(inputs.shape[1:3]) < model.smallest:
                raise UserError(
                    f"images of {inputs.shape[1]}x{inputs.shape[2]} are too small for "
                    f"this model: it needs at least {model.smallest} on each side"
                )
            whole, positions = _LOGITS[type(model)](model, inputs, window)
            if isinstance(model, WholeImageClassifier):
                maps = log_odds(positions, malignant_classes)
            else:
                maps = log_odds(positions, _MALIGNANT_PATCHES)
            odds = (
                maps.max((1, 2))
                if whole is None
                else log_odds(whole, malignant_classes)
            )
            return Evidence(jax.nn.sigmoid(odds), maps)

        return flipping.on_flips(look, images, flips, at_once=at_once)

    return evidence_step


def log_odds(
    logits: Float[Array, "*positions class"], malignant_classes: Sequence[int]
) -> Float[Array, "*positions"]:
    """Of the malignant classes together against all others (natural logarithm)."""
    others = [i for i in range(logits.shape[-1]) if i not in malignant_classes]
    return jax.nn.logsumexp(
        logits[..., jnp.array(malignant_classes)], axis=-1
    ) - jax.nn.logsumexp(logits[..., jnp.array(others)], axis=-1)


def _convolutional_logits(
    model: Any, images: Array, window: int | None
) -> tuple[Array, Array]:
    """Logits of the image, and at every position."""
    del window
    x = model.trunk(images, False)
    for index in range(1, model.top.count + 1):
        x = getattr(model.top, f"block{index}")(x, False)
    at_positions = model.top.output(x.astype(jnp.float32))
    return model.top.output(global_average(x)), at_positions


def _heatmap_logits(
    model: Any, images: Array, window: int | None
) -> tuple[Array, Array]:
    del window  # The model has its own.
    logits = slide(model, images, model.window)
    return model.top(ACTIVATIONS[model.activation](logits), False), logits


def _patch_logits(model: Any, images: Array, window: int) -> tuple[None, Array]:
    return None, slide(model, images, window)


_LOGITS: dict[type, Callable[..., tuple[Array | None, Array]]] = {
    WholeImageClassifier: _convolutional_logits,
    HeatmapClassifier: _heatmap_logits,
    PatchClassifier: _patch_logits,
}


def strength(
    maps: Float[np.ndarray, "*positions"], config: ModelConfig
) -> Float[np.ndarray, "*positions"]:
    """How strongly a map speaks for (1) or against (-1) malignancy, for an overlay.

    Of the all-convolutional models the log-odds, 0 at even odds and 1 at 50 to 1. Of
    patch classifiers the probability, 0..1, since theirs is of a patch and few patches
    are malignant.
    """
    if isinstance(config.top, _WITH_PATCH_CLASSIFIER):
        return 1 / (1 + np.exp(-maps))
    return np.clip(maps / _CERTAIN, -1, 1)


class Positions(NamedTuple):
    """Where the positions of a map lie along one side of the image's grid.

    Attributes:
      first: index of the pixel at the centre of the first position's field of view.
      step: pixels from one position to the next.
    """

    first: float
    step: int


def map_positions(config: ModelConfig, window: int | None, size: int) -> Positions:
    """Where a map's positions lie on a side of `size` pixels.

    Each layer that slides a window of k pixels in steps of s, with p pixels of padding
    before the first, puts its position i on position s*i + (k-1)/2 - p of its input.
    The strided 1x1 convolutions of the residual units thus look at the first of two
    positions, so that a map lies up to half a step off what its shape suggests.
    """
    first, step = 0.0, 1
    for width, stride, padding in _windows(config, window):
        if isinstance(padding, str):
            (pads,) = jax.lax.padtype_to_pads((size,), (width,), (stride,), padding)
        else:
            pads = padding[0]
        first += step * ((width - 1) / 2 - pads[0])
        step *= stride
        size = (size + sum(pads) - width) // stride + 1
    return Positions(first, step)


def _windows(config: ModelConfig, window: int | None) -> list[tuple[int, int, Any]]:
    """(size, stride, padding) of every layer that is not centred or has a stride."""
    halving_pool = (2, 2, "VALID")
    if config.trunk == "resnet50":
        wiring = WIRINGS[config.wiring]
        pool_stride, stage2_last_stride = STEMS[config.stem]
        strides = [stage2_last_stride, *(stride for _, _, stride in STAGES.values())]
        windows: list[tuple[int, int, Any]] = [
            (7, 2, wiring.stem_padding),
            (3, pool_stride, wiring.pool_padding),
            # Whichever convolution of a unit has the stride, it looks at every
            # second position, as the shortcut does.
            *((1, stride, "VALID") for stride in strides),
        ]
    else:
        windows = [halving_pool] * len(DEPTHS[config.trunk])
    match config.top:
        case ResidualTop(blocks):
            return [*windows, *[(1, 2, "VALID")] * len(blocks)]
        case VGGTop(blocks):
            return [*windows, *[halving_pool] * len(blocks)]
        case HeatmapTop():
            return [*windows, (config.top.window, 1, "VALID")]
        case PatchTop():
            return [*windows, (window, 1, "VALID")]


def project(
    position_map: Float[np.ndarray, "rows columns"],
    config: ModelConfig,
    window: int | None,
    grid: tuple[int, int],
    picture: tuple[int, int],
) -> Float[np.ndarray, "height width"]:
    """A map laid over a picture of the original image.

    The grid squeezes the original, each side by itself, and so does the picture; a
    share of one's height is the same share of the other's. Between the positions'
    centres the map is interpolated linearly, outside of them it is constant.

    Args:
      position_map: a map of one image, or what is made of it.
      config: of the model.
      window: see `make_evidence_step`.
      grid: height and width of the images that the model sees.
      picture: height and width of the picture.
    """
    weights = [
        _interpolation(count, map_positions(config, window, size), size, length)
        for count, size, length in zip(position_map.shape, grid, picture, strict=True)
    ]
    return (weights[0] @ position_map @ weights[1].T).astype(np.float32)


def _interpolation(
    count: int, positions: Positions, size: int, length: int
) -> Float[np.ndarray, "length count"]:
    """Weights of `count` positions for each of a picture's `length` pixels."""
    pixels = (np.arange(length) + 0.5) * size / length - 0.5
    places = (pixels - positions.first) / positions.step
    return np.stack(
        [np.interp(places, np.arange(count), row) for row in np.eye(count)], axis=1
    )
