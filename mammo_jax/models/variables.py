"""A model's variables as two flat dicts of arrays, and back.

Flat dicts keyed by path are what the optimiser's groups, the checkpoints, the
weight files and the parameter tables read, and they cost `jax.jit` the least.
"""

from typing import Any

import jax
from flax import nnx

Variables = dict[str, jax.Array]


def split(model: nnx.Module) -> tuple[Any, Variables, Variables]:
    """Splits into structure, parameters and batch normalisation's statistics.

    Returns:
      `(graphdef, params, stats)`; the dicts are keyed by path, such as
      trunk/stage5/unit3/conv2/kernel, in sorted order.

    Raises:
      ValueError: the model holds any other state, such as random generators.
    """
    graphdef, *states = nnx.split(model, nnx.Param, nnx.BatchStat)
    params, stats = map(_flatten, states)
    return graphdef, params, stats


def merge(graphdef: Any, params: Variables, stats: Variables) -> nnx.Module:
    """The model with these values; its own copy, safe inside `jax.grad`."""
    return nnx.merge(graphdef, _unflatten(params), _unflatten(stats), copy=True)


def _flatten(state: nnx.State) -> Variables:
    flat = nnx.to_flat_state(state)
    arrays = {"/".join(map(str, path)): variable.get_value() for path, variable in flat}
    return dict(sorted(arrays.items()))


def _unflatten(variables: Variables) -> Any:
    return nnx.from_flat_state(
        (tuple(path.split("/")), value) for path, value in variables.items()
    )
