"""Random forest on the regions of patch-probability heatmaps (sections 1, 2.3).

A heatmap's probabilities of each lesion class are cut off at four levels, the
connected regions described, and a random forest reads the descriptions.
"""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from etils import epy
from jaxtyping import Bool, Float, Int

from mammo_jax.common.errors import UserError
from mammo_jax.common.progress import progress_bar
from mammo_jax.datasets.pipeline import evaluation_batches
from mammo_jax.evaluation.predictions import Details
from mammo_jax.models.variables import Variables

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
REGION_FEATURES = (
    "area",
    "area_to_convex_area",
    "area_to_filled_area",
    "eccentricity",
    "equivalent_diameter",
    "euler_number",
    "extent",
    "inertia_eigenvalue_1",
    "inertia_eigenvalue_2",
    "major_axis",
    "minor_axis",
    "maximum",
    "mean",
    "orientation",
    "perimeter",
    "solidity",
)


def feature_names() -> tuple[str, ...]:
    """Names of the features, in order: 4 cutoffs x 4 classes x (3 + 3 x 16) = 816.

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
        if rank < len(regions):
            features += _region_features(regions[rank])
        else:
            features += [0.0] * len(REGION_FEATURES)
    return features


def _region_features(region: Any) -> list[float]:
    # Regions one or two positions thin have no convex hull in the plane; they
    # are their own hull.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        convex_area = max(float(region.area_convex), float(region.area))
    first, second = region.inertia_tensor_eigvals
    return [
        float(value)
        for value in (
            region.area,
            region.area / convex_area,
            region.area / region.area_filled,
            region.eccentricity,
            region.equivalent_diameter_area,
            region.euler_number,
            region.extent,
            first,
            second,
            region.axis_major_length,
            region.axis_minor_length,
            region.intensity_max,
            region.intensity_mean,
            region.orientation,
            region.perimeter,
            region.area / convex_area,
        )
    ]


class DescribedSplit(NamedTuple):
    """The heatmaps of a split's images, described.

    Attributes:
      features: a row for each image, see `heatmap_features`.
      labels: 0 not malignant, 1 malignant.
      image_ids: such as P_00016_LEFT_CC.
      patient_ids: likewise.
      lateralities: LEFT or RIGHT.
      views: CC or MLO.
      details: for sub-groups; None where the data set has none.
    """

    features: Float[np.ndarray, "images features"]
    labels: Int[np.ndarray, " images"]
    image_ids: tuple[str, ...]
    patient_ids: tuple[str, ...]
    lateralities: tuple[str, ...]
    views: tuple[str, ...]
    details: Details | None


_IDENTITY = ("image_id", "patient_id", "laterality", "view")
_DETAILS = ("breast_density", "abnormality_types", "lesion_size")


def describe_split(
    heatmap_step: Callable,
    params: Variables,
    stats: Variables,
    source: Any,
    *,
    batch_size: int,
    threads: int,
    after_batch: Callable[[], None] = lambda: None,
) -> DescribedSplit:
    """Runs a patch classifier over every image of a split and describes the heatmaps.

    Args:
      heatmap_step: from `mammo_jax.models.sliding.make_heatmap_step`.
      params: the patch classifier's parameters.
      stats: its running statistics.
      source: a split of a dataset of whole images, see
        `mammo_jax.datasets.pipeline.Dataset`.
      batch_size: images at a time.
      threads: that read images.
      after_batch: called after every batch; may raise to stop.

    Raises:
      UserError: a heatmap is not finite: the classifier or the image is damaged.
    """
    columns: dict[str, list] = {}
    with progress_bar("heatmaps", total=len(source), unit="image") as bar:
        for batch in evaluation_batches(source, batch_size, threads=threads):
            true = batch["weight"] > 0
            inputs = {key: batch[key] for key in ("image", "channel_shift")}
            heatmaps = np.asarray(heatmap_step(params, stats, inputs))[true]
            _check_finite(heatmaps, batch["image_id"][true])
            columns.setdefault("features", []).extend(map(heatmap_features, heatmaps))
            for name in ("label", *_IDENTITY, *_DETAILS):
                if name in batch:
                    columns.setdefault(name, []).extend(batch[name][true].tolist())
            bar.update(len(heatmaps))
            after_batch()
    image_ids, patient_ids, lateralities, views = (
        tuple(columns[name]) for name in _IDENTITY
    )
    return DescribedSplit(
        np.stack(columns["features"]),
        np.asarray(columns["label"]),
        image_ids,
        patient_ids,
        lateralities,
        views,
        _details(columns),
    )


def _check_finite(
    heatmaps: Float[np.ndarray, "batch rows columns class"], image_ids: np.ndarray
) -> None:
    damaged = image_ids[~np.isfinite(heatmaps).all(axis=(1, 2, 3))]
    if damaged.size:
        raise UserError(
            f"the patch classifier's heatmap of {damaged[0]} has no finite numbers: "
            "look at that image, and at the training of the patch classifier"
        )


def _details(columns: dict[str, list]) -> Details | None:
    if not all(name in columns for name in _DETAILS):
        return None
    densities, types, sizes = (columns[name] for name in _DETAILS)
    return Details(np.asarray(densities), tuple(types), np.asarray(sizes))


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
      features: of the training images' heatmaps, see `heatmap_features`.
      labels: 0 not malignant, 1 malignant; both occur.
      seed: of the bootstrap samples and the split candidates.
      trees: of the forest.
      max_depth: of a tree.
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
    """Whether every tree is a single leaf, which scores all images alike.

    A tree sees the images that it drew, about 0.63 of them: a node of so few is not
    split if they are fewer than `min_samples_split`.
    """
    return all(tree.tree_.node_count == 1 for tree in forest.estimators_)


def malignant_probability(
    forest: "sklearn.ensemble.RandomForestClassifier",
    features: Float[np.ndarray, "images features"],
) -> Float[np.ndarray, " images"]:
    """The forest's probability of malignancy, 0..1, for each image."""
    return forest.predict_proba(features)[:, list(forest.classes_).index(1)]
