"""A model as one file that scores images without this package.

The file is a serialised `jax.export` artifact with the weights in it, for CPUs and
NVIDIA GPUs and any number of images; `jax.export.deserialize` reads it.
"""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
from jax import export
from jaxtyping import Array, Float, UInt16

from mammo_jax.common.errors import UserError
from mammo_jax.common.files import replace_file

PLATFORMS = ("cpu", "cuda")


def export_scorer(
    path: Path,
    score: Callable[[UInt16[Array, "batch height width"]], Float[Array, " batch"]],
    grid: tuple[int, int],
) -> None:
    """Writes `score` to a file, whole or not at all.

    Args:
      path: of the file; its directory is made.
      score: from images to probabilities of malignancy.
      grid: height and width of the images.

    Raises:
      UserError: the file cannot be written.
    """
    (batch,) = export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *grid), jnp.uint16)
    content = export.export(jax.jit(score), platforms=PLATFORMS)(images).serialize()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(path) as partial:
            partial.write_bytes(content)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error
