"""Plans and their execution, with a training that only leaves its traces."""

import dataclasses
import functools
import json
import time
from pathlib import Path

import pytest

from mammo_jax.common import run_directory
from mammo_jax.common.errors import RunStoppedError, UserError
from mammo_jax.config import stage_table
from paper import command, gate, phantoms, runs, scales
from paper.rows import by_name, load_rows, row_config

ROWS = load_rows(Path(__file__).parents[2] / "configs" / "paper_rows.py")
KNOWN = by_name(ROWS)
HYBRID = "vgg16_s10_residual_512-512-1024x2"


def request_for(out, **more):
    return command.check_request(ROWS, preset="phantom", out=out, **more)


def finish(config, directory):
    """What a run leaves at its end."""
    directory.mkdir(parents=True, exist_ok=True)
    run_directory.write_json(directory / "config.json", run_directory.as_json(config))
    test = {"auc": None, "accuracy": 0.5, "loss": 0.7}
    metrics = {"best_epoch": 1, "steps": 3, "validation": test, "test": test}
    (directory / "metrics.json").write_text(json.dumps(metrics))


def test_rows_share_one_patch_classifier(tmp_path):
    plan = request_for(tmp_path, tables=["2"], seeds=2).plan
    starts = [r for r in plan if r.row.name == "patch_resnet50_s10"]
    assert [r.seed for r in starts] == [0, 1]
    users = [r for r in plan if r.row.start == "patch_resnet50_s10"]
    assert len(users) == 2 * 9
    for user in users:
        assert user.config.init_from == str(starts[user.seed].directory)
        assert "patch" not in user.config


def test_every_run_stands_after_the_one_it_starts_from(tmp_path):
    plan = request_for(tmp_path, names=[f"inbreast_{HYBRID}_20patients"]).plan
    assert [r.row.name for r in plan[::8]] == [
        "patch_vgg16_s10",
        HYBRID,
        f"inbreast_{HYBRID}_20patients",
    ]


def test_rows_of_claims_have_eight_seeds_on_phantoms(tmp_path):
    counts = {}
    for planned in request_for(tmp_path).plan:
        counts[planned.row.name] = counts.get(planned.row.name, 0) + 1
    assert {*counts} == {name for name, row in KNOWN.items() if not row.original}
    assert counts["resnet50_s10_forest"] == 8
    assert counts["patch_vgg19_s30"] == 1


def test_paper_rows_keep_the_papers_scale(tmp_path):
    request = command.check_request(ROWS, preset="paper", out=tmp_path, tables=["2"])
    for planned in request.plan:
        assert planned.config.model.width == 1.0
        assert planned.config.data.dataset == planned.row.dataset
    config = request.plan[-1].config
    assert config.forest.trees == 500


