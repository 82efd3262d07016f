"""Batch normalisation, with its gradient written out.

Automatic differentiation goes through the mean and the variance on their own and
reads the input about twice as often as the textbook formula does (Ioffe and Szegedy,
"Batch Normalization", 2015, section 3). It also keeps the centred input; here only
the input itself, in its own dtype, is kept for the backward pass.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float


class BatchNorm(nnx.Module):
    """Batch normalisation in float32, whatever the dtype around it.

    `epsilon` is added to the variance; `momentum` is the share that running statistics
    keep of themselves at a step. `per_device` makes each device of a mesh normalise by
    its own images; running statistics then move to the mean over the devices.
    """

    def __init__(self, channels: int, *, epsilon: float, momentum: float):
        shape: Any = jax.ShapeDtypeStruct((channels,), jnp.float32)
        self.scale = nnx.Param(shape)
        self.bias = nnx.Param(shape)
        self.mean = nnx.BatchStat(shape)
        self.var = nnx.BatchStat(shape)
        self.epsilon, self.momentum = epsilon, momentum
        self.per_device = False

    def __call__(
        self, x: Float[Array, "*batch channel"], train: bool
    ) -> Float[Array, "*batch channel"]:
        """Normalises by the batch (`train`) or by the running statistics."""
        scale, bias = self.scale[...], self.bias[...]
        if not train:
            factor = lax.rsqrt(self.var[...] + self.epsilon) * scale
            y = (x.astype(jnp.float32) - self.mean[...]) * factor + bias
            return y.astype(x.dtype)
        mesh = jax.sharding.get_abstract_mesh()
        devices = mesh.shape.get("data", 1) if self.per_device else 1
        y, mean, var = _normalize_apart(x, scale, bias, self.epsilon, devices)
        for running, new in ((self.mean, mean), (self.var, var)):
            kept = self.momentum * running[...]
            # `running[...] =` would ask for a sharding, for milliseconds each time.
            running.set_value(lax.stop_gradient(kept + (1 - self.momentum) * new))
        return y


class _Kept(NamedTuple):
    """The values that the backward pass needs."""

    x: Array
    scale: Array
    mean: Array
    inverse_deviation: Array


def _statistics(x: Array) -> tuple[Array, Array]:
    axes = tuple(range(x.ndim - 1))
    mean = x.mean(axes)
    # E[x^2] - E[x]^2 loses the digits of a channel whose mean is large.
    return mean, jnp.square(x - mean).mean(axes)


def _normalize_and_keep(
    x: Array, scale: Array, bias: Array, epsilon: float
) -> tuple[tuple[Array, Array, Array], _Kept]:
    exact = x.astype(jnp.float32)
    mean, var = _statistics(exact)
    inverse = lax.rsqrt(var + epsilon)
    y = (exact - mean) * (inverse * scale) + bias
    return (y.astype(x.dtype), mean, var), _Kept(x, scale, mean, inverse)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _normalize(
    x: Array, scale: Array, bias: Array, epsilon: float
) -> tuple[Array, Array, Array]:
    """Computes the normalised batch, its mean and biased variance; see `_backward`."""
    return _normalize_and_keep(x, scale, bias, epsilon)[0]


def _backward(
    epsilon: float, kept: _Kept, gradients: tuple[Array, Array, Array]
) -> tuple[Array, Array, Array]:
    """Computes the gradients; running statistics send none back."""
    del epsilon  # It is part of the deviation.
    x = kept.x.astype(jnp.float32)
    dy = gradients[0].astype(jnp.float32)
    axes = tuple(range(x.ndim - 1))
    count = x.size // x.shape[-1]
    # Not written as in the forward pass: XLA would keep the centred input from there.
    # It costs digits where a mean is more than a thousand deviations.
    normal = x * kept.inverse_deviation - kept.mean * kept.inverse_deviation
    d_bias = dy.sum(axes)
    d_scale = (dy * normal).sum(axes)
    dx = (kept.scale * kept.inverse_deviation) * (
        dy - d_bias / count - normal * (d_scale / count)
    )
    return dx.astype(kept.x.dtype), d_scale, d_bias


_normalize.defvjp(_normalize_and_keep, _backward)


def _normalize_apart(
    x: Array, scale: Array, bias: Array, epsilon: float, parts: int
) -> tuple[Array, Array, Array]:
    """Normalises equal parts of the batch each by itself."""
    if parts == 1:
        return _normalize(x, scale, bias, epsilon)
    apart = x.reshape(parts, -1, *x.shape[1:])
    normalize = jax.vmap(_normalize, in_axes=(0, None, None, None))
    y, means, variances = normalize(apart, scale, bias, epsilon)
    return y.reshape(x.shape), means.mean(0), variances.mean(0)
