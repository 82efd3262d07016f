"""Prints a model's layers with output sizes, groups and parameter counts.

Example: python -m mammo_jax.models --config=configs/whole_res.py
"""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from unittest import mock

import jax
import jax.numpy as jnp
from absl import app, flags
from clu import parameter_overview
from flax import nnx

from mammo_jax.errors import EXIT_ERROR, UserError, run_command
from mammo_jax.main import parse_flags
from mammo_jax.models import build_model, groups_of, variables
from mammo_jax.models.config import checked_config
from mammo_jax.models.normalization import BatchNorm

_ROW = "{:<36} {:>14}  {:<13} {:>12}"
_LAYERS = (nnx.Conv, nnx.Linear, BatchNorm)

# What of main's flags this command reads; `--help` shows them.
for _name in ("config", "traceback"):
    flags.declare_key_flag(_name)

Sizes = dict[str, tuple[int, ...]]


def layer_table(config) -> str:
    """The layers of a model configuration, one a line, and the totals.

    Args:
      config: see `build_model`. The output sizes are those of one image of
        `config.image_size`.

    Raises:
      UserError: as `build_model`, or the image size is too small for the model.
    """
    config = checked_config(config)
    # Recomputation changes no size, and would hide the layers from the recording.
    config.remat = False
    model = nnx.eval_shape(lambda: build_model(config, nnx.Rngs(0)))
    graphdef, params, stats = variables.split(model)
    sizes = output_sizes(graphdef, params, stats, tuple(config.image_size))
    lines = [_ROW.format("layer", "output", "group", "parameters")]
    for layer, size in sizes.items():
        own = {p: v for p, v in params.items() if p.rpartition("/")[0] == layer}
        group = groups_of(next(iter(own)), config.trunk)
        lines.append(_row(layer, "x".join(map(str, size)), group, own))
    members: dict[str, variables.Variables] = {}
    for path, value in params.items():
        members.setdefault(groups_of(path, config.trunk), {})[path] = value
    lines += [_row("total", "", group, own) for group, own in members.items()]
    lines += [_row("total", "", "all", params), _row("total", "", "statistics", stats)]
    return "\n".join(lines)


def _row(layer: str, size: str, group: str, own: variables.Variables) -> str:
    count = parameter_overview.count_parameters(own)
    return _ROW.format(layer, size, group, f"{count:,}")


def output_sizes(
    graphdef: nnx.GraphDef,
    params: variables.Variables,
    stats: variables.Variables,
    image_size: tuple[int, int],
) -> Sizes:
    """Height, width and channels that every layer gives, in the order of use."""
    sizes: Sizes = {}

    def forward(params, stats, images):
        model = variables.merge(graphdef, params, stats)
        names = {
            id(module): "/".join(map(str, path))
            for path, module in nnx.iter_modules(model)
        }
        with _recording(names, sizes):
            return model(images, train=False)

    images = jax.ShapeDtypeStruct((1, *image_size, 3), jnp.float32)
    jax.eval_shape(forward, params, stats, images)
    return sizes


@contextlib.contextmanager
def _recording(names: dict[int, str], sizes: Sizes) -> Iterator[None]:
    def recorded(call: Callable) -> Callable:
        def wrapper(module, *args, **kwargs):
            output = call(module, *args, **kwargs)
            sizes[names[id(module)]] = output.shape[1:]
            return output

        return wrapper

    with contextlib.ExitStack() as stack:
        for layer in _LAYERS:
            replaced = recorded(layer.__call__)
            stack.enter_context(mock.patch.object(layer, "__call__", replaced))
        yield


def _print_table() -> None:
    config = flags.FLAGS.config
    if config is None:
        raise UserError("--config=FILE is needed, such as configs/whole_res.py")
    print(layer_table(config.model))


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
