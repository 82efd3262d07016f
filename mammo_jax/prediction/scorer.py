"""Scoring of images by several models: the mean of their scores and class maps."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, UInt8

from mammo_jax.common.errors import UserError
from mammo_jax.evaluation.calibration import Line, apply_line
from mammo_jax.images.overlays import draw_overlay
from mammo_jax.models import class_map
from mammo_jax.models.compiling import jit_network
from mammo_jax.models.flips import FLIPS, NO_FLIP
from mammo_jax.prediction.reading import Input
from mammo_jax.weights.model_directory import LoadedModel

# Flips of an image, without and with test-time augmentation.
_FLIPS = (NO_FLIP, FLIPS)


class Result(NamedTuple):
    """Result of one image, the mean over models and flips.

    Attributes:
      score: 0..1, higher is more suspicious; a probability where it is calibrated.
      map: class map over the picture, from -1 (against malignancy) to 1 (for it); see
        `mammo_jax.models.class_map.strength`.
      picture: the mammogram made small, with its aspect ratio, for looking at.
    """

    score: float
    map: Float[np.ndarray, "height width"]
    picture: UInt8[np.ndarray, "height width"]

    def overlay(self) -> UInt8[np.ndarray, "height width 3"]:
        """Draws the class map over the picture (RGB)."""
        return draw_overlay(self.picture, self.map)


class Scorer:
    """Scores batches of images with every model.

    It compiles in a thread from its making on, while the first images are read.

    Args:
      models: at least one.
      batch_size: images in a batch.
      tta: average over the four flips of every image (section 4).
      calibrated: put each model's scores on its own calibration's line.
    """

    def __init__(
        self,
        models: Sequence[LoadedModel],
        batch_size: int,
        *,
        tta: bool,
        calibrated: bool = False,
    ):
        self.batch_size = batch_size
        self._models = models
        self._tta = tta
        self._calibrated = calibrated
        self._thread = ThreadPoolExecutor(1)
        self._steps = [self._thread.submit(self._compile, model) for model in models]

    def close(self) -> None:
        """Compiles no further models."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _compile(self, model: LoadedModel) -> Any:
        at_once = jax.default_backend() == "cpu"
        step = make_step(model, tta=self._tta, at_once=at_once)
        shape = (self.batch_size, *model.description.grid[:2])
        images = jax.ShapeDtypeStruct(shape, np.uint16)
        lowered = jit_network(step).lower(model.params, {}, images)
        return lowered.compile()

    def score(self, images: Sequence[Input]) -> list[Result]:
        """Scores at most a batch of images."""
        return self.begin(images)()

    def begin(self, images: Sequence[Input]) -> Callable[[], list[Result]]:
        """Begins to score at most a batch of images, filled up with copies of the last.

        Returns:
          A function that waits for the results.
        """
        padded = [*images, *[images[-1]] * (self.batch_size - len(images))]
        results = []
        for model, step in zip(self._models, self._steps, strict=True):
            grid = model.description.grid
            batch = np.stack([image.grids[grid] for image in padded])
            results.append(step.result()(model.params, {}, batch))

        def finish() -> list[Result]:
            found = jax.tree.map(np.asarray, results)
            return [
                self._sum_up(jax.tree.map(lambda x, at=at: x[:, at], found), image)
                for at, image in enumerate(images)
            ]

        return finish

    def _sum_up(self, found: Sequence[class_map.ClassMaps], image: Input) -> Result:
        """Averages over the models, each with an axis of flips."""
        scores = np.array([np.mean(one.scores, dtype=np.float64) for one in found])
        if not np.isfinite(scores).all():
            raise UserError(
                "the model's outputs are not finite; it was not trained to an end"
            )
        if self._calibrated:
            for at, model in enumerate(self._models):
                line = Line(*model.description.calibration or ())
                scores[at : at + 1] = apply_line(scores[at : at + 1], line)
        flips = _FLIPS[self._tta]
        maps = [
            _laid_over(flipped, axes, model, image)
            for model, one in zip(self._models, found, strict=True)
            for axes, flipped in zip(flips, np.asarray(one.maps), strict=True)
        ]
        score = float(np.clip(np.mean(scores), 0, 1))
        return Result(score, np.mean(np.stack(maps), axis=0), image.picture)


def make_step(
    model: LoadedModel, *, tta: bool, at_once: bool
) -> class_map.ClassMapStep:
    """Builds the model's step from images to scores and class maps; not jitted."""
    return class_map.make_class_map_step(
        model.graphdef,
        window=model.window,
        pixel_mean=model.description.pixel_mean,
        malignant_classes=model.description.malignant_classes,
        flips=_FLIPS[tta],
        at_once=at_once,
    )


def _laid_over(
    position_map: Float[np.ndarray, "rows columns"],
    axes: tuple[int, ...],
    model: LoadedModel,
    image: Input,
) -> Float[np.ndarray, "height width"]:
    """Lays the map of a flipped image over the picture, turned back."""
    strength = class_map.strength(position_map, model.model_config)
    grid, shape = model.description.grid[:2], image.picture.shape
    shown = class_map.project(strength, model.model_config, model.window, grid, shape)
    return np.flip(shown, tuple(axis - 1 for axis in axes))


def batch_size_for(models: Sequence[LoadedModel], images: int) -> int:
    """Returns how many images fitted into memory in the models' own evaluation.

    A batch of patches counts as the whole images that have as many pixels.
    """
    sizes = [images]
    for model in models:
        said, size = model.description, model.config.eval_batch_size
        if said.patch_size:
            size = size * said.patch_size**2 // (said.height * said.width)
        sizes.append(max(size, 1))
    return min(sizes)
