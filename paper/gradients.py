"""Appendix 1 on the real networks: how much gradient the heatmap's softmax lets by.

The designs start from the same patch classifier and train as their rows do, all epochs
of every stage. On the way the size of the Jacobian is taken of a fixed batch's log-odds
of malignancy by the trunk's last feature map: the first validation images. A loss's
gradient has the residual as a factor, and would measure how well a design fits, too.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from mammo_jax.common import run_directory
from mammo_jax.common.progress import progress
from mammo_jax.common.signals import StopRequest
from mammo_jax.models import variables
from mammo_jax.models.compiling import jit_network
from mammo_jax.models.initial_values import draw_values
from mammo_jax.models.network_input import network_input
from mammo_jax.training.experiment import open_experiment
from mammo_jax.training.state import Arrays, TrainState
from mammo_jax.weights import conversion
from mammo_jax.weights.model_directory import load_variables
from paper import effects
from paper.claims import Finding
from paper.runs import PlannedRun, Setting, check_same

FOLDER = "jacobians"
GradientNorms = Callable[[Arrays, Arrays, Array], Float[Array, " batch"]]
# At most so many; before the first step there is one more.
_POINTS_PER_EPOCH = 5
_SOFTMAX, _RELU = "heatmap, softmax", "heatmap, ReLU"
_CONVOLUTIONAL = "all-convolutional"


@dataclasses.dataclass(frozen=True)
class Design:
    """Layers between the trunk's last feature map and the loss.

    Attributes:
      trunk: "resnet50" or "vgg16".
      title: for the figure.
      row: whose configuration is taken.
      activation: of the heatmap; "" where there is none.
    """

    trunk: str
    title: str
    row: str
    activation: str = ""

    @property
    def name(self) -> str:
        """The name of the design's folder."""
        return f"{self.row}_{self.activation}" if self.activation else self.row


DESIGNS = tuple(
    design
    for trunk, best in (
        ("resnet50", "residual_512-512-1024x2"),
        ("vgg16", "vgg_512x1"),
    )
    for design in (
        Design(trunk, _CONVOLUTIONAL, f"{trunk}_s10_{best}"),
        Design(trunk, _SOFTMAX, f"{trunk}_s10_heatmap_1x1", "softmax"),
        Design(trunk, _RELU, f"{trunk}_s10_heatmap_1x1", "relu"),
    )
)


class Curve(NamedTuple):
    """Optimiser steps done, and the mean Euclidean norm over the images at each."""

    steps: Sequence[int]
    norms: Sequence[float]


def curve_file(design: Design, seed: int, setting: Setting) -> Path:
    """Returns the file of a design's curve."""
    return setting.folder / FOLDER / design.name / f"seed{seed}.json"


def read_curves(design: Design, setting: Setting) -> dict[int, Curve]:
    """Reads the curves that have been measured, by seed."""
    curves = {}
    for path in sorted(curve_file(design, 0, setting).parent.glob("seed*.json")):
        values = run_directory.read_json(path)
        seed = int(path.stem.removeprefix("seed"))
        curves[seed] = Curve(values["steps"], values["norms"])
    return curves


def measure_all(plan: Sequence[PlannedRun], setting: Setting) -> None:
    """Measures every design with every seed of its row that is not there yet.

    Raises:
      UserError: see `check_curves`.
      RunStoppedError: a signal arrived; the same command goes on.
    """
    check_curves(plan, setting)
    left = [
        (config, path)
        for run, config, path in _trainings(plan, setting)
        if not path.exists() and _can_start(run)
    ]
    with StopRequest() as stop:
        for config, path in progress(left, "gradients", unit="training"):
            curve = _measure(config, stop)._asdict()
            # Otherwise all designs' compiled steps would stay in memory.
            jax.clear_caches()
            path.parent.mkdir(parents=True, exist_ok=True)
            curve["config"] = run_directory.as_json(config)
            run_directory.write_json(path, curve)


def check_curves(plan: Sequence[PlannedRun], setting: Setting) -> None:
    """Refuses curves that were measured with other configurations than the plan's.

    Raises:
      UserError: names the curve's file.
    """
    for _, config, path in _trainings(plan, setting):
        if path.exists():
            check_same(run_directory.read_json(path).get("config", {}), config, path)


