"""What stands in for real data and for ImageNet's weights."""

import numpy as np
import pytest
from tiny_runs import write_run

from mammo_jax.common import run_directory
from mammo_jax.common.errors import UserError
from mammo_jax.models import build_model, read_model_config, variables
from mammo_jax.weights import conversion, pretrained
from paper import phantoms, scales


@pytest.fixture
def tiny(monkeypatch):
    """Few phantoms, small ones."""
    for layout, settings in scales.PHANTOMS.items():
        cases = 10 if layout == "inbreast" else 3
        changed = {**settings, "cases": cases, "height": 128}
        monkeypatch.setitem(scales.PHANTOMS, layout, changed)


@pytest.mark.parametrize(("trunk", "wiring"), [("vgg16", ""), ("resnet50", "keras")])
def test_a_narrow_trunk_goes_through_the_door_of_ported_weights(
    tmp_path, trunk, wiring
):
    config = {"trunk": trunk, "width": 1 / 16, "top": {"kind": "patch"}}
    if wiring:
        config["wiring"] = wiring
    _, params, stats = variables.split(build_model(read_model_config(config), 1))
    file = tmp_path / "trunk.safetensors"
    pretrained.save_trunk(trunk, wiring, params | stats, "made up", file)
    _, fresh, fresh_stats = variables.split(build_model(read_model_config(config), 2))
    loaded = pretrained.load_trunk(file, trunk, wiring, 1 / 16)
    put, _ = conversion.put_values(loaded, fresh, fresh_stats)
    for name, value in put.items():
        expected = params if name.startswith("trunk/") else fresh
        np.testing.assert_array_equal(value, expected[name])


def test_a_trunk_of_another_width_is_refused(tmp_path):
    narrow = {"trunk": "vgg16", "width": 1 / 16, "top": {"kind": "patch"}}
    _, params, stats = variables.split(build_model(read_model_config(narrow), 0))
    file = tmp_path / "trunk.safetensors"
    pretrained.save_trunk("vgg16", "", params | stats, "made up", file)
    with pytest.raises(UserError, match="of their own trunk and width"):
        pretrained.load_trunk(file, "vgg16", "", 1 / 8)


def no_training(config, directory):
    raise AssertionError


@pytest.mark.usefixtures("tiny")
def test_phantoms_of_other_settings_are_refused(tmp_path, monkeypatch):
    phantoms.prepare(tmp_path, ["inbreast/whole_h288"], [], no_training)
    assert run_directory.holds_phantoms(str(tmp_path / "data"), "")
    raw = tmp_path / "data" / "raw" / "inbreast"
    before = sorted(path.stat().st_mtime_ns for path in raw.rglob("*.dcm"))
    phantoms.prepare(tmp_path, ["inbreast/whole_h288"], [], no_training)
    assert before == sorted(path.stat().st_mtime_ns for path in raw.rglob("*.dcm"))
    other = {**scales.PHANTOMS["inbreast"], "contrast": 1.0}
    monkeypatch.setitem(scales.PHANTOMS, "inbreast", other)
    with pytest.raises(UserError, match="choose another folder with --out"):
        phantoms.prepare(tmp_path, ["inbreast/whole_h288"], [], no_training)


def test_a_trunk_of_another_pretraining_is_refused(tmp_path, monkeypatch):
    folder, trunks = tmp_path / "here" / "phantom", [("vgg16", 1)]
    weights = scales.weights_file(folder, "vgg16", 1)
    record = folder / "pretraining" / "vgg16_1" / "config.json"
    config = phantoms.pretraining_config(folder, "vgg16", 1)
    for path in (weights, record):
        path.parent.mkdir(parents=True)
    weights.touch()
    run_directory.write_json(record, run_directory.as_json(config))
    phantoms.prepare(folder, [], trunks, no_training)
    with monkeypatch.context() as changed:
        changed.setitem(scales.PRETRAINING, "stages.stage1.epochs", 5)
        message = (
            r"pretraining/vgg16_1 holds a run .*epochs is 4 there and 5 here; use "
            "another"
        )
        with pytest.raises(UserError, match=message):
            phantoms.prepare(folder, [], trunks, no_training)
    # The folder may be moved as a whole.
    (tmp_path / "here").rename(tmp_path / "there")
    moved = tmp_path / "there" / "phantom"
    phantoms.prepare(moved, [], trunks, no_training)
    (moved / record.relative_to(folder)).unlink()
    with pytest.raises(UserError, match=r"but not .*config\.json, which says how"):
        phantoms.prepare(moved, [], trunks, no_training)


def test_a_trunk_that_is_not_there_is_pretrained_once(tmp_path, monkeypatch):
    monkeypatch.setattr(phantoms, "_draw", lambda raw, layout: raw)
    monkeypatch.setattr(phantoms, "_package", lambda *given: None)
    trained = []

    def train(config, directory):
        trained.append((config.model.trunk, config.seed, directory.name))
        write_run(directory, "patch", width=scales.WIDTH, stride=scales.STRIDE)
        fields = run_directory.as_json(config)
        run_directory.write_json(directory / "config.json", fields)

    trunks = [("vgg16", 5), ("vgg16", 1), ("vgg16", 5)]
    for _ in range(2):
        phantoms.prepare(tmp_path, [], trunks, train)
    assert trained == [("vgg16", 1, "vgg16_1"), ("vgg16", 5, "vgg16_5")]
    for _, seed in trunks:
        file = scales.weights_file(tmp_path, "vgg16", seed)
        assert pretrained.load_trunk(file, "vgg16", "", scales.WIDTH, scales.STRIDE)
