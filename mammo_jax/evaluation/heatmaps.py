"""Heatmaps: a patch classifier run over whole images (sections 1 and 2.3).

The trunk sees the whole image at once. The patch classifier's average and dense
layer then slide over its features, in steps of 32 pixels, as in the heatmap
designs.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float

from mammo_jax.errors import UserError
from mammo_jax.models import build_model, variables
from mammo_jax.models.classifier import feature_size
from mammo_jax.models.config import checked_config
from mammo_jax.models.heatmap import patch_logits
from mammo_jax.training.inputs import network_input


def make_heatmap_step(
    model_config: Any, pixel_mean: float
) -> Callable[
    [variables.Variables, variables.Variables, Mapping[str, Array]],
    Float[Array, "batch rows columns class"],
]:
    """Builds the jitted step from whole images to heatmaps.

    Args:
      model_config: of a model with a patch classifier's head: `top.kind` is
        "patch" or "heatmap". `top.window` is a patch's side in the trunk's
        positions, 7 for 224 pixels.
      pixel_mean: that the patch classifier was trained with, on the scale 0..255.

    Returns:
      A function from parameters, running statistics and a batch with `image`
      (uint16) and `channel_shift` to the probabilities of the patch classes at
      every position, float32: 30x22 positions for an image of 1152x896. It
      raises a `UserError` for images smaller than a patch.

    Raises:
      UserError: the model has no such head.
    """
    config = checked_config(model_config)
    if config.top.kind not in ("patch", "heatmap"):
        raise UserError(
            f"heatmaps need a patch classifier (model.top.kind 'patch' or 'heatmap'); "
            f"this model's top is {config.top.kind!r}"
        )
    model = nnx.eval_shape(lambda: build_model(config, nnx.Rngs(0)))
    graphdef = variables.split(model)[0]
    window = config.top.window

    def heatmap_step(
        params: variables.Variables,
        stats: variables.Variables,
        batch: Mapping[str, Array],
    ) -> Array:
        model: Any = variables.merge(graphdef, params, stats)
        height, width = batch["image"].shape[1:]
        if min(feature_size(model.trunk, (height, width))) < window:
            raise UserError(
                f"images of {height}x{width} are too small for heatmaps: a patch is "
                f"{window} positions of {config.trunk} wide (model.top.window)"
            )
        images = network_input(batch["image"], batch["channel_shift"], pixel_mean)
        features = model.trunk(images, False)
        return jax.nn.softmax(patch_logits(features, model.head, window))

    return jax.jit(heatmap_step)
