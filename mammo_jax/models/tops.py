"""The paper's tops for whole images (section 2.3, Tables 2 and 3).

All-convolutional: two blocks, global average, logits. Residual blocks are written
[a-b-c] x n and VGG blocks c x n in the paper; here "512-512-1024x2" and "512x1".

Heatmap: a 7x7 average over the trunk's features, then the patch classifier's own dense
layer at every position, gives a map of the five patch classes: 30x22 positions for a
1152x896 image. Fully connected layers with a shortcut, or a random forest, read it.
"""

import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mammo_jax.common.errors import UserError
from mammo_jax.models.layers import MaxPool, Window, global_average, make_dense
from mammo_jax.models.resnet import WIRINGS, make_residual_block
from mammo_jax.models.vgg import HALVING, VGGBlock

# New layers follow the Keras version that the paper used, on every trunk.
_WIRING = WIRINGS["keras2017"]
PATCH_CLASSES = 5
ACTIVATIONS = {"softmax": jax.nn.softmax, "relu": jax.nn.relu}
# kind: (notation of a block, example, the layer that strides in a block)
BLOCKS = {
    "residual": (
        r"(\d{1,5})-(\d{1,5})-(\d{1,5})x(\d{1,2})",
        *("512-512-1024x2", Window(1, 2)),
    ),
    "vgg": (r"(\d{1,5})x(\d{1,2})", "512x1", HALVING),
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
      UserError: the text is not in that notation, or a number in it is zero or has
        more than five digits, or the number of repetitions more than two.
    """
    pattern, example, _ = BLOCKS[kind]
    match = re.fullmatch(pattern, str(text).replace(" ", ""))
    numbers = tuple(int(number) for number in match.groups()) if match else (0,)
    if min(numbers) < 1:
        raise UserError(
            f"{field}: {text!r} is not a {kind} block; write it like "
            f"{example!r} (channels, x, repetitions)"
        )
    return numbers[:-1], numbers[-1]


def _make_block(
    channels_in: int, channels: tuple[int, ...], repetitions: int, **options: Any
) -> nnx.Module:
    if len(channels) == 1:
        return VGGBlock(
            channels_in, *channels, repetitions, norm=_WIRING.norm, **options
        )
    a, b, c = channels
    return make_residual_block(
        channels_in, (a, b, c), repetitions, stride=2, wiring=_WIRING, **options
    )


class ConvolutionalTop(nnx.Module):
    """Blocks of stride 2, global average pooling and a dense layer of logits.

    `kind` is "residual" or "vgg", `blocks` are in the paper's notation, `channels_in`
    are those of the trunk's features.
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
        for index, text in enumerate(blocks, 1):
            channels, repetitions = parse_block(kind, text)
            block = _make_block(
                channels_in, channels, repetitions, dtype=dtype, remat=remat
            )
            setattr(self, f"block{index}", block)
            channels_in = channels[-1]
        self.output = make_dense(channels_in, num_classes)
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
        return (BLOCKS[self.kind][-1],) * self.count


def patch_logits(
    features: Float[Array, "batch rows columns channel"], head: nnx.Linear, window: int
) -> Float[Array, "batch rows2 columns2 class"]:
    """Computes a patch classifier's logits at every position of its window.

    Args:
      features: features of the trunk.
      head: the patch classifier's dense layer.
      window: side of a patch in the trunk's positions; 7 for 224 pixels.
    """
    exact = features.astype(jnp.float32)
    pooled = nnx.avg_pool(exact, window_shape=(window, window))  # type: ignore[no-untyped-call]
    return head(pooled)


class ConnectedTop(nnx.Module):
    """Max-pool, flatten, two fully connected layers and a shortcut to the logits.

    The sizes of the layers depend on `positions`, rows and columns of the heatmap.
    `pool` is side and stride of the max-pool, `fc` has the features of the two layers.
    """

    def __init__(
        self,
        positions: tuple[int, int],
        *,
        activation: str,
        pool: int,
        fc: tuple[int, int],
        num_classes: int,
    ):
        rows, columns = (size // pool for size in positions)
        flattened = rows * columns * PATCH_CLASSES
        first, second = fc
        self.fc1 = make_dense(flattened, first)
        self.bn1 = _WIRING.norm(first)
        self.fc2 = make_dense(first, second)
        self.bn2 = _WIRING.norm(second)
        self.output = make_dense(second, num_classes)
        self.shortcut = make_dense(flattened, num_classes)
        self.pool = MaxPool(Window(pool, pool))
        self.activation = activation

    def __call__(
        self, heatmap: Float[Array, "batch rows columns class"], train: bool
    ) -> Float[Array, "batch class2"]:
        """Computes the logits, float32, from those of the patch classes."""
        pooled = self.pool(ACTIVATIONS[self.activation](heatmap))
        flat = pooled.reshape(pooled.shape[0], -1)
        x = jax.nn.relu(self.bn1(self.fc1(flat), train))
        x = jax.nn.relu(self.bn2(self.fc2(x), train))
        return self.output(x) + self.shortcut(flat)
