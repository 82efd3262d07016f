"""YaroslavNet, a trunk that the authors' later code has beside the paper's.

Six blocks of two 3x3 convolutions with batch normalisation, each with a max-pool. It is
narrower than VGG16, sees one grey channel and ends at a stride of 64: 1152x896 pixels
give 18x14 positions, a patch of 224 pixels 3x3. The convolutions have biases.
"""

from typing import Any

from jaxtyping import Array, Float

from mammo_jax.models.layers import HALVINGS, Chain, Window
from mammo_jax.models.resnet import WIRINGS, scale_channels
from mammo_jax.models.vgg import HALVING, VGGBlock

# Channels of the blocks, and convolutions in each.
CHANNELS = (32, 64, 128, 256, 256, 512)
DEPTH = 2


class YaroslavNet(Chain):
    """YaroslavNet without the classifier.

    `width` multiplies every number of channels; a `stride` (of `HALVINGS`) below 64
    leaves out the last blocks.
    """

    def __init__(self, *, width: float, stride: int, dtype: Any, remat: bool):
        counts = [scale_channels(n, width) for n in CHANNELS[: HALVINGS[stride]]]
        options: dict[str, Any] = {"dtype": dtype, "remat": remat}
        super().__init__(
            {
                f"block{number}": VGGBlock(
                    before, count, DEPTH, norm=WIRINGS["keras2017"].norm, **options
                )
                for number, (before, count) in enumerate(
                    zip([1, *counts], counts, strict=False), 1
                )
            }
        )
        self.channels, self.dtype = counts[-1], dtype

    def __call__(
        self, images: Float[Array, "batch height width 3"], train: bool
    ) -> Float[Array, "batch rows columns channel"]:
        """Computes features from the first channel: in scoring all three are equal."""
        return super().__call__(images[..., :1].astype(self.dtype), train)

    def windows(self) -> tuple[Window, ...]:
        """Lists the layers that are not centred on their position or have a stride."""
        return (HALVING,) * len(self.names)
