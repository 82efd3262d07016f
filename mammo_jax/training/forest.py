"""Random forest on the regions of patch-probability heatmaps (sections 1, 2.3).

A heatmap's probabilities of each lesion class are cut off at four levels, the
connected regions described, and a random forest reads the descriptions.
"""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from etils import epy
from jaxtyping import Bool, Float, Int

from mammo_jax.common.errors import UserError
from mammo_jax.common.progress import progress
from mammo_jax.datasets.pipeline import evaluation_batches
from mammo_jax.models.variables import Variables
from mammo_jax.training.scoring import Columns, joined, true_rows

with epy.lazy_imports():  # A second, which other runs need not wait for.
    import skimage.measure
    import sklearn.ensemble

# Section 2.3.
CUTOFFS = (0.3, 0.5, 0.7, 0.9)
# Every patch class but the background.
LESION_CLASSES = ("calc_benign", "calc_malignant", "mass_benign", "mass_malignant")
FIRST_LESION_CHANNEL = 1
# The paper does not say how many regions it described.
LARGEST_REGIONS = 3

MAP_FEATURES = ("region_count", "total_area", "maximum")


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


def feature_names() -> tuple[str, ...]:
    """Lists the features, in order: 4 cutoffs x 4 classes x (3 + 3 x 16) = 816.

    For example calc_benign_over_0.3_region_count and
    mass_malignant_over_0.9_region2_eccentricity.
    """
    per_map = list(MAP_FEATURES) + [
        f"region{rank + 1}_{name}"
        for rank in range(LARGEST_REGIONS)
        for name in REGION_FEATURES
    ]
    return tuple(
        f"{lesion}_over_{cutoff}_{name}"
        for cutoff in CUTOFFS
        for lesion in LESION_CLASSES
        for name in per_map
    )


def heatmap_features(
    heatmap: Float[np.ndarray, "rows columns 5"],
) -> Float[np.ndarray, " feature"]:
    """Describes the regions of one heatmap; all values are finite.

    Args:
      heatmap: probabilities of the five patch classes at every position.

    Returns:
      float64 values in the order of `feature_names`. Lengths are in heatmap
      positions, the orientation in radians. A region that does not exist (fewer
      regions than described, an empty map) has zeros; a whole map above the
      cutoff is one region.

    Raises:
      ValueError: a probability is not finite.
    """
    # No number is not above a cutoff: it would be described as no lesion.
    if not np.isfinite(heatmap).all():
        raise ValueError("a heatmap's probabilities are not finite")
    features: list[float] = []
    for cutoff in CUTOFFS:
        for index in range(len(LESION_CLASSES)):
            probabilities = heatmap[..., FIRST_LESION_CHANNEL + index]
            features += _map_features(probabilities, probabilities > cutoff)
    return np.asarray(features, np.float64)


def _map_features(
    probabilities: Float[np.ndarray, "rows columns"],
    mask: Bool[np.ndarray, "rows columns"],
) -> list[float]:
    regions = skimage.measure.regionprops(skimage.measure.label(mask), probabilities)
    # The label breaks ties, so that equal areas keep one order.
    regions.sort(key=lambda region: (-region.area, region.label))
    features = [float(len(regions)), float(mask.sum()), float(probabilities.max())]
    for rank in range(LARGEST_REGIONS):
        features += [
            float(describe(regions[rank])) if rank < len(regions) else 0.0
            for describe in REGION_FEATURES.values()
        ]
    return features


def describe_split(
    heatmap_step: Callable[..., Any],
    params: Variables,
    stats: Variables,
    source: Any,
    *,
    batch_size: int,
    threads: int,
    after_batch: Callable[[], None] = lambda: None,
) -> Columns:
    """Runs a patch classifier over every image of a split and describes the heatmaps.

    Args:
      heatmap_step: as of `mammo_jax.models.sliding.make_heatmap_step`.
      params: parameters of the patch classifier.
      stats: its running statistics.
      source: split of a dataset of whole images, see
        `mammo_jax.datasets.pipeline.Dataset`.
      batch_size: number of images at a time.
      threads: number of threads that read images.
      after_batch: function called after every batch; may raise to stop.

    Returns:
      A row for each image: its labels and names, see `scoring.true_rows`, and
      `features`, see `heatmap_features`.

    Raises:
      UserError: a heatmap is not finite: the classifier or the image is damaged.
    """
    parts = []
    with progress(None, "heatmaps", total=len(source), unit="image") as bar:
        for batch in evaluation_batches(source, batch_size, threads=threads):
            heatmaps = np.asarray(heatmap_step(params, stats, batch["image"]))
            true = batch["weight"] > 0
            _check_finite(heatmaps[true], batch["image_id"][true])
            features = np.stack([heatmap_features(heatmap) for heatmap in heatmaps])
            parts.append(true_rows(batch, features=features))
            bar.update(int(true.sum()))
            after_batch()
    return joined(parts)


def _check_finite(
    heatmaps: Float[np.ndarray, "batch rows columns class"], image_ids: np.ndarray
) -> None:
    damaged = image_ids[~np.isfinite(heatmaps).all(axis=(1, 2, 3))]
    if damaged.size:
        raise UserError(
            f"the patch classifier's heatmap of {damaged[0]} has no finite numbers: "
            "look at that image, and at the training of the patch classifier"
        )


def fit_forest(
    features: Float[np.ndarray, "images features"],
    labels: Int[np.ndarray, " images"],
    *,
    seed: int,
    trees: int = 500,
    max_depth: int = 9,
    min_samples_split: int = 300,
) -> "sklearn.ensemble.RandomForestClassifier":
    """Fits a forest; the defaults are those of the paper's Table 2.

    Args:
      features: rows of the training images' heatmaps, see `heatmap_features`.
      labels: 0 not malignant, 1 malignant; both occur.
      seed: seed of the bootstrap samples and the split candidates.
      trees: number of trees.
      max_depth: largest depth of a tree.
      min_samples_split: images that a node must have to be split.
    """
    forest = sklearn.ensemble.RandomForestClassifier(
        n_estimators=trees,
        max_depth=max_depth,
        min_samples_split=min_samples_split,
        class_weight="balanced",
        random_state=seed,
    )
    return forest.fit(features, labels)


def splits_no_node(forest: "sklearn.ensemble.RandomForestClassifier") -> bool:
    """Returns True if every tree is a single leaf, which scores all images alike.

    A tree sees the images that it drew, about 0.63 of them: a node of so few is not
    split if they are fewer than `min_samples_split`.
    """
    return all(tree.tree_.node_count == 1 for tree in forest.estimators_)
