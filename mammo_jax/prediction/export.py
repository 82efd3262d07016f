"""Models as one file that scores images without this package.

The file has the weights in it and takes any number of images. It is ONNX where its name
ends in .onnx, and otherwise a serialised `jax.export` artifact for CPUs and NVIDIA
GPUs, which `jax.export.deserialize` reads.
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
from jax import export
from jaxtyping import Array, Float, UInt16

from mammo_jax.common.errors import UserError
from mammo_jax.common.files import replace_file
from mammo_jax.prediction import onnx_export
from mammo_jax.prediction.scorer import make_step
from mammo_jax.weights.model_directory import LoadedModel

PLATFORMS = ("cpu", "cuda")


def export_models(
    path: Path, models: Sequence[LoadedModel], *, tta: bool, credit: str
) -> tuple[int, int]:
    """Writes the mean score of the models as one file, whole or not at all.

    Args:
      path: the file; its directory is made.
      models: at least one, of one grid.
      tta: average over the four flips of every image.
      credit: licence and citation; ONNX alone has a place for them.

    Returns:
      Height and width of the images that the file scores.

    Raises:
      UserError: the file cannot be written, or ONNX cannot hold a model.
    """
    is_onnx = path.suffix.lower() == onnx_export.SUFFIX
    if is_onnx and any(m.model_config.compute_dtype != "float32" for m in models):
        raise UserError(
            f"{path}: a model computes in bfloat16, which ONNX's convolutions do not "
            "take; give the file another ending, for jax.export"
        )
    height, width, _ = models[0].description.grid
    steps = [make_step(model, tta=tta, at_once=True) for model in models]

    def score(images: UInt16[Array, "batch height width"]) -> Float[Array, " batch"]:
        scores = [
            step(model.params, {}, images).scores.mean(0)
            for model, step in zip(models, steps, strict=True)
        ]
        return jnp.mean(jnp.stack(scores), axis=0)

    if is_onnx:
        content: bytes | bytearray = onnx_export.convert(score, height, width, credit)
    else:
        (batch,) = export.symbolic_shape("batch")
        images = jax.ShapeDtypeStruct((batch, height, width), jnp.uint16)
        with _without_locations():
            exported = export.export(jax.jit(score), platforms=PLATFORMS)(images)
        content = exported.serialize()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(path) as partial:
            partial.write_bytes(content)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error
    return height, width


@contextlib.contextmanager
def _without_locations() -> Iterator[None]:
    """Leaves paths of source files, which name folders and users, out of programs."""
    name = "jax_traceback_in_locations_limit"
    limit = getattr(jax.config, name)
    jax.config.update(name, 0)
    try:
        yield
    finally:
        jax.config.update(name, limit)
