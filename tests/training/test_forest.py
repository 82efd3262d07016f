import numpy as np
import pytest
from ml_collections import ConfigDict
from sklearn.ensemble import RandomForestClassifier

from mammo_jax.common.errors import UserError
from mammo_jax.config import FOREST
from mammo_jax.training import forest
from mammo_jax.training.forest import (
    describe_split,
    fit_forest,
    heatmap_features,
)

ROWS, COLUMNS = 30, 22


def background():
    heatmap = np.zeros((ROWS, COLUMNS, 5))
    heatmap[..., 0] = 1
    return heatmap


def put(heatmap, lesion, rows, columns, probability):
    """Gives a rectangle of the map a probability of one lesion class."""
    heatmap[rows, columns, 1 + forest.LESION_CLASSES.index(lesion)] = probability
    return heatmap


def test_there_are_816_distinct_names():
    # 4 cutoffs x 4 lesion classes x (3 of the map + 3 regions x 16).
    assert len(heatmap_features(background())) == 816


def test_a_rectangle_has_the_features_of_a_rectangle():
    heatmap = put(background(), "mass_malignant", slice(4, 10), slice(5, 9), 0.8)
    heatmap[5, 6, 4] = 0.85
    found = heatmap_features(heatmap)
    expected = {
        "region_count": 1,
        "total_area": 24,
        "maximum": 0.85,
        "region1_area": 24,
        "region1_area_to_convex_area": 1,
        "region1_area_to_filled_area": 1,
        "region1_euler_number": 1,
        "region1_extent": 1,
        "region1_equivalent_diameter": np.sqrt(4 * 24 / np.pi),
        # Variances of 6 and of 4 pixels of unit width.
        "region1_inertia_eigenvalue_1": (6**2 - 1) / 12,
        "region1_inertia_eigenvalue_2": (4**2 - 1) / 12,
        # Of the ellipse with the same second moments: four standard deviations.
        "region1_major_axis": 4 * np.sqrt((6**2 - 1) / 12),
        "region1_minor_axis": 4 * np.sqrt((4**2 - 1) / 12),
        "region1_eccentricity": np.sqrt(1 - (4**2 - 1) / (6**2 - 1)),
        "region1_maximum": 0.85,
        "region1_mean": (23 * 0.8 + 0.85) / 24,
        "region1_orientation": 0,
        "region1_perimeter": 2 * (5 + 3),
        "region2_area": 0,
    }
    for name, value in expected.items():
        full = f"mass_malignant_over_0.7_{name}"
        assert found[full] == pytest.approx(value, abs=1e-9), full


def test_a_cutoff_above_the_probability_finds_nothing():
    found = heatmap_features(
        put(background(), "calc_benign", slice(2, 5), slice(2, 5), 0.6)
    )
    counts = [found[f"calc_benign_over_{c}_region_count"] for c in forest.CUTOFFS]
    assert counts == [1, 1, 0, 0]
    assert found["calc_malignant_over_0.3_region_count"] == 0


def test_a_probability_at_the_cutoff_reaches_it():
    found = heatmap_features(
        put(background(), "calc_benign", slice(2, 5), slice(2, 5), 0.5)
    )
    counts = [found[f"calc_benign_over_{c}_region_count"] for c in forest.CUTOFFS]
    assert counts == [1, 1, 0, 0]


def test_regions_are_described_from_the_largest_down():
    heatmap = background()
    for size, column in [(2, 0), (5, 4), (3, 12), (1, 18)]:
        put(heatmap, "calc_malignant", slice(0, size), slice(column, column + 2), 0.95)
    found = heatmap_features(heatmap)
    prefix = "calc_malignant_over_0.9_"
    assert found[f"{prefix}region_count"] == 4
    assert [found[f"{prefix}region{i}_area"] for i in (1, 2, 3)] == [10, 6, 4]


def test_a_hole_is_counted_by_the_filled_area_and_the_euler_number():
    heatmap = put(background(), "mass_benign", slice(3, 8), slice(3, 8), 0.5)
    heatmap[5, 5, 3] = 0
    found = heatmap_features(heatmap)
    assert found["mass_benign_over_0.3_region1_euler_number"] == 0
    assert found["mass_benign_over_0.3_region1_area_to_filled_area"] == 24 / 25


def test_an_empty_heatmap_has_zeros_everywhere():
    assert not any(heatmap_features(background()).values())


def test_a_full_heatmap_is_one_region():
    found = heatmap_features(np.ones((ROWS, COLUMNS, 5)))
    assert found["calc_benign_over_0.9_region_count"] == 1
    assert found["calc_benign_over_0.9_region1_area"] == ROWS * COLUMNS
    assert found["calc_benign_over_0.9_region1_extent"] == 1


