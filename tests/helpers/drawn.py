"""Gives first values to single modules, which are built without any."""

import jax
import jax.numpy as jnp

from mammo_jax.models import read_model_config, variables
from mammo_jax.models.initial_values import draw_values


def with_values(module, seed=0):
    """The module with its first values."""
    graphdef, *undrawn = variables.split(module)
    drawn = draw_values(read_model_config({}), seed, *undrawn)
    return variables.merge(graphdef, *jax.tree.map(jnp.asarray, drawn))
