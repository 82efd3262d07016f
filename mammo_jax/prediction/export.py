"""Models as one file that scores images without this package.

The file is a serialised `jax.export` artifact with the weights in it, for CPUs and
NVIDIA GPUs and any number of images; `jax.export.deserialize` reads it.
"""

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
from jax import export
from jaxtyping import Array, Float, UInt16

from mammo_jax.common.errors import UserError
from mammo_jax.common.files import replace_file
from mammo_jax.prediction.scorer import make_step
from mammo_jax.weights.model_directory import LoadedModel

PLATFORMS = ("cpu", "cuda")


def export_models(
    path: Path, models: Sequence[LoadedModel], *, tta: bool
) -> tuple[int, int]:
    """Writes the mean score of the models as one file, whole or not at all.

    Args:
      path: the file; its directory is made.
      models: at least one, of one grid.
      tta: average over the four flips of every image.

    Returns:
      Height and width of the images that the file scores.

    Raises:
      UserError: the file cannot be written.
    """
    height, width, _ = models[0].description.grid
    steps = [make_step(model, tta=tta, at_once=True) for model in models]

    def score(images: UInt16[Array, "batch height width"]) -> Float[Array, " batch"]:
        scores = [
            step(model.params, {}, images).scores.mean(0)
            for model, step in zip(models, steps, strict=True)
        ]
        return jnp.mean(jnp.stack(scores), axis=0)

    (batch,) = export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, height, width), jnp.uint16)
    content = export.export(jax.jit(score), platforms=PLATFORMS)(images).serialize()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(path) as partial:
            partial.write_bytes(content)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error
    return height, width
