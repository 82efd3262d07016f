"""Run of the row "heatmap + random forest" (Table 2; sections 1, 2.3).

A finished patch classifier is run over the whole images. Its heatmaps' probabilities of
each lesion class are cut off at four levels and the connected regions described; a
forest reads the descriptions. The run has no checkpoints: scikit-learn keeps a forest
as a pickle, which this program does not read. The same command fits the same forest.
"""

import copy
import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epy
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from mammo_jax.common.errors import UserError, of_field, refuse
from mammo_jax.common.parallel import available_cores
from mammo_jax.common.signals import StopRequest
from mammo_jax.datasets.pipeline import Batch, Dataset, evaluation_batches
from mammo_jax.evaluation.predictions import Predictions
from mammo_jax.models import variables
from mammo_jax.models.compiling import jit_network
from mammo_jax.models.model_config import (
    ModelConfig,
    default_model_config,
    read_model_config,
)
from mammo_jax.models.network_input import network_input
from mammo_jax.models.tops import PATCH_CLASSES
from mammo_jax.training import scoring
from mammo_jax.training.checkpoint import Position
from mammo_jax.training.logs import Logs, log_hyperparameters
from mammo_jax.training.settings import Settings, check_grid, read_settings
from mammo_jax.weights.hub import find_directory
from mammo_jax.weights.model_directory import LoadedModel, load_model

with epy.lazy_imports():  # A second, which other runs need not wait for.
    import skimage.measure
    import sklearn.ensemble

FOREST = "forest"
# Section 2.3.
CUTOFFS = (0.3, 0.5, 0.7, 0.9)
# Every patch class but the background.
LESION_CLASSES = ("calc_benign", "calc_malignant", "mass_benign", "mass_malignant")
FIRST_LESION_CHANNEL = 1
# The paper does not say how many regions it described.
LARGEST_REGIONS = 3


def _convex_area(region: Any) -> float:
    # Regions one or two positions thin have no convex hull in the plane; they
    # are their own hull.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return max(float(region.area_convex), float(region.area))


REGION_FEATURES: dict[str, Callable[[Any], float]] = {
    "area": lambda region: region.area,
    "area_to_convex_area": lambda region: region.area / _convex_area(region),
    "area_to_filled_area": lambda region: region.area / region.area_filled,
    "eccentricity": lambda region: region.eccentricity,
    "equivalent_diameter": lambda region: region.equivalent_diameter_area,
    "euler_number": lambda region: region.euler_number,
    "extent": lambda region: region.extent,
    "inertia_eigenvalue_1": lambda region: region.inertia_tensor_eigvals[0],
    "inertia_eigenvalue_2": lambda region: region.inertia_tensor_eigvals[1],
    "major_axis": lambda region: region.axis_major_length,
    "minor_axis": lambda region: region.axis_minor_length,
    "maximum": lambda region: region.intensity_max,
    "mean": lambda region: region.intensity_mean,
    "orientation": lambda region: region.orientation,
    "perimeter": lambda region: region.perimeter,
    "solidity": lambda region: region.area / _convex_area(region),
}


def heatmap_features(
    heatmap: Float[np.ndarray, "rows columns 5"],
) -> dict[str, float]:
    """Describes the regions of one heatmap: 4 cutoffs x 4 classes x (3 + 3 x 16) = 816.

    Args:
      heatmap: probabilities of the five patch classes at every position.

    Returns:
      Finite values by names such as calc_benign_over_0.3_region_count and
      mass_malignant_over_0.9_region2_eccentricity. Lengths are in heatmap positions,
      the orientation in radians. A region that does not exist (fewer regions than
      described, an empty map) has zeros; a whole map above the cutoff is one region.

    Raises:
      ValueError: a probability is not finite.
    """
    # A value that is no number reaches no cutoff: it would count as no lesion.
    if not np.isfinite(heatmap).all():
        raise ValueError("a heatmap's probabilities are not finite")
    return {
        f"{lesion}_over_{cutoff}_{name}": value
        for cutoff in CUTOFFS
        for channel, lesion in enumerate(LESION_CLASSES, FIRST_LESION_CHANNEL)
        for name, value in _map_features(heatmap[..., channel], cutoff)
    }


