"""A model's variables as two flat dicts of arrays, and back.

Flat dicts keyed by path are what the optimiser's groups, the checkpoints, the
weight files and the parameter tables read, and they cost `jax.jit` the least.
"""

from typing import Any

from flax import nnx

# Path to array; in a model without values, to a `jax.ShapeDtypeStruct`.
Variables = dict[str, Any]


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
    """Puts values into a structure: a copy of its own, safe inside `jax.grad`."""
    states = _unflatten(params), _unflatten(stats)
    model: nnx.Module = nnx.merge(graphdef, *states, copy=True)
    return model


def _flatten(state: Any) -> Variables:
    flat = nnx.to_flat_state(state)
    arrays = {"/".join(map(str, path)): variable.get_value() for path, variable in flat}
    return dict(sorted(arrays.items()))


def _unflatten(variables: Variables) -> Any:
    return nnx.from_flat_state(
        (tuple(path.split("/")), value) for path, value in variables.items()
    )
