"""A run's directory as a model: what is read, and what is refused."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from tiny_runs import HEIGHT, MEAN, WIDTH, write_run

from mammo_jax.common.errors import UserError
from mammo_jax.common.run_directory import read_json, write_json
from mammo_jax.models import variables
from mammo_jax.weights.model_description import load_description, save_description
from mammo_jax.weights.model_directory import (
    load_model,
    load_variables,
    save_variables,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    directory = tmp_path_factory.mktemp("made") / "run"
    return directory, write_run(directory)


@pytest.fixture
def directory(made, tmp_path) -> Path:
    return shutil.copytree(made[0], tmp_path / "run")


@pytest.fixture
def without_digest(directory) -> Path:
    """Makes the directory one of the first format, whose weights were not hashed."""
    return _describe(directory, format=None, sha256=None)


def _describe(directory: Path, **changes: object) -> Path:
    """Changes fields of `model.json`; None removes one."""
    path = directory / "model.json"
    values = json.loads(path.read_text()) | changes
    kept = {k: v for k, v in values.items() if k not in changes or v is not None}
    path.write_text(json.dumps(kept))
    return directory


def test_the_model_that_was_saved_is_loaded(made):
    directory, network = made
    _, *found = load_variables(directory)
    _, *expected = variables.split(network)
    for values, those in zip(found, expected, strict=True):
        assert values.keys() == those.keys()
        for name in those:
            np.testing.assert_array_equal(values[name], those[name])
    said = load_model(directory).description
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


def test_a_single_other_bit_in_the_weights_is_found_and_named(directory):
    path = directory / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    message = r"model\.safetensors is damaged or of another model: its SHA-256 .* copy"
    for load in (load_model, load_variables):
        with pytest.raises(UserError, match=message):
            load(directory)


def test_weights_written_anew_are_described_anew(directory):
    before = load_description(directory)
    _, params, stats = load_variables(directory)
    save_variables(directory, {name: 2 * x for name, x in params.items()}, stats)
    with pytest.raises(UserError, match="SHA-256"):
        load_model(directory)
    save_description(directory, before)
    after = load_model(directory).description
    assert after.sha256 != before.sha256
    digest = hashlib.sha256((directory / "model.safetensors").read_bytes()).hexdigest()
    assert after.sha256 == digest


def test_a_directory_of_the_first_format_is_loaded(without_digest):
    assert load_model(without_digest).description.sha256 is None


def test_a_newer_format_says_to_update(directory):
    _describe(directory, format=3, more="fields")
    message = r"model\.json is of format 3, which a newer mammo_jax .* update it"
    with pytest.raises(UserError, match=message):
        load_model(directory)


@pytest.mark.parametrize("value", [0, -1, "2", 1.5, [2]])
def test_a_format_that_is_none_is_refused(directory, value):
    _describe(directory, format=value)
    with pytest.raises(UserError, match=r"model\.json is damaged: its format"):
        load_model(directory)


def test_todays_format_needs_a_digest(directory):
    _describe(directory, sha256=None)
    with pytest.raises(UserError, match="its sha256 is missing"):
        load_model(directory)


def test_truncated_weights_without_a_digest_are_refused(without_digest):
    path = without_digest / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(UserError, match="not a readable safetensors file"):
        load_model(without_digest)


def test_weights_of_another_model_are_refused(without_digest):
    directory = without_digest
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


def test_integers_are_no_weights(without_digest):
    directory = without_digest
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
        ("sha256", "A" * 64),
        ("sha256", ["0" * 64]),
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


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("format", True, "its format is True"),
        ("format", 2.0, "its format is 2.0"),
        ("format", 10**50, "is of format 1000"),
        ("malignant_classes", [1, 1], "each once"),
        ("malignant_classes", [0, 1], "some of the classes"),
        ("pixel_mean", 10**400, "pixel_mean is 1000"),
        ("class_names", ["a", "b", "c"], "names 3 classes, and its network has 2"),
    ],
)
def test_a_description_that_contradicts_the_network_is_refused(
    tmp_path, field, value, message
):
    write_run(tmp_path / "run")
    path = tmp_path / "run" / "model.json"
    write_json(path, {**read_json(path), field: value})
    with pytest.raises(UserError, match=message):
        load_model(tmp_path / "run")


@pytest.mark.parametrize("block", ["4-4-8x99999999", "9" * 5000 + "-4-8x1"])
def test_a_configuration_of_a_network_without_end_is_refused(tmp_path, block):
    write_run(tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    config = read_json(path)
    config["model"]["top"] |= {"kind": "residual", "blocks": [block]}
    write_json(path, config)
    with pytest.raises(UserError, match="is not a residual block"):
        load_model(tmp_path / "run")
    config["model"]["top"]["blocks"] = ["4-4-8x1"] * 5000
    write_json(path, config)
    with pytest.raises(UserError, match="blocks are more than 16"):
        load_model(tmp_path / "run")


def test_a_deep_configuration_is_refused(tmp_path):
    write_run(tmp_path / "run")
    deep = '{"a":' * 900 + "1" + "}" * 900
    (tmp_path / "run" / "config.json").write_text(f'{{"model": {deep}}}')
    with pytest.raises(UserError, match="or a deep one"):
        load_model(tmp_path / "run")
