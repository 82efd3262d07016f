"""A network's layers with output sizes, groups and parameter counts."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from clu import parameter_overview
from flax import nnx
from jaxtyping import Array

from mammo_jax.models import variables
from mammo_jax.models.classifier import abstract_model
from mammo_jax.models.groups import groups_of
from mammo_jax.models.layers import MaxPool
from mammo_jax.models.model_config import ModelConfig
from mammo_jax.models.normalization import BatchNorm

_ROW = "{:<36} {:>14}  {:<13} {:>12}"
_LAYERS = (nnx.Conv, nnx.Linear, BatchNorm, MaxPool)


def layer_table(config: ModelConfig, window: int | None = None) -> str:
    """Lists the layers of a network, one a line, and the totals.

    Args:
      config: settings of the network. The output sizes are those of one image of
        `config.image_size`.
      window: side of the window that a patch classifier is slid over that image with,
        see `Classifier.class_map`. None: the model sees the image whole.

    Raises:
      UserError: the image size is too small for the model.
    """
    # Recomputation changes no size, and would hide the layers.
    model = abstract_model(dataclasses.replace(config, remat=False))
    _, params, stats = variables.split(model)
    group_of = functools.partial(groups_of, trunk=config.trunk, stride=config.stride)
    lines = [_ROW.format("layer", "output", "group", "parameters")]
    for layer, size in output_sizes(model, config.image_size, window).items():
        own = {p: v for p, v in params.items() if p.rpartition("/")[0] == layer}
        # A pool has no parameters.
        group = group_of(next(iter(own))) if own else ""
        lines.append(_row(layer, "x".join(map(str, size)), group, own))
    members: dict[str, variables.Variables] = {}
    for path, value in params.items():
        members.setdefault(group_of(path), {})[path] = value
    lines += [_row("total", "", group, own) for group, own in members.items()]
    lines += [_row("total", "", "all", params), _row("total", "", "statistics", stats)]
    return "\n".join(lines)


def _row(layer: str, size: str, group: str, own: variables.Variables) -> str:
    count = f"{parameter_overview.count_parameters(own):,}" if own else ""
    return _ROW.format(layer, size, group, count).rstrip()


def output_sizes(
    model: Any, image_size: tuple[int, int], window: int | None = None
) -> dict[str, tuple[int, ...]]:
    """Computes what every layer gives, without its batch axis, in the order of use."""
    graphdef, params, stats = variables.split(model)
    sizes: dict[str, tuple[int, ...]] = {}

    def forward(
        params: variables.Variables, stats: variables.Variables, images: Array
    ) -> Any:
        copy: Any = variables.merge(graphdef, params, stats)
        for path, layer in nnx.iter_modules(copy):
            if isinstance(layer, _LAYERS):
                layer.__class__ = _recording(
                    type(layer), "/".join(map(str, path)), sizes
                )
        return copy.class_map(images, window) if window else copy(images, False)

    images = jax.ShapeDtypeStruct((1, *image_size, 3), jnp.float32)
    jax.eval_shape(forward, params, stats, images)
    return sizes


def _recording(kind: Any, name: str, sizes: dict[str, tuple[int, ...]]) -> Any:
    """Makes the class of one layer that also notes the size of its output."""

    class Recorded(kind):  # type: ignore[misc]
        def __call__(self, *arguments: Any) -> Array:
            output: Array = super().__call__(*arguments)
            sizes[name] = output.shape[1:]
            return output

    return Recorded
