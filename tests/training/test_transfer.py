"""The settings of a network that starts from another run."""

import json
from pathlib import Path

import pytest
import tiny_runs
from ml_collections import ConfigDict

from mammo_jax.common import run_directory
from mammo_jax.common.errors import UserError
from mammo_jax.config import whole_config
from mammo_jax.training.transfer import take_network
from paper import scales
from paper.rows import by_name, load_rows
from paper.runs import Setting, plan_runs

ROWS = Path(__file__).parents[2] / "configs" / "paper_rows.py"


def _write_source(directory: Path, task: str, **model: object) -> None:
    """A finished run's files, as far as they are read."""
    config = tiny_runs.make_config(task)
    config.model.update_from_flattened_dict(
        {name.replace("__", "."): value for name, value in model.items()}
    )
    run_directory.write_json(directory / "config.json", run_directory.as_json(config))
    run_directory.write_json(directory / "metrics.json", {})


def _config(source: Path, **model: object) -> ConfigDict:
    config = whole_config()
    config.init_from = str(source)
    config.model.update_from_flattened_dict(
        {name.replace("__", "."): value for name, value in model.items()}
    )
    return config.lock()


def test_a_whole_image_classifier_gives_its_design(tmp_path):
    _write_source(tmp_path, "whole", batch_norm="frozen", remat=True)
    config = _config(tmp_path, batch_norm="frozen_trunk")
    taken = take_network(config, tmp_path / "run").model
    assert (taken.trunk, taken.width) == ("vgg16", 1 / 16)
    assert taken.top.blocks == ("4-4-8x1",)
    assert taken.image_size == (tiny_runs.HEIGHT, tiny_runs.WIDTH)
    # It is set otherwise, which contradicts no weight; how to compute is no design.
    assert (taken.batch_norm, taken.remat) == ("frozen_trunk", False)
    assert config.model.trunk == "resnet50"


def test_a_patch_classifier_gives_its_trunk(tmp_path):
    _write_source(tmp_path, "patch", trunk="resnet50", wiring="keras", stem="gentle")
    config = _config(tmp_path)
    taken = take_network(config, tmp_path / "run").model
    assert (taken.wiring, taken.stem, taken.width) == ("keras", "gentle", 1 / 16)
    assert taken.top == config.model.top
    assert (taken.num_classes, taken.batch_norm) == (2, "batch")


def test_a_run_that_started_long_ago_may_lack_newer_fields(tmp_path):
    _write_source(tmp_path, "whole")
    values = json.loads((tmp_path / "config.json").read_text())
    del values["model"]["stem"], values["model"]["batch_norm"]
    run_directory.write_json(tmp_path / "config.json", values)
    assert take_network(_config(tmp_path), tmp_path / "run").model.trunk == "vgg16"


@pytest.mark.parametrize(
    ("source", "run", "message"),
    [
        ({}, {"trunk": "vgg19"}, "trunk is 'vgg19', but 'vgg16' in the run of"),
        ({}, {"width": 0.5}, "width is 0.5, but 0.0625 in the run of"),
        ({}, {"top__kind": "vgg"}, "top.kind is 'vgg', but 'residual' in the run of"),
        (
            {},
            {"top__blocks": ("4-4-8x2",)},
            r"top.blocks is \['4-4-8x2'\], but \['4-4-8x1'\]",
        ),
        (
            {"trunk": "resnet50", "wiring": "keras"},
            {"wiring": "torchvision"},
            "wiring is 'torchvision', but 'keras'",
        ),
        (
            {"top__kind": "heatmap", "top__activation": "relu"},
            {"top__activation": "logits"},
            "top.activation is 'logits', but 'relu'",
        ),
        (
            {"top__kind": "heatmap"},
            {"image_size": (576, 448)},
            r"image_size is \[576, 448\], but \[128, 96\]",
        ),
    ],
)
def test_a_field_that_contradicts_the_run_is_refused(tmp_path, source, run, message):
    _write_source(tmp_path, "whole", **source)
    with pytest.raises(UserError, match=f"config.model.{message}"):
        take_network(_config(tmp_path, **run), tmp_path / "run")


def test_a_folder_without_a_finished_run_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"config\.init_from: .*holds no model"):
        take_network(_config(tmp_path), tmp_path / "run")


@pytest.mark.parametrize(("preset", "scale"), scales.SCALES.items())
def test_every_row_of_the_paper_goes_on_from_its_network(preset, scale, tmp_path):
    rows = by_name(load_rows(ROWS))
    plan = plan_runs(dict.fromkeys(rows, 1), rows, Setting(preset, tmp_path, "", scale))
    configs = {run.row.name: run.config for run in plan}
    followers = [run.row for run in plan if run.row.start and run.row.kind != "forest"]
    assert len(followers) > 40
    for row in followers:
        source = tmp_path / "runs" / row.name
        source.mkdir(parents=True)
        start = run_directory.as_json(configs[row.start])
        run_directory.write_json(source / "config.json", start)
        run_directory.write_json(source / "metrics.json", {})
        config = configs[row.name]
        with config.unlocked():
            config.init_from = str(source)
        assert take_network(config, tmp_path / "run") == config
