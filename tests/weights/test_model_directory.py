"""A run's directory as a model: what is read, and what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from tiny_runs import HEIGHT, MEAN, WIDTH, write_run

from mammo_jax.common.errors import UserError
from mammo_jax.models import variables
from mammo_jax.weights.model_directory import load_model, save_variables


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    directory = tmp_path_factory.mktemp("made") / "run"
    return directory, write_run(directory)


@pytest.fixture
def directory(made, tmp_path) -> Path:
    return shutil.copytree(made[0], tmp_path / "run")


def test_the_model_that_was_saved_is_loaded(made):
    directory, network = made
    loaded = load_model(directory)
    _, params, stats = variables.split(network)
    assert loaded.params.keys() == params.keys()
    for name in params:
        np.testing.assert_array_equal(loaded.params[name], params[name])
    for name in stats:
        np.testing.assert_array_equal(loaded.batch_stats[name], stats[name])
    said = loaded.description
    assert (said.height, said.width, said.pixel_mean) == (HEIGHT, WIDTH, MEAN)
    assert said.malignant_classes == (1,)
    assert said.class_names == ("not_malignant", "malignant")


def test_a_patch_model_slides_a_window_of_its_patches_size(tmp_path):
    write_run(tmp_path / "patch", "patch")
    # Patches of 64 pixels on a trunk of stride 32.
    assert load_model(tmp_path / "patch").window == 2


def test_a_missing_directory_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such directory"):
        load_model(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("config.json", "holds no model"),
        ("metrics.json", "no finished run"),
        ("model.json", "how its images are prepared"),
        ("model.safetensors", "its weights; copy it back"),
    ],
)
def test_a_directory_that_lacks_a_file_is_refused(directory, missing, message):
    (directory / missing).unlink()
    with pytest.raises(UserError, match=message):
        load_model(directory)


def test_damaged_weights_are_refused(directory):
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(UserError, match="not a readable safetensors file"):
        load_model(directory)


def test_weights_of_another_model_are_refused(directory):
    path = directory / "model.safetensors"
    values = safetensors.numpy.load_file(path)
    values["top/output/bias"] = np.zeros(3, np.float32)
    values["top/more"] = values.pop("top/output/kernel")
    safetensors.numpy.save_file(values, path)
    with pytest.raises(UserError) as caught:
        load_model(directory)
    for part in (
        "1 missing (top/output/kernel)",
        "1 unexpected (top/more)",
        "top/output/bias is float32[3], not float32[2]",
    ):
        assert part in str(caught.value)


def test_weights_that_cannot_be_written_leave_those_that_were(made, tmp_path):
    directory = shutil.copytree(made[0], tmp_path / "run")
    before = (directory / "model.safetensors").read_bytes()
    (directory / "model.safetensors.part").mkdir()
    with pytest.raises(UserError, match=r"cannot be written .* make room"):
        save_variables(directory, {"a": np.zeros(2, np.float32)}, {})
    assert (directory / "model.safetensors").read_bytes() == before


def test_integers_are_no_weights(directory):
    path = directory / "model.safetensors"
    values = safetensors.numpy.load_file(path)
    values["top/output/bias"] = values["top/output/bias"].astype(np.int32)
    safetensors.numpy.save_file(values, path)
    with pytest.raises(UserError, match=r"int32\[2\], not float32\[2\]"):
        load_model(directory)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pixel_mean", "much"),
        ("pixel_mean", float("nan")),
        ("height", -3),
        ("height", True),
        ("width", 10**9),
        ("class_names", []),
        ("malignant_classes", [2]),
        ("malignant_classes", ["1"]),
        ("stretch", 1),
        ("task", "segment"),
        ("patch_size", None),
        ("patch_size", 224),
        ("patch_size", False),
        ("pixel_mean", True),
        ("calibration", [1.0]),
        ("calibration", [-1.0, 0.0]),
        ("calibration", 1.0),
        ("calibration", [1.0, float("nan")]),
        ("phantoms", "no"),
        ("task", "patch"),
    ],
)
def test_a_damaged_description_is_refused(directory, name, value):
    path = directory / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    with pytest.raises(UserError, match=r"model\.json is damaged"):
        load_model(directory)


def test_an_earlier_versions_description_has_no_calibration(directory):
    path = directory / "model.json"
    values = json.loads(path.read_text())
    assert values["calibration"] is None
    path.write_text(json.dumps({**values, "calibration": [0.5, -1.25]}))
    assert load_model(directory).description.calibration == (0.5, -1.25)
    for name in ("phantoms", "calibration"):
        del values[name]
    path.write_text(json.dumps(values))
    assert load_model(directory).description.calibration is None


@pytest.mark.parametrize("content", ["", "[]", "{", '{"task": "whole"}'])
def test_a_description_that_is_none_is_refused(directory, content):
    (directory / "model.json").write_text(content)
    with pytest.raises(UserError, match=r"model\.json"):
        load_model(directory)


@pytest.mark.parametrize("content", ["[]", "{}", '{"model": 3}'])
def test_a_config_of_something_else_is_refused(directory, content):
    (directory / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"of no run of this|holds no JSON object"):
        load_model(directory)


@pytest.mark.parametrize(
    ("dataset", "intent"),
    [
        ("cbis_ddsm/paper_whole", "film"),
        ("inbreast/whole", "FOR PRESENTATION"),
        ("manifest/whole", None),  # Scanned films are stretched there, too.
    ],
)
def test_an_earlier_description_has_its_data_sets_intent(directory, dataset, intent):
    path = directory / "model.json"
    values = json.loads(path.read_text()) | {"dataset": dataset}
    del values["intent"]
    path.write_text(json.dumps(values))
    assert load_model(directory).description.intent == intent
