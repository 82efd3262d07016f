"""What stands in for real data and for ImageNet's weights."""

import dataclasses

import numpy as np
import pytest

from mammo_jax.common import run_directory
from mammo_jax.common.errors import UserError
from mammo_jax.models import build_model, read_model_config, variables
from mammo_jax.weights import conversion, pretrained
from paper import phantoms, scales

TINY = dataclasses.replace(
    scales.PHANTOM,
    phantoms=scales.Phantoms(
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


def test_phantoms_of_other_settings_are_refused(tmp_path):
    phantoms.prepare(tmp_path, TINY, ["inbreast/whole_h288"], [], no_training)
    assert run_directory.holds_phantoms(str(tmp_path / "data"), "")
    raw = tmp_path / "data" / "raw" / "inbreast"
    before = sorted(path.stat().st_mtime_ns for path in raw.rglob("*.dcm"))
    phantoms.prepare(tmp_path, TINY, ["inbreast/whole_h288"], [], no_training)
    assert before == sorted(path.stat().st_mtime_ns for path in raw.rglob("*.dcm"))
    other = dataclasses.replace(
        TINY, phantoms=dataclasses.replace(TINY.phantoms, contrast=1.0)
    )
    with pytest.raises(UserError, match="choose another folder with --out"):
        phantoms.prepare(tmp_path, other, ["inbreast/whole_h288"], [], no_training)


def write_trunk(folder, trunk, config):
    weights = scales.weights_file(folder, trunk, 1)
    weights.parent.mkdir(parents=True, exist_ok=True)
    weights.touch()
    record = folder / "pretraining" / f"{trunk}_1" / "config.json"
    record.parent.mkdir(parents=True, exist_ok=True)
    run_directory.write_json(record, run_directory.as_json(config))
    return record


def test_a_trunk_of_another_pretraining_is_refused(tmp_path):
    folder = tmp_path / "here" / "phantom"
    config = phantoms.pretraining_config(folder, "vgg16", 1, TINY)
    record = write_trunk(folder, "vgg16", config)
    trunks = [("resnet50", 0), ("vgg16", 1), ("vgg16", 5)]
    missing = [("resnet50", 0), ("vgg16", 5)]
    assert phantoms.missing_trunks(folder, trunks, TINY) == missing
    other = dataclasses.replace(
        TINY, pretraining={**TINY.pretraining, "stages.stage1.epochs": 5}
    )
    message = (
        r"pretraining/vgg16_1 holds a run .*epochs is 4 there and 5 here; use another"
    )
    with pytest.raises(UserError, match=message):
        phantoms.missing_trunks(folder, trunks, other)
    with pytest.raises(UserError, match=message):
        phantoms.prepare(folder, other, [], [("vgg16", 1)], no_training)
    # The folder may be moved as a whole.
    (tmp_path / "here").rename(tmp_path / "there")
    moved = tmp_path / "there" / "phantom"
    assert phantoms.missing_trunks(moved, [("vgg16", 1)], TINY) == []
    (moved / record.relative_to(folder)).unlink()
    with pytest.raises(UserError, match=r"but not .*config\.json, which says how"):
        phantoms.missing_trunks(moved, [("vgg16", 1)], TINY)