def _trainings(
    plan: Sequence[PlannedRun], setting: Setting
) -> Iterator[tuple[PlannedRun, ConfigDict, Path]]:
    """Yields every design with every seed: run, configuration, curve's file."""
    for design in DESIGNS:
        for run in plan:
            if run.row.name == design.row:
                config = run.config.copy_and_resolve_references()
                if design.activation:
                    config.model.top.activation = design.activation
                yield run, config, curve_file(design, run.seed, setting)


def _can_start(run: PlannedRun) -> bool:
    return (Path(run.config.init_from) / run_directory.METRICS_FILE).exists()


def _measure(config: ConfigDict, stop: StopRequest) -> Curve:
    experiment = open_experiment(config)
    _, there, there_stats = load_variables(Path(config.init_from))
    *known, _ = conversion.take_over(there, there_stats, *experiment.abstract)
    values = draw_values(experiment.settings.model, config.seed, *known)
    state = experiment.initial_state(*values)
    gradient_norms = make_gradient_norms(experiment.graphdef, experiment.pixel_mean)
    fixed = next(experiment.evaluation_batches("validation"))
    probe = experiment.evaluation_arrays(fixed)["image"]
    batches = experiment.training_batches(0)
    every = math.ceil(experiment.steps_per_epoch / _POINTS_PER_EPOCH)
    steps, norms = [], []

    def look(state: TrainState, step: int) -> None:
        norm = gradient_norms(state.params, state.batch_stats, probe)
        steps.append(step)
        norms.append(float(np.mean(np.asarray(norm)[fixed["weight"] > 0])))

    look(state, 0)
    done = 0
    for index, stage in enumerate(experiment.settings.stages):
        if index:
            state = experiment.enter_stage(index, state)
        train_step = experiment.train_step(index)
        for number in range(stage.epochs * experiment.steps_per_epoch):
            batch = experiment.training_arrays(next(batches))
            state, _ = train_step(state, batch)
            done += 1
            stop.raise_if_set("the same command starts this design anew")
            if (number % experiment.steps_per_epoch + 1) % every == 0:
                look(state, done)
    return Curve(steps, norms)


def make_gradient_norms(graphdef: Any, pixel_mean: float) -> GradientNorms:
    """Makes the function of the norm of d(log-odds of an image) / d(its features).

    Args:
      graphdef: a whole-image model's.
      pixel_mean: of the training images, on the scale 0..255.

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

        gradient = jax.grad(log_odds)(features.astype(jnp.float32))
        return jnp.asarray(jnp.sqrt(jnp.sum(gradient**2, axis=(1, 2, 3))))

    result: GradientNorms = norms
    return result


def find(setting: Setting) -> list[Finding]:
    """Measures the appendix's claim for each trunk by the curves."""
    return [
        _compare(trunk, other, setting)
        for trunk in dict.fromkeys(design.trunk for design in DESIGNS)
        for other in (_CONVOLUTIONAL, _RELU)
    ]


def _compare(trunk: str, other: str, setting: Setting) -> Finding:
    curves = {
        design.title: read_curves(design, setting)
        for design in DESIGNS
        if design.trunk == trunk
    }
    text = f"The heatmap's softmax throttles the gradient ({trunk}, against {other})"
    measured = (
        "log10 of the size of the log-odds' Jacobian at a fixed batch of validation "
        "images, mean over all epochs of every stage, softmax less other"
    )
    holds = (-math.inf, 0.0)
    by_seed = {
        seed: [_mean_log(curve) - _mean_log(curves[other][seed])]
        for seed, curve in sorted(curves[_SOFTMAX].items())
        if seed in curves[other]
    }
    why = setting.missing_replicates(by_seed)
    if why:
        return Finding(text, measured, holds, None, why)
    values = [float(np.mean(group)) for group in setting.replicates(by_seed)]
    return Finding(text, measured, holds, effects.effect_of(values))


def _mean_log(curve: Curve) -> float:
    # A gradient that is nought to the last bit has the smallest number's logarithm.
    return float(np.log10(np.maximum(curve.norms, np.finfo(np.float32).tiny)).mean())
