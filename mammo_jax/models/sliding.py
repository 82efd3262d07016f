"""Heatmaps: a patch classifier run over whole images (sections 1 and 2.3).

The trunk sees the whole image at once. The patch classifier's average and dense
layer then slide over its features, in steps of 32 pixels, as in the heatmap
designs.
"""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array, Float, UInt16

from mammo_jax.common.errors import UserError
from mammo_jax.models import variables
from mammo_jax.models.classifier import abstract_model
from mammo_jax.models.compiling import jit_network
from mammo_jax.models.model_config import HeatmapTop, ModelConfig, PatchTop
from mammo_jax.models.network_input import network_input

HeatmapStep = Callable[
    [variables.Variables, variables.Variables, UInt16[Array, "batch height width"]],
    Float[Array, "batch rows columns class"],
]


def make_heatmap_step(
    config: ModelConfig, window: int, pixel_mean: float
) -> HeatmapStep:
    """Makes the jitted step from whole images to heatmaps.

    Args:
      config: settings of a model with a patch classifier's head.
      window: side of a patch in the trunk's positions; 7 for 224 pixels.
      pixel_mean: mean that the classifier was trained with, on the scale 0..255.

    Returns:
      A function from parameters, running statistics and images (uint16) to the
      probabilities of the patch classes at every position, float32: 30x22 positions
      for an image of 1152x896. It raises a `UserError` for images smaller than a
      patch.

    Raises:
      UserError: the model has no such head.
    """
    if not isinstance(config.top, PatchTop | HeatmapTop):
        raise UserError(
            f"heatmaps need a patch classifier (model.top.kind 'patch' or 'heatmap'); "
            f"this model's top is {config.top.kind!r}"
        )
    graphdef = variables.split(abstract_model(config))[0]

    def heatmap_step(
        params: variables.Variables, stats: variables.Variables, images: Array
    ) -> Array:
        model: Any = variables.merge(graphdef, params, stats)
        return jax.nn.softmax(model.slide(network_input(images, pixel_mean), window))

    step: HeatmapStep = jit_network(heatmap_step)
    return step