def _map_features(
    probabilities: Float[np.ndarray, "rows columns"], cutoff: float
) -> Iterator[tuple[str, float]]:
    mask = probabilities >= cutoff
    regions = skimage.measure.regionprops(skimage.measure.label(mask), probabilities)
    # The label breaks ties, so that equal areas keep one order.
    regions.sort(key=lambda region: (-region.area, region.label))
    yield "region_count", float(len(regions))
    yield "total_area", float(mask.sum())
    yield "maximum", float(probabilities.max())
    for rank in range(LARGEST_REGIONS):
        for name, describe in REGION_FEATURES.items():
            value = float(describe(regions[rank])) if rank < len(regions) else 0.0
            yield f"region{rank + 1}_{name}", value


def make_heatmap_step(model: LoadedModel) -> Callable[[np.ndarray], Array]:
    """Makes the function from whole images to a patch classifier's heatmaps.

    From grey levels, uint16 of (batch, height, width), it computes the probabilities of
    the patch classes at every position: 30x22 for an image of 1152x896. It raises a
    `UserError` for images smaller than a patch.
    """

    def heatmap_step(params: Any, images: Array) -> Array:
        network: Any = variables.merge(model.graphdef, params, {})
        inputs = network_input(images, model.description.pixel_mean)
        return jax.nn.softmax(network.class_map(inputs, model.window).at_positions)

    step = jit_network(heatmap_step)
    return functools.partial(step, model.params)


def describe_split(
    heatmap_step: Callable[[np.ndarray], Any],
    source: Any,
    *,
    batch_size: int,
    threads: int,
    after_batch: Callable[[], None] = lambda: None,
) -> scoring.Columns:
    """Runs a patch classifier over every image of a split and describes the heatmaps.

    `heatmap_step` is as from `make_heatmap_step`; `after_batch` may raise to stop.

    Returns:
      A row for each image: labels, names, and `features` as from `heatmap_features`.

    Raises:
      UserError: a heatmap is not finite: the classifier or the image is damaged.
    """

    def describe(batch: Batch) -> scoring.Columns:
        heatmaps = np.asarray(heatmap_step(batch["image"]))
        damaged = batch["image_id"][~np.isfinite(heatmaps).all(axis=(1, 2, 3))]
        if damaged.size:
            raise UserError(
                f"the patch classifier's heatmap of {damaged[0]} has no finite "
                "numbers: look at that image, and at the training of the classifier"
            )
        rows = [[*heatmap_features(heatmap).values()] for heatmap in heatmaps]
        return {"features": np.array(rows)}

    return scoring.collect(
        evaluation_batches(source, batch_size, threads=threads),
        describe,
        description="heatmaps",
        total=len(source),
        after_batch=after_batch,
    )


def read_forest(config: ConfigDict, workdir: Path) -> Settings:
    """Reads and checks the configuration of a forest.

    Raises:
      UserError: a field has no value that can run; names it and the allowed values.
    """
    if config.task != "whole" or "forest" not in config:
        raise UserError(
            "config.model.top.kind is 'forest', which needs a whole-image "
            "configuration with config.forest: --config=paper_rows:resnet50_s10_forest"
        )
    least = {"trees": 1, "max_depth": 1, "min_samples_split": 2}
    refuse(
        {
            f"config.forest.{field} is {value}; it must be at least {least[field]}": (
                value < least[field]
            )
            for field, value in config.forest.items()
        }
        | {
            "config.tta: the random forest scores images as they are; leave it out": (
                config.tta
            ),
            "config.ensemble: a random forest is averaged with others by "
            "mammo-jax evaluate --predictions=RUN,RUN": (config.get("ensemble")),
            "a random forest is fitted by one process; leave --processes": (
                jax.process_count() > 1
            ),
        }
    )
    # A forest has no network of its own; the check knows networks only.
    checked = copy.deepcopy(config)
    checked.model.top.update(default_model_config().top.to_dict())
    return dataclasses.replace(read_settings(checked), config=config)


