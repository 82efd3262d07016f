"""The settings of a network that starts from another run."""

import json
import shutil
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
    directory.mkdir(exist_ok=True)
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


def _edit_config(directory: Path, **model: object) -> None:
    """Changes fields of a run's file; None takes one out."""
    values = json.loads((directory / "config.json").read_text())
    fields = {**values["model"], **model}
    values["model"] = {key: x for key, x in fields.items() if x is not None}
    run_directory.write_json(directory / "config.json", values)


def test_a_run_that_started_long_ago_may_lack_newer_fields(tmp_path):
    _write_source(tmp_path, "whole", trunk="resnet50")
    _edit_config(tmp_path, stem=None, batch_norm=None)
    taken = take_network(_config(tmp_path), tmp_path / "run").model
    assert (taken.width, taken.stem) == (1 / 16, "standard")
    with pytest.raises(UserError, match=r"model.stem is 'gentle', but 'standard' in"):
        take_network(_config(tmp_path, stem="gentle"), tmp_path / "run")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"top": {"kind": "forest"}}, "top.kind is 'forest'; it must be one of"),
        ({"top": []}, r"top is \[\]; it must be a table"),
        ({"trunk": "vgg20"}, "trunk is 'vgg20'; it must be one of"),
    ],
)
def test_a_run_without_a_network_is_refused(tmp_path, damage, message):
    _write_source(tmp_path / "source", "whole")
    _edit_config(tmp_path / "source", **damage)
    config = _config(tmp_path / "source")
    with pytest.raises(
        UserError, match=rf"config\.init_from: .*json: model.*{message}"
    ):
        take_network(config, tmp_path / "run")


def _begin(workdir: Path, config: ConfigDict) -> None:
    with run_directory.claim(workdir, config):
        (workdir / "checkpoint").write_text("")


@pytest.mark.parametrize("source_is_there", [True, False])
def test_a_run_that_has_begun_goes_on_with_its_own_network(tmp_path, source_is_there):
    """An earlier version took neither `batch_norm` nor `image_size` from the source."""
    source, workdir = tmp_path / "source", tmp_path / "run"
    _write_source(source, "whole", batch_norm="frozen")
    earlier = _config(source, trunk="vgg16", width=1 / 16, top__blocks=("4-4-8x1",))
    _begin(workdir, earlier)
    if not source_is_there:
        shutil.rmtree(source)
    taken = take_network(_config(source), workdir)
    assert taken == earlier
    _begin(workdir, taken)
    other = take_network(_config(source, width=0.5), workdir)
    with pytest.raises(
        UserError, match=r"another configuration: config.model.width is"
    ):
        _begin(workdir, other)


def test_a_run_that_has_not_begun_has_the_network_of_its_source(tmp_path):
    source, workdir = tmp_path / "source", tmp_path / "run"
    _write_source(source, "whole")
    with run_directory.claim(workdir, _config(source, width=0.5)):
        pass
    assert take_network(_config(source), workdir).model.width == 1 / 16


@pytest.mark.parametrize("model", [None, [], {"trunk": 5}, {"top": {"kind": "forest"}}])
def test_a_begun_run_whose_file_is_damaged_is_refused(tmp_path, model):
    source, workdir = tmp_path / "source", tmp_path / "run"
    _write_source(source, "whole")
    workdir.mkdir()
    values = {"init_from": str(source), "model": model}
    run_directory.write_json(workdir / "config.json", values)
    (workdir / "checkpoint").write_text("")
    with pytest.raises(UserError, match=rf"{workdir}/config.json: model"):
        take_network(_config(source), workdir)


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


@pytest.mark.parametrize("preset", scales.SEEDS)
def test_every_row_of_the_paper_goes_on_from_its_network(preset, tmp_path):
    rows = by_name(load_rows(ROWS))
    plan = plan_runs(dict.fromkeys(rows, 1), rows, Setting(preset, tmp_path, ""))
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
