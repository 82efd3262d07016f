"""Prints a model's layers with output sizes, groups and parameter counts.

Example: python -m mammo_jax.layers --config=configs/whole_res.py
"""

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
from absl import app, flags
from clu import parameter_overview
from flax import nnx

from mammo_jax.common.errors import EXIT_ERROR, UserError, run_command
from mammo_jax.cpu.pooling import max_pool
from mammo_jax.main import parse_flags
from mammo_jax.models import abstract_model, groups_of, heatmap, variables
from mammo_jax.models.model_config import (
    ModelConfig,
)
from mammo_jax.models.normalization import BatchNorm
from mammo_jax.models.resnet import ResNet50
from mammo_jax.models.sliding import slide
from mammo_jax.models.vgg import VGGBlock

_ROW = "{:<36} {:>14}  {:<13} {:>12}"
_LAYERS = (nnx.Conv, nnx.Linear, BatchNorm)
# Modules, and their methods whose output is that of a max-pool.
_END_IN_POOL = ((ResNet50, "_stem"), (VGGBlock, "_forward"))

# What of main's flags this command reads; `--help` shows them.
for _name in ("config", "traceback"):
    flags.declare_key_flag(_name)

Sizes = dict[str, tuple[int, ...]]


def layer_table(config: ModelConfig, window: int | None = None) -> str:
    """The layers of a model configuration, one a line, and the totals.

    Args:
      config: see `build_model`. The output sizes are those of one image of
        `config.image_size`.
      window: of a patch classifier that is slid over that image, see
        `mammo_jax.models.sliding.slide`. None: the model sees the image whole.

    Raises:
      UserError: as `build_model`, or the image size is too small for the model.
    """
    # Recomputation changes no size, and would hide the layers from the recording.
    config = dataclasses.replace(config, remat=False)
    model = abstract_model(config)
    graphdef, params, stats = variables.split(model)
    sizes = output_sizes(graphdef, params, stats, config.image_size, window)
    lines = [_ROW.format("layer", "output", "group", "parameters")]
    for layer, size in sizes.items():
        own = {p: v for p, v in params.items() if p.rpartition("/")[0] == layer}
        # A pool has no parameters.
        group = groups_of(next(iter(own)), config.trunk) if own else ""
        lines.append(_row(layer, "x".join(map(str, size)), group, own))
    members: dict[str, variables.Variables] = {}
    for path, value in params.items():
        members.setdefault(groups_of(path, config.trunk), {})[path] = value
    lines += [_row("total", "", group, own) for group, own in members.items()]
    lines += [_row("total", "", "all", params), _row("total", "", "statistics", stats)]
    return "\n".join(lines)


def _row(layer: str, size: str, group: str, own: variables.Variables) -> str:
    count = f"{parameter_overview.count_parameters(own):,}" if own else ""
    return _ROW.format(layer, size, group, count).rstrip()


def output_sizes(
    graphdef: nnx.GraphDef,
    params: variables.Variables,
    stats: variables.Variables,
    image_size: tuple[int, int],
    window: int | None = None,
) -> Sizes:
    """Height, width and channels that every layer gives, in the order of use.

    Max-pools are named after the module that they end: trunk/block5/pool.
    """
    sizes: Sizes = {}

    def forward(params, stats, images):
        model = variables.merge(graphdef, params, stats)
        names = {
            id(module): "/".join(map(str, path))
            for path, module in nnx.iter_modules(model)
        }
        with _recording(names, sizes):
            return slide(model, images, window) if window else model(images, False)

    images = jax.ShapeDtypeStruct((1, *image_size, 3), jnp.float32)
    jax.eval_shape(forward, params, stats, images)
    return sizes


@contextlib.contextmanager
def _recording(names: dict[int, str], sizes: Sizes) -> Iterator[None]:
    def recorded(call: Callable, suffix: str) -> Callable:
        def wrapper(module, *args, **kwargs):
            output = call(module, *args, **kwargs)
            if id(module) in names:  # `feature_size` asks a copy.
                sizes[names[id(module)] + suffix] = output.shape[1:]
            return output

        return wrapper

    def recorded_pool(*args: Any) -> jax.Array:
        sizes["top/pool"] = (pooled := max_pool(*args)).shape[1:]
        return pooled

    calls: list[tuple[type, str, str]]
    calls = [(layer, "__call__", "") for layer in _LAYERS]
    calls += [(module, method, "/pool") for module, method in _END_IN_POOL]
    with contextlib.ExitStack() as stack:
        for owner, method, suffix in calls:
            replaced = recorded(getattr(owner, method), suffix)
            stack.enter_context(mock.patch.object(owner, method, replaced))
        stack.enter_context(mock.patch.object(heatmap, "max_pool", recorded_pool))
        yield


def _print_table() -> None:
    config = flags.FLAGS.config
    if config is None:
        raise UserError("--config=FILE is needed, such as configs/whole_res.py")
    # Here, because the parts of a run take seconds to import.
    from mammo_jax.training.run import find_runner

    runner = find_runner(config)
    network, window = runner.network(config)
    print(layer_table(network, window))
    if window is not None:
        print(runner.describe(config))


def _flags_parser(argv: Sequence[str]) -> list[str]:
    try:
        return parse_flags(argv)
    except UserError as error:
        if "--traceback" in argv:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_ERROR)


def main(_: Sequence[str]) -> None:
    """Runs the command."""
    run_command(_print_table, traceback=flags.FLAGS.traceback)


if __name__ == "__main__":
    app.run(main, flags_parser=_flags_parser)
