"""Class maps of the model in training, for TensorBoard."""

from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Float, UInt16

from mammo_jax.models import class_map, flips
from mammo_jax.models.compiling import jit_network
from mammo_jax.training.experiment import Experiment
from mammo_jax.training.state import Arrays

# A function from parameters, statistics, an image of the validation split, and the
# height and width of the picture that it is shown as, to the class map over that
# picture; see `class_map.strength`.
ShownMap = Callable[
    [Arrays, Arrays, UInt16[np.ndarray, "rows columns"], tuple[int, int]],
    Float[np.ndarray, "height width"],
]


def make_shown_map(experiment: Experiment) -> ShownMap:
    """Makes a `ShownMap`, compiled once.

    Whole-image classifiers are shown as `predict` shows them. A patch classifier,
    which `predict` slides over whole images, has a class activation map of its own
    within a patch: that of a window of one position.
    """
    config = experiment.settings.model
    window = 1 if experiment.config.task == "patch" else None
    step = jit_network(
        class_map.make_class_map_step(
            experiment.graphdef,
            window=window,
            pixel_mean=experiment.pixel_mean,
            malignant_classes=experiment.settings.task.malignant_classes,
            flips=flips.NO_FLIP,
            at_once=True,
        )
    )

    def shown_map(
        params: Arrays,
        stats: Arrays,
        image: UInt16[np.ndarray, "rows columns"],
        shape: tuple[int, int],
    ) -> Float[np.ndarray, "height width"]:
        # One process shows one image at a time, on one device.
        here = jax.tree.map(lambda x: x.addressable_data(0), (params, stats))
        maps = step(*here, image[None]).maps
        strength = class_map.strength(np.asarray(maps[0, 0]), config)
        return class_map.project(strength, config, window, image.shape, shape)

    return shown_map
