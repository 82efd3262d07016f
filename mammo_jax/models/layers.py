"""The layers that every network here is made of.

Convolutions and dense layers compute in the model's compute dtype; batch
normalisation always computes, and keeps its statistics, in float32.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from mammo_jax.models.initializers import GLOROT_UNIFORM


def convolve(inputs, kernel, strides, padding, **options) -> Array:
    """`lax.conv_general_dilated` on NHWC, with 1x1 convolutions as dots.

    On the CPU, XLA trains a ResNet50 about a third faster so; the numbers are the
    same.
    """
    if kernel.shape[:2] != (1, 1):
        return lax.conv_general_dilated(inputs, kernel, strides, padding, **options)
    rows, columns = strides
    kept = inputs[:, ::rows, ::columns]
    return jnp.einsum("bhwi,io->bhwo", kept, kernel[0, 0])


def make_conv(
    channels_in: int,
    channels_out: int,
    size: int,
    *,
    stride: int = 1,
    padding: str | tuple = "SAME",
    use_bias: bool = True,
    dtype: Any,
    kernel_init: nnx.Initializer,
    rngs: nnx.Rngs,
) -> nnx.Conv:
    """A square 2-D convolution; `padding` as in `lax.conv_general_dilated`."""
    return nnx.Conv(
        channels_in,
        channels_out,
        (size, size),
        strides=stride,
        padding=padding,
        use_bias=use_bias,
        dtype=dtype,
        kernel_init=kernel_init,
        conv_general_dilated=convolve,
        rngs=rngs,
    )


def make_dense(features_in: int, features_out: int, rngs: nnx.Rngs) -> nnx.Linear:
    """A dense layer, float32, initialised as Keras does."""
    return nnx.Linear(
        features_in,
        features_out,
        dtype=jnp.float32,
        kernel_init=GLOROT_UNIFORM,
        rngs=rngs,
    )


class BatchNorm(nnx.BatchNorm):
    """Batch normalisation in float32, whatever the dtype around it."""

    def __init__(
        self, channels: int, *, epsilon: float, momentum: float, rngs: nnx.Rngs
    ):
        super().__init__(
            channels,
            epsilon=epsilon,
            momentum=momentum,
            dtype=jnp.float32,
            # E[x^2] - E[x]^2 loses the digits of a channel whose mean is large.
            use_fast_variance=False,
            rngs=rngs,
        )

    def __call__(  # type: ignore[override]
        self, x: Float[Array, "*batch channel"], train: bool
    ) -> Float[Array, "*batch channel"]:
        """Normalises by the batch (`train`) or by the running statistics."""
        y = super().__call__(x.astype(jnp.float32), use_running_average=not train)
        return y.astype(x.dtype)


def max_pool(x: Array, size: int, stride: int, padding: str | tuple = "VALID") -> Array:
    """Max-pooling over square windows; what is padded never wins."""
    return nnx.max_pool(x, (size, size), strides=(stride, stride), padding=padding)


def global_average(
    x: Float[Array, "batch height width channel"],
) -> Float[Array, "batch channel"]:
    """The mean over all positions, in float32."""
    return x.astype(jnp.float32).mean(axis=(1, 2))


class Chain(nnx.Module):
    """Named blocks, applied one after the other.

    Args:
      blocks: name to module; each is called with `(x, train)`.
    """

    def __init__(self, blocks: Mapping[str, nnx.Module]):
        for name, block in blocks.items():
            setattr(self, name, block)
        self.names = tuple(blocks)

    def __call__(self, x: Array, train: bool) -> Array:
        """Applies every block in order."""
        for name in self.names:
            x = getattr(self, name)(x, train)
        return x


def recompute(
    forward: Callable[..., Array], modules: Any, x: Array, train: bool, *, enabled: bool
) -> Array:
    """`forward(modules, x, train)`, computed again in the backward pass.

    Only `x` is kept until then: less memory for about a third more time. With
    `enabled=False` it is a plain call, which keeps what the backward pass needs.
    """
    if not enabled:
        return forward(modules, x, train)
    return nnx.remat(lambda modules, x: forward(modules, x, train))(modules, x)
