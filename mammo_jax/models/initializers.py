"""Keras's two kernel initialisers, drawn on the host.

The same distributions as `jax.nn.initializers.glorot_uniform` and `he_normal`.
Drawing with NumPy saves one XLA compilation for every kernel shape, which is
most of the time that it takes to build a network, and gives the same numbers on
every kind of device.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

# Standard deviation of a unit normal that is cut off at two.
_TRUNCATED_STD = 0.87962566103423978
_CUT_OFF = 2.0


def _uniform(rng: np.random.Generator, shape: tuple[int, ...], std: float):
    limit = np.sqrt(3) * std
    return rng.uniform(-limit, limit, shape)


def _truncated_normal(rng: np.random.Generator, shape: tuple[int, ...], std: float):
    import scipy.special  # Late: a third of a second that a trained model needs not.

    low, high = scipy.special.ndtr([-_CUT_OFF, _CUT_OFF])
    return scipy.special.ndtri(rng.uniform(low, high, shape)) * std / _TRUNCATED_STD


def _on_host(draw: Callable, variance: Callable, traced: Callable) -> Callable:
    def initializer(key, shape, dtype: Any = jnp.float32, **options: Any) -> Array:
        if isinstance(key, jax.core.Tracer):  # abstract evaluation, jit
            return traced(key, shape, dtype, **options)
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())
        receptive = int(np.prod(shape[:-2]))
        std = np.sqrt(variance(receptive * shape[-2], receptive * shape[-1]))
        # Rounded here: XLA would compile that for every shape.
        return jnp.asarray(draw(rng, shape, std).astype(dtype))

    return initializer


# The variance is a function of the inputs and outputs that a unit has.
GLOROT_UNIFORM = _on_host(
    _uniform,
    lambda fan_in, fan_out: 2 / (fan_in + fan_out),
    nnx.initializers.glorot_uniform(),
)
HE_NORMAL = _on_host(
    _truncated_normal,
    lambda fan_in, fan_out: 2 / fan_in,
    nnx.initializers.he_normal(),
)
