"""The heatmap designs: the patch classifier slid over the whole image.

Section 2.3. A 7x7 average over the trunk's features, then the patch
classifier's own dense layer at every position, gives a map of the five patch
classes: 30x22 positions for a 1152x896 image. Fully connected layers with a
shortcut, or a random forest, read the map.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mammo_jax.models.layers import MaxPool, Window, make_dense
from mammo_jax.models.normalization import BatchNorm
from mammo_jax.models.whole_image import NEW_LAYERS_WIRING

ACTIVATIONS = {"softmax": jax.nn.softmax, "relu": jax.nn.relu}


def patch_logits(
    features: Float[Array, "batch rows columns channel"], head: nnx.Linear, window: int
) -> Float[Array, "batch rows2 columns2 class"]:
    """Computes the patch classifier's logits at every position of its window.

    Args:
      features: features of the trunk.
      head: the patch classifier's dense layer.
      window: side of a patch in the trunk's positions; 7 for 224 pixels.

    Returns:
      Logits at `rows - window + 1` by `columns - window + 1` positions.
    """
    sides = (window, window)
    pooled = nnx.avg_pool(features.astype(jnp.float32), sides)  # type: ignore[no-untyped-call]
    return head(pooled)


class ConnectedTop(nnx.Module):
    """Max-pool, flatten, two fully connected layers and a shortcut to the logits.

    Args:
      positions: rows and columns of the heatmap; the dense layers' sizes
        depend on them.
      patch_classes: channels of the heatmap.
      pool: side and stride of the max-pool over the heatmap.
      fc: features of the two fully connected layers.
      num_classes: number of logits.
    """

    def __init__(
        self,
        positions: tuple[int, int],
        *,
        patch_classes: int,
        pool: int,
        fc: tuple[int, int],
        num_classes: int,
    ):
        rows, columns = (size // pool for size in positions)
        flattened = rows * columns * patch_classes
        first, second = fc
        norm = {
            "epsilon": NEW_LAYERS_WIRING.epsilon,
            "momentum": NEW_LAYERS_WIRING.momentum,
        }
        self.fc1 = make_dense(flattened, first)
        self.bn1 = BatchNorm(first, **norm)
        self.fc2 = make_dense(first, second)
        self.bn2 = BatchNorm(second, **norm)
        self.output = make_dense(second, num_classes)
        self.shortcut = make_dense(flattened, num_classes)
        self.pool = MaxPool(Window(pool, pool))

    def __call__(
        self, heatmap: Float[Array, "batch rows columns class"], train: bool
    ) -> Float[Array, "batch class2"]:
        """Computes the logits, float32."""
        pooled = self.pool(heatmap)
        flat = pooled.reshape(pooled.shape[0], -1)
        x = jax.nn.relu(self.bn1(self.fc1(flat), train))
        x = jax.nn.relu(self.bn2(self.fc2(x), train))
        return self.output(x) + self.shortcut(flat)
