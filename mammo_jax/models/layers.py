"""The layers that every network here is made of.

Convolutions and dense layers compute in the model's compute dtype; batch
normalisation (`mammo_jax.models.normalization`) always computes, and keeps its
statistics, in float32.
"""

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Bool, Float

from mammo_jax.cpu.convolution import convolve
from mammo_jax.cpu.pooling import max_pool

# Strides of a trunk, and how many times it then halves its images: the published trunks
# end at 32, but for YaroslavNet; others end a stage or two earlier, for images whose
# sides are a half or a quarter of the paper's.
HALVINGS = {8: 3, 16: 4, 32: 5, 64: 6}

Padding = str | tuple[tuple[int, int], tuple[int, int]]

# Flax's layers ask for keys that no initialiser here reads.
_NO_KEYS: Any = SimpleNamespace(params=lambda: None)


def _without_value(key: None, shape: tuple[int, ...], dtype: Any) -> Any:
    """An initialiser in the sense of Flax: `mammo_jax.models.initial_values` draws."""
    return jax.ShapeDtypeStruct(shape, dtype)


class Window(NamedTuple):
    """The part of its input that a layer sees, along each side."""

    size: int  # positions that it is wide
    stride: int  # positions from one window to the next
    padding: Padding = "VALID"  # as in `lax.conv_general_dilated`


class MaxPool(nnx.Module):
    """A square max-pool."""

    def __init__(self, window: Window):
        self.window = window

    def __call__(
        self, x: Float[Array, "batch height width channel"]
    ) -> Float[Array, "batch height2 width2 channel"]:
        """Takes the largest value of every window."""
        return max_pool(x, *self.window)


def make_conv(
    channels_in: int,
    channels_out: int,
    size: int,
    *,
    stride: int = 1,
    padding: Padding | None = None,
    use_bias: bool = True,
    dtype: Any,
) -> nnx.Conv:
    """Makes a square 2-D convolution without values.

    `padding` is as in `lax.conv_general_dilated`; by default half of the size on every
    side, which at stride 1 is SAME, and at stride 2 what torchvision does.
    """
    half = (size // 2, size // 2)
    return nnx.Conv(
        channels_in,
        channels_out,
        (size, size),
        strides=stride,
        padding=padding or (half, half),
        use_bias=use_bias,
        dtype=dtype,
        kernel_init=_without_value,
        bias_init=_without_value,
        conv_general_dilated=convolve,
        rngs=_NO_KEYS,
    )


def make_dense(features_in: int, features_out: int) -> nnx.Linear:
    """Makes a dense layer, float32, without values."""
    return nnx.Linear(
        features_in,
        features_out,
        dtype=jnp.float32,
        kernel_init=_without_value,
        bias_init=_without_value,
        rngs=_NO_KEYS,
    )


def global_average(
    x: Float[Array, "batch height width channel"],
) -> Float[Array, "batch channel"]:
    """Averages over all positions, in float32."""
    return jnp.mean(x.astype(jnp.float32), axis=(1, 2))


class Chain(nnx.Module):
    """Named blocks, each called with `(x, train)`, one after the other."""

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
    """Calls `forward(modules, x, train)`, and again in the backward pass.

    Only `x` is kept until then: less memory for about a third more time. With
    `enabled=False` it is a plain call, which keeps what the backward pass needs.
    """
    if not enabled:
        return forward(modules, x, train)
    y: Array = nnx.remat(lambda modules, x: forward(modules, x, train))(modules, x)
    return y


def map_bands(
    forward: Callable[[Array, Array], Array],
    x: Float[Array, "batch height width channel"],
    *,
    bands: int,
    halo: int,
) -> Float[Array, "batch height2 width2 channel2"]:
    """Applies a local function that halves the size to one band of rows at a time.

    Only one band's intermediate values are alive, and the backward pass computes
    them again. The result is that of the whole image, but for rounding.

    Args:
      forward: takes a band with `halo` more rows at its top and bottom, and whether
        each of its rows is `inside` the image (rows, 1, 1); rows that are not must
        be zero for every convolution. It returns the band without its halo, of half
        the height and width.
      x: the whole image.
      bands: number of bands.
      halo: number of rows on either side that a row of the result depends on.
    """
    batch, height, width, channels = x.shape
    rows = 2 * -(-height // (2 * bands))
    missing = bands * rows - height
    padded = jnp.pad(x, ((0, 0), (0, missing), (0, 0), (0, 0)))
    cut = padded.reshape(batch, bands, rows, width, channels)
    inside = (jnp.arange(bands * rows) < height).reshape(1, bands, rows, 1, 1)

    def take(band: tuple[Array, Array]) -> Array:
        return forward(*band)

    outputs = lax.map(
        jax.checkpoint(take),
        (_with_halo(cut, halo).swapaxes(0, 1), _with_halo(inside, halo)[0]),
    )
    joined = outputs.swapaxes(0, 1).reshape(
        batch, bands * rows // 2, *outputs.shape[3:]
    )
    y: Array = joined[:, : height // 2]
    return y


def _with_halo(
    cut: Float[Array, "batch band row *rest"] | Bool[Array, "batch band row *rest"],
    halo: int,
) -> Array:
    """Adds the neighbours' nearest rows to bands; zeros beyond the first and last."""
    beyond = jnp.zeros_like(cut[:, :1, :halo])
    above = jnp.concatenate([beyond, cut[:, :-1, -halo:]], axis=1)
    below = jnp.concatenate([cut[:, 1:, :halo], beyond], axis=1)
    return jnp.concatenate([above, cut, below], axis=2)
