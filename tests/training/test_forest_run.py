"""The row "heatmap + random forest" as a run of its own."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import tiny_runs
from ml_collections import ConfigDict

from mammo_jax.common.errors import UserError
from mammo_jax.training import forest
from mammo_jax.training.run import train_and_evaluate
from mammo_jax.weights.model_directory import load_model
from paper.rows import load_rows, named_config

ROWS = load_rows(Path(__file__).parents[2] / "configs" / "paper_rows.py")


def forest_config(data, patch_run) -> ConfigDict:
    config = named_config("resnet50_s10_forest", ROWS)
    config.data.data_dir = str(data)
    config.data.dataset = "cbis_ddsm/paper_whole_h288"
    config.init_from = str(patch_run)
    config.model.trunk = "vgg16"
    config.forest.trees = 20
    config.forest.min_samples_split = 8
    config.eval_batch_size = 4
    return config


@pytest.fixture(scope="module")
def runs(phantom_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("forest")
    tiny_runs.write_run(folder / "patch", "patch", size=(288, 224))
    config = forest_config(phantom_data, folder / "patch")
    return folder, config, train_and_evaluate(config, folder / "forest")


def rows_of(folder, role):
    with open(folder / f"predictions/{role}.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_forest_run_has_what_every_run_has(runs):
    folder, _, metrics = runs
    assert json.loads((folder / "forest/metrics.json").read_text()) == metrics
    assert (folder / "forest/report.html").exists()
    assert (folder / "forest/config.json").exists()
    assert list((folder / "forest/whole").glob("events.*"))
    for role in ("validation", "test"):
        table = rows_of(folder / "forest", role)
        assert len(table) == metrics[role]["images"]
        assert {"breast_density", "lesion_size"} <= {*table[0]}
    assert not (folder / "forest/checkpoints").exists()


def test_scores_are_those_of_a_forest_on_the_described_heatmaps(runs, phantom_data):
    from mammo_jax.datasets.pipeline import open_dataset

    folder, _, _ = runs
    model = load_model(folder / "patch")
    step = forest.make_heatmap_step(model)
    dataset = open_dataset("cbis_ddsm/paper_whole_h288", str(phantom_data))
    described = {
        role: forest.describe_split(
            step,
            dataset.sources[role],
            batch_size=2,
            threads=0,
        )
        for role in ("train", "test")
    }
    from sklearn.ensemble import RandomForestClassifier

    reference = RandomForestClassifier(
        20, max_depth=9, min_samples_split=8, class_weight="balanced", random_state=0
    ).fit(described["train"]["features"], described["train"]["label"])
    expected = reference.predict_proba(described["test"]["features"])[:, 1]
    table = rows_of(folder / "forest", "test")
    found = [float(row["malignant_pred"]) for row in table]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    labels = [int(row["malignant_label"]) for row in table]
    np.testing.assert_array_equal(labels, described["test"]["label"])


def test_a_finished_forest_is_not_fitted_again(runs, monkeypatch):
    folder, config, metrics = runs
    monkeypatch.setattr(forest, "fit_forest", None)
    assert train_and_evaluate(config, folder / "forest") == metrics


def test_a_forest_needs_a_patch_classifier(runs, phantom_data, tmp_path):
    tiny_runs.write_run(tmp_path / "whole", "whole")
    config = forest_config(phantom_data, tmp_path / "whole")
    with pytest.raises(UserError, match=r"config.init_from: .*whole-image classifier"):
        train_and_evaluate(config, tmp_path / "forest")


def test_a_patch_classifier_of_another_trunk_is_refused(runs, phantom_data, tmp_path):
    config = forest_config(phantom_data, runs[0] / "patch")
    config.model.trunk = "resnet50"
    with pytest.raises(UserError, match="holds a vgg16, but config"):
        train_and_evaluate(config, tmp_path / "forest")


def test_a_forest_that_splits_no_node_is_refused(runs, phantom_data, tmp_path):
    """All images would have the same score."""
    config = forest_config(phantom_data, runs[0] / "patch")
    config.forest.min_samples_split = 300
    message = r"config.forest.min_samples_split \(300\): .* \d+ training images"
    with pytest.raises(UserError, match=message):
        train_and_evaluate(config, tmp_path / "forest")
    assert not (tmp_path / "forest/predictions").exists()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("trees", 0, "config.forest.trees is 0; it must be at least 1"),
        ("min_samples_split", 1, "config.forest.min_samples_split is 1"),
    ],
)
def test_numbers_that_fit_no_forest_are_refused(tmp_path, field, value, message):
    config = forest_config(tmp_path, tmp_path)
    config.forest[field] = value
    with pytest.raises(UserError, match=message):
        forest.read_forest(config, tmp_path)


def test_a_forest_does_not_average_over_flips(tmp_path):
    config = forest_config(tmp_path, tmp_path)
    config.tta = True
    with pytest.raises(UserError, match=r"config\.tta: the random forest"):
        forest.read_forest(config, tmp_path)


def test_a_forest_without_its_fields_names_a_configuration_that_has_them(tmp_path):
    config = forest_config(tmp_path, tmp_path)
    del config["forest"]
    with pytest.raises(UserError, match=r"paper_rows:resnet50_s10_forest"):
        forest.read_forest(config, tmp_path)


def test_a_forest_has_no_ensemble(tmp_path):
    config = forest_config(tmp_path, tmp_path)
    config.ensemble = str(tmp_path)
    with pytest.raises(UserError, match=r"config\.ensemble: .* mammo-jax evaluate"):
        forest.read_forest(config, tmp_path)
