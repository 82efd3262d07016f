"""Appendix 1 on the real networks: how much gradient the heatmap's softmax lets by.

Measured is the size of the Jacobian of an image's log-odds of malignancy by the trunk's
last feature map, before the training and at its best epoch, on the first validation
images. A loss's gradient would measure how well a design fits, too: the residual is a
factor of it. The designs start from the same patch classifiers.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mammo_jax.common import run_directory
from mammo_jax.common.progress import progress
from mammo_jax.models import variables
from mammo_jax.models.compiling import jit_network
from mammo_jax.models.initial_values import draw_values
from mammo_jax.models.network_input import network_input
from mammo_jax.training.experiment import open_experiment
from mammo_jax.training.state import Arrays
from mammo_jax.weights import conversion
from mammo_jax.weights.model_directory import load_variables
from paper.runs import Found, PlannedRun

# In a run's `derived`: the mean sizes, by `WHEN`.
JACOBIAN_FILE = "jacobian.json"
WHEN = ("start", "best epoch")
JacobianNorms = Callable[[Arrays, Arrays, Array], Float[Array, " batch"]]
SOFTMAX = "heatmap, softmax"
# The rows of each trunk, by what lies between its last feature map and the loss.
DESIGNS = {
    trunk: {
        "all-convolutional": f"{trunk}_s10_{best}",
        SOFTMAX: f"{trunk}_s10_heatmap_1x1",
        "heatmap, ReLU": f"{trunk}_s10_heatmap_1x1_relu",
    }
    for trunk, best in {
        "resnet50": "residual_512-512-1024x2",
        "vgg16": "vgg_512x1",
    }.items()
}
ROWS = tuple(row for rows in DESIGNS.values() for row in rows.values())


def measure_all(found: Found) -> None:
    """Measures every finished run of a design that is not measured yet."""
    there = (run for row in ROWS for run in found.get(row, ()))
    left = [run for run in there if not (run.derived / JACOBIAN_FILE).exists()]
    for run in progress(left, "Jacobians", unit="run"):
        sizes = _measure(run)
        run.derived.mkdir(exist_ok=True)
        run_directory.write_json(run.derived / JACOBIAN_FILE, sizes)
        # Otherwise all designs' compiled steps would stay in memory.
        jax.clear_caches()


def read_sizes(row: str, found: Found) -> dict[int, list[float]]:
    """Reads a row's sizes, in the order of `WHEN`, by seed."""
    paths = {run.seed: run.derived / JACOBIAN_FILE for run in found.get(row, ())}
    read = {s: run_directory.read_json(p) for s, p in paths.items() if p.exists()}
    return {seed: [sizes[when] for when in WHEN] for seed, sizes in read.items()}


def read_logarithms(row: str, found: Found) -> dict[int, list[float]]:
    """Reads the mean log10 of a row's sizes by seed, as a list of one."""
    # A Jacobian that is nought to the last bit has the smallest number's logarithm.
    least = np.finfo(np.float32).tiny
    return {
        seed: [float(np.log10(np.maximum(sizes, least)).mean())]
        for seed, sizes in read_sizes(row, found).items()
    }


def _measure(run: PlannedRun) -> dict[str, float]:
    experiment = open_experiment(run.config)
    batch = next(experiment.evaluation_batches("validation"))
    images = experiment.evaluation_arrays(batch)["image"]
    is_image = batch["weight"] > 0  # The others fill the batch.
    norms = make_jacobian_norms(experiment.graphdef, experiment.pixel_mean)
    _, params, stats = load_variables(Path(run.config.init_from))
    *known, _ = conversion.take_over(params, stats, *experiment.abstract)
    start = draw_values(experiment.settings.model, run.config.seed, *known)
    _, params, stats = load_variables(run.directory)

    def size(params: Arrays, stats: Arrays) -> float:
        return float(np.asarray(norms(params, stats, images))[is_image].mean())

    return dict(zip(WHEN, (size(*start), size(params, stats)), strict=True))


def make_jacobian_norms(graphdef: Any, pixel_mean: float) -> JacobianNorms:
    """Makes the function of the norm of d(log-odds of an image) / d(its features).

    Args:
      graphdef: a whole-image model's.
      pixel_mean: the mean of the training images, on the scale 0..255.

    Returns:
      A jitted function from parameters, statistics and images to a norm for each.
      Statistics of batch normalisation are the running ones: images do not mix.
    """

    @jit_network
    def norms(params: Arrays, stats: Arrays, images: Array) -> Array:
        model: Any = variables.merge(graphdef, params, stats)
        features = model.trunk(network_input(images, pixel_mean), False)

        def log_odds(features: Array) -> Array:
            logits: Array = model.classify(features, False)
            return (logits[:, 1] - logits[:, 0]).sum()

        jacobian = jax.grad(log_odds)(features.astype(jnp.float32))
        return jnp.asarray(jnp.sqrt(jnp.sum(jacobian**2, axis=(1, 2, 3))))

    result: JacobianNorms = norms
    return result
