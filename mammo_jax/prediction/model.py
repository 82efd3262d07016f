"""Trained models as one object that scores files and arrays."""

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from mammo_jax.common.errors import UserError
from mammo_jax.images.dicom import Mammogram
from mammo_jax.images.grid import Grid
from mammo_jax.images.pictures import read_image
from mammo_jax.prediction.reading import Input, prepare
from mammo_jax.prediction.scorer import Result, Scorer, batch_size_for
from mammo_jax.weights.hub import find_directory
from mammo_jax.weights.model_description import Description
from mammo_jax.weights.model_directory import LoadedModel, load_model


class Model:
    """Model, or an ensemble of them, that scores mammograms as `predict` does.

    The networks are compiled at the first score, once for each size of a batch.

    Attributes:
      models: the loaded models.
    """

    def __init__(self, models: Sequence[LoadedModel]):
        self.models = tuple(models)
        self._scorer = functools.cache(
            lambda size, tta: Scorer(self.models, size, tta=tta)
        )

    @property
    def description(self) -> Description:
        """Description of the model, in an ensemble of the first one."""
        return self.models[0].description

    def score(self, path: str | Path, tta: bool = False) -> Result:
        """Scores a file.

        Args:
          path: a DICOM, PNG, TIFF, JPEG or PGM file of one mammogram.
          tta: average over the four flips of the image.

        Returns:
          The score, `.score`, 0..1, higher is more suspicious; the class map over
          the picture, `.map`, -1..1; and the map in colour, `.overlay()`, uint8 RGB.

        Raises:
          UserError: the file cannot be read, or is no whole mammogram.
        """
        path = Path(path).expanduser()
        image = prepare(path, read_image(path), self._grids)
        (result,) = self._scorer(1, tta).score([image])
        return result

    def __call__(self, pixels: np.ndarray, bits: int = 12) -> Float64[np.ndarray, "*b"]:
        """Scores arrays as `predict` scores files of the same pixels.

        Args:
          pixels: whole mammograms, uint8 or uint16, (height, width) or (batch, height,
            width), brighter is larger, 0 .. 2**bits - 1.
          bits: bits of a pixel, 8 to 16.

        Returns:
          Scores, 0..1, higher is more suspicious: shape () or (batch,).

        Raises:
          UserError: the pixels or the bits are not as described, or an image is no
            whole mammogram.
        """
        _check_pixels(pixels, bits)
        stack = pixels if pixels.ndim == 3 else pixels[None]
        images = [self._prepare(one, bits, at) for at, one in enumerate(stack)]
        size = batch_size_for(self.models, len(images))
        scores = [
            result.score
            for start in range(0, len(images), size)
            for result in self._scorer(size, False).score(images[start : start + size])
        ]
        return np.array(scores, np.float64).reshape(pixels.shape[:-2])

    @property
    def _grids(self) -> list[Grid]:
        return [model.description.grid for model in self.models]

    def _prepare(self, pixels: np.ndarray, bits: int, number: int) -> Input:
        mammogram = Mammogram(
            rows=pixels.shape[0],
            columns=pixels.shape[1],
            bits_allocated=8 * pixels.itemsize,
            bits_stored=bits,
            photometric="MONOCHROME2",
            pixels=np.ascontiguousarray(pixels, np.uint16),
        )
        return prepare(Path(f"image {number}"), mammogram, self._grids)


def load(directories: str | Path | Sequence[str | Path]) -> Model:
    """Loads the model of a finished run, or several as an ensemble.

    Args:
      directories: the run, such as "runs/demo", or "hf://OWNER/NAME[@REVISION]" on a
        hub; of several their scores and class maps are averaged.

    Raises:
      UserError: none is named, or one is no finished run, damaged, or not fetched.
    """
    if isinstance(directories, str | Path):
        directories = [directories]
    if not directories:
        raise UserError("no directory is named; give that of a finished run")
    return Model([load_model(find_directory(one)) for one in directories])


def _check_pixels(pixels: np.ndarray, bits: int) -> None:
    given = f"{getattr(pixels, 'dtype', type(pixels).__name__)} {np.shape(pixels)}"
    if not (
        isinstance(pixels, np.ndarray)
        and pixels.dtype in (np.uint8, np.uint16)
        and pixels.ndim in (2, 3)
        and pixels.size
    ):
        raise UserError(
            "expected a NumPy array of uint8 or uint16 pixels of shape (height, width)"
            f" or (batch, height, width); got {given}"
        )
    if bits not in range(8, 8 * pixels.itemsize + 1):
        raise UserError(
            f"{bits} bits do not go with {given}; give 8, or for uint16 pixels 8 to 16"
        )
    if (highest := int(pixels.max())) >> bits:
        raise UserError(
            f"expected values up to {2**bits - 1} (bits={bits}); got {highest}; give"
            " the bits that the detector or the file has"
        )
