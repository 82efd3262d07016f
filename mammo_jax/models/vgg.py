"""The trunks VGG16, VGG19 and YaroslavNet, and VGG blocks with batch normalisation.

Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
Recognition", 2014: these two have no batch normalisation. YaroslavNet, which the
authors' later code has beside the paper's, is narrower, normalises, sees one grey
channel and ends at a stride of 64: 1152x896 pixels give 18x14 positions, a patch of 224
pixels 3x3.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mammo_jax.models.layers import (
    HALVINGS,
    Chain,
    MaxPool,
    Window,
    make_conv,
    map_bands,
    recompute,
)
from mammo_jax.models.normalization import BatchNorm
from mammo_jax.models.resnet import WIRINGS, scale_channels

# Convolutions in each of VGG's five blocks.
DEPTHS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
# Channels and convolutions of each block.
SIZES: dict[str, tuple[tuple[int, int], ...]] = {
    **{
        n: tuple(zip((64, 128, 256, 512, 512), d, strict=True))
        for n, d in DEPTHS.items()
    },
    "yaroslav": tuple((channels, 2) for channels in (32, 64, 128, 256, 256, 512)),
}
HALVING = Window(2, 2)
# Positions that a block without normalisation recomputes at once: larger images are
# recomputed in bands. At 4608x3584 a single activation of the first block has 2 GB.
POSITIONS_AT_ONCE = 1152 * 896


class VGGBlock(nnx.Module):
    """3x3 convolutions with ReLU, `depth` of them, then a 2x2 max-pool.

    `norm` makes the batch normalisation before each ReLU; None for none. With `remat`
    the block is computed again in the backward pass; large images in bands of about
    `POSITIONS_AT_ONCE`, unless there is normalisation.
    """

    def __init__(
        self,
        channels_in: int,
        channels: int,
        depth: int,
        *,
        norm: Callable[[int], BatchNorm] | None,
        dtype: Any,
        remat: bool,
    ):
        for index in range(1, depth + 1):
            conv = make_conv(channels_in, channels, 3, dtype=dtype)
            setattr(self, f"conv{index}", conv)
            if norm is not None:
                setattr(self, f"bn{index}", norm(channels))
            channels_in = channels
        self.pool = MaxPool(HALVING)
        self.depth = depth
        self.has_norm = norm is not None
        self.remat = remat

    def __call__(
        self, x: Float[Array, "batch height width channel"], train: bool
    ) -> Float[Array, "batch height2 width2 channel2"]:
        """Applies the block; height and width are halved, rounding down."""
        bands = self._bands(*x.shape[:3]) if self.remat else 1
        if bands > 1:
            return map_bands(self._forward_band, x, bands=bands, halo=self.depth)
        return recompute(VGGBlock._forward, self, x, train, enabled=self.remat)

    def _bands(self, batch: Any, height: int, width: int) -> int:
        """Counts the bands that an activation is recomputed in."""
        # In an exported model the batch has no number yet, and no gradient follows.
        if self.has_norm or not isinstance(batch, int):
            return 1
        bands = -(-batch * height * width // POSITIONS_AT_ONCE)
        return min(bands, height // (2 * self.depth))  # A halo is a part of a band.

    def _forward(self, x: Array, train: bool) -> Array:
        for index in range(1, self.depth + 1):
            x = getattr(self, f"conv{index}")(x)
            if self.has_norm:
                x = getattr(self, f"bn{index}")(x, train)
            x = jax.nn.relu(x)
        return self.pool(x)

    def _forward_band(self, x: Array, inside: Array) -> Array:
        for index in range(1, self.depth + 1):
            x = jax.nn.relu(getattr(self, f"conv{index}")(x))
            # Zeros are the next convolution's padding, from the image's edge on.
            x = jnp.where(inside, x, 0)
        return self.pool(x[:, self.depth : -self.depth])


class VGG(Chain):
    """VGG16, VGG19 or YaroslavNet (a key of `SIZES`) without the classifier.

    `width` multiplies every number of channels; 1.0 is the published one. A `stride`
    (of `HALVINGS`) below the full one leaves out the last blocks.
    """

    def __init__(
        self, name: str, *, width: float, stride: int, dtype: Any, remat: bool
    ):
        blocks: dict[str, nnx.Module] = {}
        is_grey = name == "yaroslav"
        norm = WIRINGS["keras2017"].norm if is_grey else None
        channels_in = self.inputs = 1 if is_grey else 3
        for number, (count, depth) in enumerate(SIZES[name][: HALVINGS[stride]], 1):
            channels = scale_channels(count, width)
            blocks[f"block{number}"] = VGGBlock(
                channels_in, channels, depth, norm=norm, dtype=dtype, remat=remat
            )
            channels_in = channels
        super().__init__(blocks)
        self.channels = channels_in
        self.dtype = dtype

    def __call__(
        self, images: Float[Array, "batch height width 3"], train: bool
    ) -> Float[Array, "batch rows columns channel"]:
        """Computes features: of 1152x896 pixels 36x28x512 at a stride of 32.

        YaroslavNet reads the first channel: in scoring all three are equal.
        """
        return super().__call__(images[..., : self.inputs].astype(self.dtype), train)

    def windows(self) -> tuple[Window, ...]:
        """Lists the layers that are not centred on their position or have a stride."""
        return (HALVING,) * len(self.names)
