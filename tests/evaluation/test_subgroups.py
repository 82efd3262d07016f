"""Sub-groups, breasts and patients of a prediction table."""

import dataclasses

import numpy as np
import pytest

from mammo_jax.evaluation.analysis import Tables, analyse
from mammo_jax.evaluation.prediction_table import PredictionTable
from mammo_jax.evaluation.subgroups import (
    breasts,
    patient_score,
    patients,
    subgroups,
)


@pytest.fixture
def table() -> PredictionTable:
    return PredictionTable(
        name="test.csv",
        image_ids=("a1", "a2", "a3", "b1", "c1", "c2"),
        scores=np.array([0.2, 0.4, 0.9, 0.1, 0.6, 0.8]),
        labels=np.array([0, 0, 1, 0, 0, 1]),
        patient_ids=("a", "a", "a", "b", "c", "c"),
        lateralities=("LEFT", "LEFT", "RIGHT", "LEFT", "RIGHT", "RIGHT"),
        views=("CC", "MLO", "CC", "", "CC", "MLO"),
        breast_densities=np.array([1, 1, 4, 0, 4, 4]),
        abnormality_types=("calc", "mass", "calc;mass", "", "mass", "calc"),
        lesion_sizes=np.array([0.1, 0.2, 0.3, np.nan, 0.4, 0.5]),
    )


def _names(table, mask):
    return [name for name, inside in zip(table.image_ids, mask, strict=True) if inside]


def test_images_are_grouped_by_what_is_known_of_them(table):
    groups = {
        attribute: {name: _names(table, mask) for name, mask in found.items()}
        for attribute, found in subgroups(table).items()
    }
    assert groups == {
        "view": {"CC": ["a1", "a3", "c1"], "MLO": ["a2", "c2"]},
        "laterality": {"LEFT": ["a1", "a2", "b1"], "RIGHT": ["a3", "c1", "c2"]},
        "breast density": {"1": ["a1", "a2"], "4": ["a3", "c1", "c2"]},
        "abnormality": {
            "calcification": ["a1", "a3", "c2"],
            "mass": ["a2", "a3", "c1"],
        },
        "lesion size": {
            "small (0.100 to 0.200)": ["a1", "a2"],
            "middle (0.300 to 0.300)": ["a3"],
            "large (0.400 to 0.500)": ["c1", "c2"],
        },
    }


def test_what_no_image_says_makes_no_groups(table):
    bare = dataclasses.replace(
        table,
        breast_densities=np.zeros(6, int),
        abnormality_types=("",) * 6,
        lesion_sizes=np.full(6, np.nan),
    )
    assert set(subgroups(bare)) == {"view", "laterality"}


def test_lesions_of_two_sizes_make_no_thirds(table):
    two = dataclasses.replace(table, lesion_sizes=np.array([0.1, 0.2] * 3))
    assert "lesion size" not in subgroups(two)


def test_a_breast_has_the_mean_of_its_views(table):
    found = breasts(table)
    assert found.scores.tolist() == pytest.approx([0.3, 0.9, 0.1, 0.7])
    assert found.labels.tolist() == [0, 1, 0, 1]
    assert found.patient_ids == ("a", "a", "b", "c")


def test_a_patient_has_the_higher_of_both_breasts(table):
    found = patients(table)
    assert found.scores.tolist() == pytest.approx([0.9, 0.1, 0.7])
    assert found.labels.tolist() == [1, 0, 1]
    # One malignant breast is not made harmless by the other, nor by more views of it.
    assert patient_score([0.1, 0.1, 0.8], ["LEFT", "LEFT", "RIGHT"]) == 0.8
    assert patient_score([0.2, 0.4], ["", ""]) == pytest.approx(0.3)


def test_breasts_need_to_be_told_apart(table):
    unknown = dataclasses.replace(table, lateralities=("",) * 6)
    assert breasts(unknown) is None
    figures = analyse(Tables(unknown))
    assert figures["per_breast"] is None
    assert figures["per_patient"]["count"] == 3


def test_small_groups_are_marked_and_images_counted(table):
    found = analyse(Tables(table))["subgroups"]
    assert found["view"]["not_known"] == 1
    group = found["view"]["groups"]["CC"]
    assert (group["images"], group["patients"], group["malignant"]) == (3, 2, 1)
    assert group["few"] is True
    # Of a single malignant patient there is no interval, of one class no AUC.
    assert group["auc"] == {"value": 1.0, "patients_95": None}
    assert found["breast density"]["groups"]["1"]["auc"]["value"] is None


def test_a_group_of_many_is_not_marked(table):
    many = PredictionTable(
        **{
            field.name: getattr(table, field.name)
            if field.name == "name"
            else np.tile(getattr(table, field.name), 10)
            if isinstance(getattr(table, field.name), np.ndarray)
            else getattr(table, field.name) * 10
            for field in dataclasses.fields(table)
        }
    )
    assert not analyse(Tables(many))["subgroups"]["view"]["groups"]["CC"]["few"]
