"""Four-flip averaging: each image as it is, mirrored, upside down, and both.

Section 4 of the paper averages the scores of the four. The flips are made on the
device, inside the one jitted step.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Shaped

# The axes of (batch, height, width, ...) that each flip reverses.
FLIPS: tuple[tuple[int, ...], ...] = ((), (2,), (1,), (1, 2))
NO_FLIP: tuple[tuple[int, ...], ...] = ((),)


def on_flips(
    function: Callable[[Array], Any],
    images: Shaped[Array, "batch height width *channel"],
    flips: Sequence[tuple[int, ...]],
    *,
    at_once: bool,
) -> Any:
    """Applies a function to every flip of the images.

    Args:
      function: from images to a tree of arrays, each with the batch first, which
        treats every image by itself.
      images: on the network's grid.
      flips: see `FLIPS`.
      at_once: True for one batch of all flips, not one flip after the other. That is
        faster on a CPU, where XLA runs convolutions slowly inside a loop, and
        elsewhere a waste of memory.

    Returns:
      The function's tree, with an axis of flips before the batch.
    """
    if len(flips) == 1:
        result = function(jnp.flip(images, flips[0]))
        return jax.tree.map(lambda x: x[None], result)
    flipped = jnp.stack([jnp.flip(images, axes) for axes in flips])
    if at_once:
        result = function(flipped.reshape(-1, *images.shape[1:]))
        return jax.tree.map(lambda x: x.reshape(len(flips), -1, *x.shape[1:]), result)
    return jax.lax.map(function, flipped)


def average_over_flips(
    function: Callable[[Array], Any],
    images: Shaped[Array, "batch height width *channel"],
    *,
    at_once: bool,
) -> Any:
    """Averages a function over the four flips; see `on_flips`."""
    results = on_flips(function, images, FLIPS, at_once=at_once)
    return jax.tree.map(lambda x: x.mean(0), results)