def describe_forest(config: ConfigDict) -> str:
    """Names the forest and what it reads."""
    forest = config.forest
    return (
        f"random forest of {forest.trees} trees, at most {forest.max_depth} deep, "
        f"nodes of at least {forest.min_samples_split} images split, on the heatmaps "
        f"of a patch classifier, {config.model.trunk}"
    )


def patch_network(config: ConfigDict) -> tuple[ModelConfig, int]:
    """Returns the settings of the patch classifier below a forest, and its window."""
    fields = copy.deepcopy(config.model)
    fields.top.kind = "patch"
    fields.num_classes = PATCH_CLASSES
    return read_model_config(fields), fields.top.window


def run_forest(
    settings: Settings,
    dataset: Dataset,
    init_from: str,
    workdir: Path,
    stop: StopRequest,
) -> dict[str, Any]:
    """Fits the forest, scores validation and test images; returns the metrics.

    Raises:
      UserError: `init_from` is no finished patch classifier on the configured trunk,
        the training images are all of one class, or too few for the forest to split.
      RunStoppedError: a signal asked the run to stop; the same command starts anew.
    """
    config = settings.config
    model = _patch_classifier(init_from, config.model.trunk)
    check_grid(model.description.grid, dataset, f"the model in {init_from}")
    step = make_heatmap_step(model)

    def described(role: str) -> scoring.Columns:
        return describe_split(
            step,
            dataset.sources[config.data[f"{role}_split"]],
            batch_size=config.eval_batch_size,
            threads=config.data.threads or available_cores(),
            after_batch=lambda: stop.raise_if_set("the same command starts it anew"),
        )

    fitted = fit_forest(described("train"), config, dataset.name)

    def predict(role: str) -> Predictions:
        split = described(role)
        shares = fitted.predict_proba(split["features"])
        losses = scoring.cross_entropies(shares, split["label"])
        return scoring.as_predictions(
            {**split, "probabilities": shares, "losses": losses},
            settings.task.malignant_classes,
        )

    metrics, _ = scoring.evaluate(config, dataset.name, Position(), predict, workdir)
    with Logs(workdir / config.task, resumed_at=0) as logs:
        log_hyperparameters(logs, config, metrics)
    return metrics


def fit_forest(
    train: scoring.Columns, config: ConfigDict, dataset: str
) -> "sklearn.ensemble.RandomForestClassifier":
    """Fits a forest that tells the training images apart.

    `mammo_jax.config.FOREST` has the values of the paper's Table 2.
    """
    if len(np.unique(train["label"])) < 2:
        raise UserError(
            f"the training images of {dataset} are all of one class: a random forest "
            "has nothing to tell apart"
        )
    forest = config.forest
    fitted = sklearn.ensemble.RandomForestClassifier(
        n_estimators=forest.trees,
        max_depth=forest.max_depth,
        min_samples_split=forest.min_samples_split,
        class_weight="balanced",
        random_state=config.seed,
    ).fit(train["features"], train["label"])
    # A tree sees the images that it drew: a node of few is not split, and a tree of
    # one node scores all images alike.
    if all(tree.tree_.node_count == 1 for tree in fitted.estimators_):
        images = len(train["label"])
        raise UserError(
            f"config.forest.min_samples_split ({forest.min_samples_split}): no tree of "
            "the forest splits its images, and all would have the same score. Of the "
            f"{images} training images a tree draws about {round(0.63 * images)} "
            "different ones: set the field lower; if it is, the heatmaps are all alike"
        )
    return fitted


def _patch_classifier(init_from: str, trunk: str) -> LoadedModel:
    with of_field("config.init_from"):
        directory = find_directory(init_from)
        model = load_model(directory)
        task, own = model.description.task, model.model_config.trunk
        refuse(
            {
                f"{directory} holds a {task}-image classifier; a random forest reads "
                "the heatmaps of a patch classifier": task != "patch",
                f"{directory} holds a {own}, but config.model.trunk is {trunk}": (
                    own != trunk
                ),
            }
        )
    return model
