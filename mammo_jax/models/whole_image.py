"""The paper's all-convolutional tops: two blocks, global average, logits.

Section 2.3 and Tables 2 and 3. Residual blocks are written [a-b-c] x n and VGG
blocks c x n in the paper; here "512-512-1024x2" and "512x1".
"""

import re
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mammo_jax.common.errors import UserError
from mammo_jax.models.layers import Window, global_average, make_dense
from mammo_jax.models.resnet import WIRINGS, make_residual_block
from mammo_jax.models.vgg import HALVING, VGGBlock

# New layers follow the Keras version that the paper used, on every trunk.
NEW_LAYERS_WIRING = WIRINGS["keras2017"]
BLOCK_STRIDE = 2

_NOTATION = {
    "residual": (re.compile(r"(\d+)-(\d+)-(\d+)x(\d+)"), "512-512-1024x2"),
    "vgg": (re.compile(r"(\d+)x(\d+)"), "512x1"),
}


def parse_block(
    kind: str, text: object, field: str = "config.model.top.blocks"
) -> tuple[tuple[int, ...], int]:
    """Reads the paper's notation: `(channels, repetitions)`.

    Args:
      kind: "residual" ("512-512-1024x2") or "vgg" ("512x1").
      text: the block.
      field: the block's name in messages.

    Raises:
      UserError: the text is not in that notation, or a number in it is zero.
    """
    pattern, example = _NOTATION[kind]
    match = pattern.fullmatch(str(text).replace(" ", ""))
    numbers = tuple(int(number) for number in match.groups()) if match else (0,)
    if min(numbers) < 1:
        raise UserError(
            f"{field}: {text!r} is not a {kind} block; write it like "
            f"{example!r} (channels, x, repetitions)"
        )
    return numbers[:-1], numbers[-1]


def _residual_block(
    channels_in: int, text: str, *, remat: bool, **options: Any
) -> tuple[nnx.Module, int]:
    (a, b, c), units = parse_block("residual", text)
    block = make_residual_block(
        channels_in,
        (a, b, c),
        units,
        stride=BLOCK_STRIDE,
        wiring=NEW_LAYERS_WIRING,
        remat=remat,
        **options,
    )
    return block, c


def _vgg_block(
    channels_in: int, text: str, *, remat: bool, **options: Any
) -> tuple[nnx.Module, int]:
    (channels,), depth = parse_block("vgg", text)
    norm = (NEW_LAYERS_WIRING.epsilon, NEW_LAYERS_WIRING.momentum)
    block = VGGBlock(
        channels_in,
        channels,
        depth,
        norm=norm,
        remat=remat,
        **options,
    )
    return block, channels


_MAKE_BLOCK = {"residual": _residual_block, "vgg": _vgg_block}
_WINDOWS = {"residual": Window(1, BLOCK_STRIDE), "vgg": HALVING}


class ConvolutionalTop(nnx.Module):
    """Blocks of stride 2, global average pooling and a dense layer of logits.

    Args:
      kind: "residual" or "vgg".
      blocks: each block in the paper's notation.
      channels_in: channels of the trunk's features.
      num_classes: number of logits.
      dtype: compute dtype of the blocks.
      remat: recompute the blocks in the backward pass.
    """

    def __init__(
        self,
        kind: str,
        blocks: Sequence[str],
        *,
        channels_in: int,
        num_classes: int,
        dtype: Any,
        remat: bool,
    ):
        channels = channels_in
        for index, text in enumerate(blocks):
            block, channels = _MAKE_BLOCK[kind](
                channels, text, dtype=dtype, remat=remat
            )
            setattr(self, f"block{index + 1}", block)
        self.output = make_dense(channels, num_classes)
        self.kind, self.count = kind, len(blocks)

    def __call__(
        self, features: Float[Array, "batch rows columns channel"], train: bool
    ) -> Float[Array, "batch class"]:
        """Computes the logits, float32; 36x28 features become 18x14, then 9x7."""
        return self.output(global_average(self._blocks(features, train)))

    def _blocks(self, x: Array, train: bool) -> Array:
        for index in range(1, self.count + 1):
            x = getattr(self, f"block{index}")(x, train)
        return x

    def class_map(
        self, features: Float[Array, "batch rows columns channel"]
    ) -> tuple[Float[Array, "batch class"], Float[Array, "batch rows2 columns2 class"]]:
        """Computes the logits of the image, and those at every position.

        The dense layer is linear: the mean over the positions is the image's.
        """
        x = self._blocks(features, False)
        return self.output(global_average(x)), self.output(x.astype(jnp.float32))

    def windows(self) -> tuple[Window, ...]:
        """Lists the layers that are not centred on their position or have a stride."""
        return (_WINDOWS[self.kind],) * self.count
