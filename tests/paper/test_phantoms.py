"""What stands in for real data and for ImageNet's weights."""

import dataclasses
import subprocess
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from mammo_jax.common import run_directory as workdirs
from mammo_jax.common.errors import UserError
from mammo_jax.models import build_model, read_model_config, variables
from mammo_jax.weights import pretrained
from paper import phantoms, presets, run

TINY = dataclasses.replace(
    presets.PHANTOM,
    phantoms=presets.Phantoms(
        cases=3, inbreast_cases=10, pretraining_cases=3, height=128
    ),
)


@pytest.mark.parametrize(("trunk", "wiring"), [("vgg16", ""), ("resnet50", "keras")])
def test_a_narrow_trunk_goes_through_the_door_of_ported_weights(
    tmp_path, trunk, wiring
):
    config = {"trunk": trunk, "width": 1 / 16, "top": {"kind": "patch"}}
    if wiring:
        config["wiring"] = wiring
    _, params, stats = variables.split(build_model(read_model_config(config), 1))
    file = tmp_path / "trunk.safetensors"
    pretrained.save_trunk(trunk, wiring, 1 / 16, params | stats, "made up", file)
    _, fresh, fresh_stats = variables.split(build_model(read_model_config(config), 2))
    loaded = pretrained.load_trunk(file, trunk, wiring)
    put, _ = pretrained.put_trunk(loaded, fresh, fresh_stats)
    for name, value in put.items():
        expected = params if name.startswith("trunk/") else fresh
        np.testing.assert_array_equal(value, expected[name])


def test_a_trunk_of_another_width_is_refused(tmp_path):
    narrow = {"trunk": "vgg16", "width": 1 / 16, "top": {"kind": "patch"}}
    _, params, stats = variables.split(build_model(read_model_config(narrow), 0))
    file = tmp_path / "trunk.safetensors"
    pretrained.save_trunk("vgg16", "", 1 / 16, params | stats, "made up", file)
    wide = build_model(read_model_config({**narrow, "width": 1 / 8}), 0)
    _, params, stats = variables.split(wide)
    with pytest.raises(UserError, match="of their own trunk and width"):
        pretrained.put_trunk(pretrained.load_trunk(file, "vgg16", ""), params, stats)


@pytest.mark.parametrize("width", ["nan", "1e9", "-1", "17.0", "0"])
def test_a_hostile_width_is_refused(tmp_path, width):
    file = tmp_path / "trunk.safetensors"
    metadata = {
        "format": "mammo_jax trunk 1",
        "architecture": "vgg16",
        "wiring": "",
        "width": width,
        "input_std": "[1.0, 1.0, 1.0]",
    }
    safetensors.numpy.save_file({"x": np.zeros(1, np.float32)}, file, metadata)
    with pytest.raises(UserError, match="is damaged: its width is"):
        pretrained.load_trunk(file, "vgg16", "")


def test_phantoms_of_other_settings_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(phantoms, "commit_of_program", lambda: "first")
    monkeypatch.setattr(phantoms, "last_change", lambda part: f"of {part}")

    def no_training(config, directory):
        raise AssertionError

    phantoms.prepare(tmp_path, TINY, ["inbreast/whole_h288"], [], no_training)
    assert phantoms.commits(tmp_path) == ["first"]
    monkeypatch.setattr(phantoms, "commit_of_program", lambda: "second")
    raw = tmp_path / "data" / "raw" / "inbreast"
    before = sorted(path.stat().st_mtime_ns for path in raw.rglob("*.dcm"))
    phantoms.prepare(tmp_path, TINY, ["inbreast/whole_h288"], [], no_training)
    assert before == sorted(path.stat().st_mtime_ns for path in raw.rglob("*.dcm"))
    assert phantoms.commits(tmp_path) == ["first"]
    assert phantoms.generator_commits(tmp_path) == ["of mammo_jax/phantom"]
    other = dataclasses.replace(
        TINY, phantoms=dataclasses.replace(TINY.phantoms, contrast=1.0)
    )
    with pytest.raises(UserError, match="choose another folder with --out"):
        phantoms.prepare(tmp_path, other, ["inbreast/whole_h288"], [], no_training)


def write_trunk(folder, trunk, config):
    weights = presets.weights_file(folder, trunk)
    weights.parent.mkdir(parents=True, exist_ok=True)
    weights.touch()
    record = folder / "pretraining" / trunk / "config.json"
    record.parent.mkdir(parents=True, exist_ok=True)
    workdirs.write_json(record, workdirs.as_json(config))
    return record


def test_a_trunk_of_another_pretraining_is_refused(tmp_path):
    folder = tmp_path / "here" / "phantom"
    config = phantoms.pretraining_config(folder, "vgg16", TINY)
    record = write_trunk(folder, "vgg16", config)
    trunks = ["resnet50", "vgg16"]
    assert phantoms.missing_trunks(folder, trunks, TINY) == ["resnet50"]
    other = dataclasses.replace(
        TINY, pretraining={**TINY.pretraining, "stages.stage1.epochs": 5}
    )
    message = r"pretraining/vgg16 holds a run with another .*\(stages\); use another"
    with pytest.raises(UserError, match=message):
        phantoms.missing_trunks(folder, trunks, other)

    def no_training(config, directory):
        raise AssertionError

    with pytest.raises(UserError, match=message):
        phantoms.prepare(folder, other, [], ["vgg16"], no_training)
    # The folder may be moved as a whole.
    (tmp_path / "here").rename(tmp_path / "there")
    moved = tmp_path / "there" / "phantom"
    assert phantoms.missing_trunks(moved, ["vgg16"], TINY) == []
    (moved / record.relative_to(folder)).unlink()
    with pytest.raises(UserError, match=r"but not .*config\.json, which says how"):
        phantoms.missing_trunks(moved, ["vgg16"], TINY)


def git(*words):
    root = Path(__file__).parents[2]
    done = subprocess.run(["git", "-C", root, *words], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no history here: {done.stderr}")
    return done.stdout.split()


def test_the_generators_last_change_comes_from_the_history():
    newest, *older = git("log", "--format=%H", "--", "mammo_jax/phantom")
    found = run.last_change("mammo_jax/phantom")
    assert newest.startswith(found.removesuffix("+"))  # +: being worked on.
    assert run.last_change("mammo_jax/phantom", "HEAD") == found.removesuffix("+")
    assert len(found) >= 12
    if older:  # Before the newest change the one before it was the last.
        before = run.last_change("mammo_jax/phantom", f"{newest}~1+")
        assert before.endswith("+")
        assert older[0].startswith(before[:-1])
    assert run.last_change("mammo_jax/phantom", "unknown") == ""
    assert run.last_change("mammo_jax/phantom", "--help") == ""


def test_records_of_earlier_drawings_get_the_generators_change(tmp_path):
    (head,) = git("rev-parse", "--short=12", "HEAD")
    raw = presets.data_dir(tmp_path) / "raw"
    raw.mkdir(parents=True)
    workdirs.write_json(raw / "cbis_ddsm.json", {"seed": 0, "commit": head})
    expected = run.last_change("mammo_jax/phantom", head)
    assert phantoms.generator_commits(tmp_path) == [expected]
    workdirs.write_json(raw / "cbis_ddsm.json", {"seed": 0, "commit": "unknown"})
    assert phantoms.generator_commits(tmp_path) == ["not recorded"]
