"""Batch normalisation by running statistics, as a part of the layer below it.

By running statistics it is linear, as the convolution or dense layer below is: together
they are one such layer with other weights and a bias. On a card that spares the
reading and writing of every activation.
"""

from typing import Any

import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from mammo_jax.models import variables
from mammo_jax.models.normalization import BatchNorm

# The layer below bn1 is conv1 or fc1.
_KINDS = ("conv", "fc")


class Folded(nnx.Module):
    """The empty place of a batch normalisation that the layer below it contains."""

    def __call__(
        self, x: Float[Array, "*batch channel"], train: bool
    ) -> Float[Array, "*batch channel"]:
        """Returns its input.

        Raises:
          ValueError: it is to normalise by the batch.
        """
        if train:
            raise ValueError("a model whose normalisation was folded cannot be trained")
        return x


def fold(
    graphdef: Any, params: variables.Variables, stats: variables.Variables
) -> tuple[Any, variables.Variables]:
    """Moves every batch normalisation into the layer below it, in float64.

    Returns:
      Structure and parameters of a model for scoring, which has no statistics. In
      float32 its features differ by that type's rounding.
    """
    model = variables.merge(graphdef, params, stats)
    for _, module in [*nnx.iter_modules(model)]:
        layers = dict(vars(module))
        for name, norm in layers.items():
            if isinstance(norm, BatchNorm):
                (below,) = {name.replace("bn", kind) for kind in _KINDS} & {*layers}
                _fold_into(layers[below], norm)
                setattr(module, name, Folded())
    graphdef, params, _ = variables.split(model)
    return graphdef, params


def _fold_into(layer: Any, norm: BatchNorm) -> None:
    scale, bias, mean, var = (
        np.asarray(value[...], np.float64)
        for value in (norm.scale, norm.bias, norm.mean, norm.var)
    )
    before = 0.0 if layer.bias is None else np.asarray(layer.bias[...], np.float64)
    factor = scale / np.sqrt(var + norm.epsilon)
    folded = np.asarray(layer.kernel[...]) * factor, (before - mean) * factor + bias
    layer.kernel, layer.bias = (nnx.Param(x.astype(np.float32)) for x in folded)
    layer.use_bias = True