@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (2, 2)])
def test_thin_regions_have_finite_features(shape):
    heatmap = put(
        background(), "calc_benign", slice(0, shape[0]), slice(0, shape[1]), 0.99
    )
    assert np.isfinite([*heatmap_features(heatmap).values()]).all()
    assert heatmap_features(heatmap)["calc_benign_over_0.9_region1_solidity"] == 1


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_heatmap_that_is_no_numbers_is_an_error(value):
    heatmap = background()
    heatmap[3, 4, 4] = value
    with pytest.raises(ValueError, match="not finite"):
        heatmap_features(heatmap)


def test_every_feature_of_a_full_map_is_as_defined():
    found = heatmap_features(np.full((ROWS, COLUMNS, 5), 0.75))
    area = ROWS * COLUMNS
    expected = {
        "region_count": 1,
        "total_area": area,
        "maximum": 0.75,
        "region1_area": area,
        "region1_area_to_convex_area": 1,
        "region1_area_to_filled_area": 1,
        "region1_eccentricity": np.sqrt(1 - (COLUMNS**2 - 1) / (ROWS**2 - 1)),
        "region1_equivalent_diameter": np.sqrt(4 * area / np.pi),
        "region1_euler_number": 1,
        "region1_extent": 1,
        "region1_inertia_eigenvalue_1": (ROWS**2 - 1) / 12,
        "region1_inertia_eigenvalue_2": (COLUMNS**2 - 1) / 12,
        "region1_major_axis": 4 * np.sqrt((ROWS**2 - 1) / 12),
        "region1_minor_axis": 4 * np.sqrt((COLUMNS**2 - 1) / 12),
        "region1_maximum": 0.75,
        "region1_mean": 0.75,
        "region1_orientation": 0,
        "region1_perimeter": 2 * (ROWS - 1 + COLUMNS - 1),
        "region1_solidity": 1,
    }
    for cutoff in forest.CUTOFFS:
        for lesion in forest.LESION_CLASSES:
            prefix = f"{lesion}_over_{cutoff}_"
            own = {k: v for k, v in found.items() if k.startswith(prefix)}
            assert len(own) == 3 + 3 * 16
            for name, value in own.items():
                short = name.removeprefix(prefix)
                wanted = expected.get(short, 0) if cutoff < 0.75 else 0
                # Above every value there is no region, and still a maximum.
                wanted = 0.75 if short == "maximum" else wanted
                assert value == pytest.approx(wanted, abs=1e-9), name


def test_forest_finds_the_class_with_the_lesions():
    rng = np.random.default_rng(0)
    labels = np.arange(640) % 2
    heatmaps = []
    for label in labels:
        lesion = "mass_malignant" if label else "mass_benign"
        row, column = rng.integers(0, 15, 2)
        spot = slice(row, row + 4), slice(column, column + 3)
        heatmaps.append(put(background(), lesion, *spot, rng.uniform(0.6, 1)))
    features = np.array([[*heatmap_features(heatmap).values()] for heatmap in heatmaps])
    config = ConfigDict({"seed": 0, "forest": FOREST})
    fitted = fit_forest({"features": features, "label": labels}, config, "made/up")
    scores = fitted.predict_proba(features)[:, 1]
    assert isinstance(fitted, RandomForestClassifier)
    assert scores[labels == 1].min() > scores[labels == 0].max()


def made_up_images(count):
    return [
        {
            "image": np.full((ROWS, COLUMNS), 1000 * number, np.uint16),
            "label": number % 2,
            "image_id": f"P_0000{number}_LEFT_CC",
            "patient_id": f"P_0000{number}",
            "laterality": "LEFT",
            "view": "CC",
        }
        for number in range(count)
    ]


def test_the_image_of_a_heatmap_that_is_no_numbers_is_named():
    images = made_up_images(3)

    def heatmap_step(images):
        return np.stack([background(), np.full_like(background(), np.nan)])

    with pytest.raises(UserError, match=r"P_00001_LEFT_CC has no finite numbers"):
        describe_split(heatmap_step, images, batch_size=2, threads=1)


def test_every_image_of_a_split_is_described_once():
    images = made_up_images(5)

    def heatmap_step(images):
        """Wider lesions in brighter images; checks that all batches have one shape."""
        assert images.shape == (2, ROWS, COLUMNS)
        columns = [slice(0, int(image[0, 0]) // 1000) for image in images]
        rows = slice(0, 2)
        return np.stack(
            [put(background(), "mass_malignant", rows, c, 0.6) for c in columns]
        )

    found = describe_split(heatmap_step, images, batch_size=2, threads=1)
    area = [*heatmap_features(background())].index("mass_malignant_over_0.5_total_area")
    np.testing.assert_array_equal(found["features"][:, area], [0, 2, 4, 6, 8])
    np.testing.assert_array_equal(found["label"], [0, 1, 0, 1, 0])
    assert found["image_id"][4] == "P_00004_LEFT_CC"
    assert found["patient_id"][1] == "P_00001"
    assert set(found["laterality"]) == {"LEFT"}
    assert set(found["view"]) == {"CC"}