def test_the_small_scale_changes_size_and_steps_alone(tmp_path):
    for planned in request_for(tmp_path, seeds=1).plan:
        config, row = planned.config, planned.row
        # The test release only scores.
        dataset = row.dataset.replace("/paper_", "/official_")
        assert config.data.dataset == f"{dataset}_h{scales.HEIGHT}"
        assert config.model.width == scales.WIDTH
        # As many positions as in the paper.
        full = row_config(row, KNOWN).model
        sizes = (224, 224) if row.kind == "patch" else full.image_size
        positions = [size // full.stride for size in sizes]
        small = config.model
        assert [size // small.stride for size in small.image_size] == positions
        assert small.top.window == full.top.window == 224 // full.stride
        if not row.stages:
            continue
        for name, stage in config.stages.items():
            paper = stage_table(row.stages)[name]
            trained = {g for g, rate in paper.rates.items() if rate}
            assert {g for g, rate in stage.rates.items() if rate} == trained
    tops = {p.row.top: p.config.model.top for p in request_for(tmp_path, seeds=1).plan}
    assert tops["residual_512-512-1024x2"].blocks == ("64-64-128x2", "64-64-128x2")
    assert tops["heatmap_1x1"].fc == (256, 128)


def planned_beside(row, rows, out, preset="phantom"):
    """The configurations of a row that is new, and of the row it is compared with."""
    names = [row, "patch_resnet50_s10"]
    request = command.check_request(rows, preset=preset, out=out, names=names, seeds=1)
    return {r.row.name: r.config for r in request.plan}


def test_a_rows_own_fields_win_but_for_its_length(tmp_path):
    own = {
        "batch_size": 8,
        "eval_batch_size": 16,
        "augment.rotation": 10.0,
        "model.width": 0.125,
        "stages.stage1.l2": 1e-2,
        "stages.stage2.rates.head": 5e-5,
        "stages.stage3.epochs": 99,
        "early_stopping_patience": 7,
    }
    row = dataclasses.replace(KNOWN["patch_resnet50_s10"], name="mine", fields=own)
    configs = planned_beside("mine", [*ROWS, row], tmp_path)
    mine, usual = configs["mine"], configs["patch_resnet50_s10"]
    length = ("stages.stage3.epochs", "early_stopping_patience")
    for name, value in own.items():
        found = functools.reduce(lambda part, key: part[key], name.split("."), mine)
        assert (found == value) == (name not in length)
    assert mine.stages.stage3.epochs == usual.stages.stage3.epochs
    assert mine.early_stopping_patience == usual.early_stopping_patience == 0
    assert mine.steps_per_epoch == usual.steps_per_epoch


def test_the_original_resolution_is_for_real_data_alone(tmp_path):
    name = "patch_resnet50_s10_original"
    with pytest.raises(UserError, match=f"there is no '{name}'"):
        request_for(tmp_path, names=[name])
    big = planned_beside(name, ROWS, tmp_path, "paper")[name]
    assert big.data.dataset == "cbis_ddsm/paper_s10_h4608"
    assert big.model.compute_dtype == "bfloat16"
    assert big.batch_size == 32


def test_the_plan_tells_rows_and_steps(tmp_path):
    names = ["inbreast_vgg16_s10_vgg_512x1_20patients", "resnet50_s10_forest"]
    text = command.describe(request_for(tmp_path, names=names, seeds=1))
    of_row = {line.split()[0]: line.split()[-3] for line in text.splitlines()[1:-1]}
    assert of_row["inbreast_vgg16_s10_vgg_512x1_20patients"] == str(3 * 20)
    assert of_row["patch_vgg16_s10"] == str(3 * 80)
    assert of_row["resnet50_s10_forest"] == "-"
    assert text.endswith("5 runs, 5 to run")


def test_every_seed_has_a_pretrained_trunk_of_its_own(tmp_path):
    request = request_for(tmp_path, names=["patch_vgg16_s10"], seeds=8)
    weights = [Path(planned.config.pretrained).stem for planned in request.plan]
    assert weights == [f"vgg16_{seed}" for seed in range(8)]


@pytest.mark.parametrize("field", ["pretrained", "init_from"])
def test_a_finished_run_that_started_from_another_seed_is_refused(field, tmp_path):
    # An earlier version had seeds 1 and 5 start from one trunk.
    row = {"pretrained": "patch_vgg16_s10", "init_from": "vgg16_s10_vgg_512x1"}[field]
    (*_, planned) = request_for(tmp_path, names=[row], seeds=6).plan
    config = planned.config.copy_and_resolve_references()
    assert "5" in config[field]
    finish(config, planned.directory)
    runs.check_finished([planned])
    config[field] = config[field].replace("5", "1")
    finish(config, planned.directory)
    with pytest.raises(UserError, match=f"{field} is .*1.* there and .*5.* here"):
        runs.check_finished([planned])


@pytest.mark.parametrize("damage", [{"data": None}, {"data": "x"}, {"init_from": 3}])
def test_a_damaged_configuration_is_another_one(damage, tmp_path):
    (*_, planned) = request_for(tmp_path, names=["vgg16_s10_vgg_512x1"], seeds=1).plan
    finish(planned.config, planned.directory)
    path = planned.directory / "config.json"
    run_directory.write_json(path, run_directory.read_json(path) | damage)
    with pytest.raises(UserError, match="holds a run with another configuration"):
        runs.check_finished([planned])


def test_results_of_two_versions_are_not_mixed(tmp_path, monkeypatch):
    plan = request_for(tmp_path, names=["resnet50_s10_forest"], seeds=1).plan
    monkeypatch.setattr("mammo_jax.__version__", "0.1.0")
    runs.run_all(plan[:1], finish)
    runs.check_finished(plan)
    monkeypatch.setattr("mammo_jax.__version__", "0.9.0")
    message = (
        r"versions .* not to be mixed: 0\.1\.0 \(patch_resnet50_s10 \(seed 0\)\), "
        r"0\.9\.0 \(resnet50_s10_forest.*use another --out"
    )
    for wanted in (plan, plan[::-1]):
        with pytest.raises(UserError, match=r"not to be mixed: .*use another --out"):
            runs.run_all(wanted, finish)
    with pytest.raises(UserError, match=message):
        runs.run_all(plan, finish)
    assert not plan[1].finished
    runs.check_finished(plan[:1])  # What is finished may still be written out.
    # Earlier versions noted none.
    (plan[0].directory.parent / "seed0.json").write_text('{"seconds": 3.0}')
    with pytest.raises(UserError, match="an earlier one"):
        runs.run_all(plan, finish)


def test_finished_runs_are_not_run_again(tmp_path):
    plan = request_for(tmp_path, names=["resnet50_s10_forest"], seeds=1).plan
    done = []

    def train(config, directory):
        done.append(directory)
        finish(config, directory)

    runs.run_all(plan, train)
    runs.run_all(plan, train)
    assert done == [r.directory for r in plan]


def test_an_interrupted_plan_goes_on_and_adds_up_the_time(tmp_path):
    plan = request_for(tmp_path, names=["resnet50_s10_forest"], seeds=1).plan
    calls = []

    def train(config, directory):
        calls.append(directory)
        time.sleep(0.1)
        if len(calls) == 2:
            raise RunStoppedError(2, "stopped")
        finish(config, directory)

    with pytest.raises(RunStoppedError):
        runs.run_all(plan, train)
    runs.run_all(plan, train)
    assert calls == [plan[0].directory, plan[1].directory, plan[1].directory]
    assert plan[1].seconds >= 0.2


def test_a_run_that_is_trained_anew_is_measured_anew(tmp_path):
    (planned,) = request_for(tmp_path, names=["patch_vgg16_s10"], seeds=1).plan
    runs.run_all([planned], finish)
    planned.derived.mkdir()
    measured = planned.derived / "gate.json"
    measured.write_text("{}")
    runs.run_all([planned], finish)
    assert measured.exists()
    (planned.directory / "metrics.json").unlink()
    runs.run_all([planned], finish)
    assert not measured.exists()


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (UserError("the loss is nan"), "the loss is nan"),
        (OSError(28, "no space left"), "[Errno 28] no space left"),
        (RuntimeError("RESOURCE_EXHAUSTED"), "RESOURCE_EXHAUSTED"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_a_failed_run_stops_only_those_that_start_from_it(tmp_path, error, why):
    names = ["resnet50_s10_forest", "patch_vgg16_s10"]
    plan = request_for(tmp_path, names=names, seeds=1).plan
    done = []

    def train(config, directory):
        done.append(directory.parent.name)
        if "resnet50" in str(directory):
            raise error
        finish(config, directory)

    failures = runs.run_all(plan, train)
    assert done == ["patch_resnet50_s10", "patch_vgg16_s10"]
    assert failures["patch_resnet50_s10 (seed 0)"] == why
    assert "which it starts from" in failures["resnet50_s10_forest (seed 0)"]


@pytest.fixture
def no_data(monkeypatch):
    """The phantoms are taken to be there."""
    monkeypatch.setattr(phantoms, "prepare", lambda *arguments: None)
    monkeypatch.setattr(runs, "check_inputs", lambda plan: None)
    monkeypatch.setattr(gate, "check_gate", lambda *arguments: "")


@pytest.mark.usefixtures("no_data")
def test_a_finished_run_of_another_configuration_is_refused(tmp_path, monkeypatch):
    request = request_for(tmp_path, names=["resnet50_s10_forest"], seeds=1)
    command.reproduce(request, finish)
    before = (tmp_path / "phantom" / "table_rows.csv").read_text()
    message = (
        r"patch_resnet50_s10/seed0 holds a run with another configuration: "
        r".*config\.model\.width is 0\.125 there and 0\.25 here; use another --out"
    )

    def train(config, directory):
        raise AssertionError

    with monkeypatch.context() as changed:
        changed.setattr(scales, "WIDTH", 0.25)
        for work in (
            lambda: command.reproduce(request, train),
            lambda: command.describe(request),
            lambda: command.write_results(request, tmp_path / "R.md"),
            lambda: runs.run_all(request.plan, train),
        ):
            with pytest.raises(UserError, match=message):
                work()
    assert (tmp_path / "phantom" / "table_rows.csv").read_text() == before
    assert command.reproduce(request, train)[1] == {}


def test_results_may_be_moved(tmp_path):
    names = ["inbreast_vgg16_s10_vgg_512x1"]
    for planned in request_for(tmp_path / "here", names=names, seeds=1).plan:
        finish(planned.config, planned.directory)
    (tmp_path / "here").rename(tmp_path / "there")
    after = request_for(tmp_path / "there", names=names, seeds=1).plan
    runs.check_finished(after)
    assert all(planned.finished for planned in after)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"tables": ["7"]}, "--table: there is no '7'; choose from 1, 2"),
        ({"figures": ["1"]}, "--figure: there is no '1'; choose from 2, appendix"),
        ({"names": ["x"]}, "--rows: there is no 'x'; choose from patch_"),
        ({"seeds": 0}, "--seeds is 0"),
    ],
)
def test_wrong_requests_name_the_choices(tmp_path, wrong, message):
    with pytest.raises(UserError, match=message):
        request_for(tmp_path, **wrong)


def test_an_unknown_preset_names_the_choices(tmp_path):
    with pytest.raises(UserError, match="'tiny'; choose from paper, phantom"):
        command.check_request(ROWS, preset="tiny", out=tmp_path)


def test_missing_data_and_weights_are_named_together(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    request = command.check_request(
        ROWS, preset="paper", out=tmp_path / "out", tables=["2"]
    )
    with pytest.raises(UserError) as caught:
        command.reproduce(request)
    for part in (
        "5 inputs are missing, nothing was run",
        "build-dataset cbis_ddsm/paper_s10",
        "build-dataset cbis_ddsm/paper_whole",
        "convert-weights --download=resnet50",
    ):
        assert part in str(caught.value)
    assert not (tmp_path / "out").exists()
