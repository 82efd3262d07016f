"""Plans and their execution, with a training that only leaves its traces."""

import dataclasses
import functools
import json
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mammo_jax.common import run_directory as workdirs
from mammo_jax.common.errors import RunStoppedError, UserError
from mammo_jax.config import stage_table
from paper import (
    command,
    conditions,
    ensembles,
    gradients,
    outcomes,
    phantoms,
    plan,
    presets,
    run,
)
from paper.rows import by_name, load_rows

ROWS = load_rows(Path(__file__).parents[2] / "configs" / "paper_rows.py")
KNOWN = by_name(ROWS)
HYBRID = "vgg16_s10_residual_512-512-1024x2"


def request_for(out, **more):
    return command.check_request(ROWS, preset="phantom", out=out, **more)


def finish(config, directory):
    """What a run leaves at its end."""
    directory.mkdir(parents=True, exist_ok=True)
    workdirs.write_json(directory / "config.json", workdirs.as_json(config))
    test = {"auc": None, "accuracy": 0.5, "loss": 0.7}
    metrics = {"best_epoch": 1, "steps": 3, "validation": test, "test": test}
    (directory / "metrics.json").write_text(json.dumps(metrics))


def test_rows_share_one_patch_classifier(tmp_path):
    runs = request_for(tmp_path, tables=["2"], seeds=2).plan
    starts = [r for r in runs if r.row.name == "patch_resnet50_s10"]
    assert [r.seed for r in starts] == [0, 1]
    users = [r for r in runs if r.row.start == "patch_resnet50_s10"]
    assert len(users) == 2 * 9
    for user in users:
        assert user.config.init_from == str(starts[user.seed].directory)
        assert "patch" not in user.config


def test_every_run_stands_after_the_one_it_starts_from(tmp_path):
    runs = request_for(tmp_path, names=[f"inbreast_{HYBRID}_20patients"]).plan
    assert [r.row.name for r in runs[::3]] == [
        "patch_vgg16_s10",
        HYBRID,
        f"inbreast_{HYBRID}_20patients",
    ]


def test_rows_of_claims_have_three_seeds_on_phantoms(tmp_path):
    counts = {}
    for planned in request_for(tmp_path).plan:
        counts[planned.row.name] = counts.get(planned.row.name, 0) + 1
    assert {*counts} == {*KNOWN}
    assert counts["resnet50_s10_forest"] == 3
    assert counts["patch_vgg19_s30"] == 1


def test_paper_rows_keep_the_papers_scale(tmp_path):
    request = command.check_request(ROWS, preset="paper", out=tmp_path, tables=["2"])
    for planned in request.plan:
        assert planned.config.model.width == 1.0
        assert not planned.config.data.dataset.endswith("_h576")
    config = request.plan[-1].config
    assert config.forest.trees == 500


def test_the_small_scale_changes_size_and_steps_alone(tmp_path):
    scale = presets.PHANTOM
    for planned in request_for(tmp_path, seeds=1).plan:
        config, row = planned.config, planned.row
        if not row.original:
            assert config.data.dataset == f"{row.dataset}_h{scale.height}"
        assert config.model.width == scale.width
        if not row.stages:
            continue
        for name, stage in config.stages.items():
            paper = stage_table(row.stages)[name]
            trained = {g for g, rate in paper.rates.items() if rate}
            assert {g for g, rate in stage.rates.items() if rate} == trained
    tops = {p.row.top: p.config.model.top for p in request_for(tmp_path, seeds=1).plan}
    assert tops["residual_512-512-1024x2"].blocks == ("32-32-64x2", "32-32-64x2")
    assert tops["heatmap_1x1"].fc == (128, 64)


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


def flat_differences(first, second):
    """The second's values, as JSON has them, of the fields in which they differ."""

    def flatten(values, prefix=""):
        for name, value in values.items():
            if isinstance(value, dict):
                yield from flatten(value, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}", value

    before = dict(flatten(workdirs.as_json(first)))
    after = dict(flatten(workdirs.as_json(second)))
    return {n: v for n, v in after.items() if before.get(n) != v}


def test_the_original_resolution_is_that_of_the_drawn_phantoms(tmp_path):
    name = "patch_resnet50_s10_original"
    configs = planned_beside(name, ROWS, tmp_path)
    original, usual = configs[name], configs["patch_resnet50_s10"]
    assert flat_differences(usual, original) == {
        "data.dataset": "cbis_ddsm/paper_s10",
        "model.image_size": [224, 224],
        "model.top.window": 7,
    }
    big = planned_beside(name, ROWS, tmp_path, "paper")[name]
    assert big.data.dataset == "cbis_ddsm/paper_s10_h4608"
    assert big.model.compute_dtype == "bfloat16"
    assert big.batch_size == 32


def test_transfers_have_several_epochs_to_choose_from(tmp_path):
    names = ["inbreast_vgg16_s10_vgg_512x1_20patients"]
    *_, transfer = request_for(tmp_path, names=names, seeds=1).plan
    assert plan.number_of_steps(transfer, 0) == 3 * 20


def test_steps_come_from_the_stages(tmp_path):
    request = command.check_request(ROWS, preset="paper", out=tmp_path, tables=["1"])
    steps = {r.row.name: plan.number_of_steps(r, 3200) for r in request.plan}
    assert steps["patch_resnet50_s10"] == (3 + 10 + 37) * 100
    assert steps["patch_resnet50_s1_random"] == 200 * 100


def test_the_plan_tells_rows_steps_and_hours(tmp_path):
    runs = request_for(tmp_path, names=["resnet50_s10_forest"], seeds=1).plan
    text = plan.describe_plan(runs, {}, lambda run: 36.0)
    assert "resnet50_s10_forest" in text
    assert "2 runs, 2 to run, 120 optimiser steps" in text
    assert "about 1.2 hours" in text


def test_the_plan_tells_what_is_left_besides_the_runs(tmp_path):
    request = request_for(tmp_path, tables=["4", "ensemble"], figures=["appendix"])
    text = command.describe(request)
    lines = text.splitlines()
    # Four epochs of 200 steps for each of two trunks.
    assert "besides, trunks to pretrain: 2, 1600 optimiser steps" in lines
    # Three designs of two trunks with three seeds, of 3 + 1 epochs of 40 steps.
    assert "besides, trainings for the appendix: 18, 5760 optimiser steps" in lines
    assert "besides, models to score in four flips: 15" in lines
    assert "besides, models to score before transfer: 9" in lines
    folder = request.setting.folder
    trunk = presets.weights_file(folder, "vgg16")
    config = phantoms.pretraining_config(folder, "vgg16", presets.PHANTOM)
    pretraining = folder / "pretraining" / "vgg16"
    pretraining.mkdir(parents=True)
    workdirs.write_json(pretraining / "config.json", workdirs.as_json(config))
    curve = gradients.curve_file(gradients.DESIGNS[0], 0, request.setting)
    for path in (trunk, curve):
        path.parent.mkdir(parents=True)
        path.touch()
    # A curve is read before the plan is told; this one is of the same configuration.
    planned = next(r for r in request.designs if r.row.name == gradients.DESIGNS[0].row)
    config = workdirs.as_json(planned.config)
    workdirs.write_json(curve, {"config": config, "points_per_epoch": 5})
    text = command.describe(request)
    assert "besides, trunks to pretrain: 1, 800 optimiser steps" in text
    assert "besides, trainings for the appendix: 17" in text
    only = command.describe(request_for(tmp_path, names=["patch_vgg16_s10"], seeds=1))
    assert "besides" not in only


def test_the_papers_hours_hold_the_appendix(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "check_inputs", lambda runs: None)
    counts = {"cbis_ddsm/paper_s10": 3200, "cbis_ddsm/paper_whole": 2000}
    monkeypatch.setattr(plan, "count_examples", lambda runs: counts)
    timed = []

    def time_steps(runs):
        timed.extend(runs)
        return {command.timing.kind_of_step(run): 3.6 for run in runs}

    monkeypatch.setattr(command.timing, "time_steps", time_steps)
    request = command.check_request(
        ROWS, preset="paper", out=tmp_path, figures=["appendix"]
    )
    text = command.describe(request)
    # Two patch classifiers of 50 epochs, and six designs of 50 epochs.
    steps = 2 * 50 * 100, 6 * 50 * 1000
    assert f"2 runs, 2 to run, {steps[0]} optimiser steps" in text
    assert f"besides, trainings for the appendix: 6, {steps[1]} optimiser" in text
    assert f"about {sum(steps) / 1000:.1f} hours" in text
    assert {run.row.kind for run in timed} == {"patch", "whole"}


def test_finished_runs_are_not_run_again(tmp_path):
    runs = request_for(tmp_path, names=["resnet50_s10_forest"], seeds=1).plan
    done = []

    def train(config, directory):
        done.append(directory)
        finish(config, directory)

    run.run_all(runs, train)
    run.run_all(runs, train)
    assert done == [r.directory for r in runs]
    record = run.read_record(runs[0])
    assert len(record.commits) == 1


def test_an_interrupted_plan_goes_on_and_adds_up_the_time(tmp_path):
    runs = request_for(tmp_path, names=["resnet50_s10_forest"], seeds=1).plan
    calls = []

    def train(config, directory):
        calls.append(directory)
        time.sleep(0.1)
        if len(calls) == 2:
            raise RunStoppedError(2, "stopped")
        finish(config, directory)

    with pytest.raises(RunStoppedError):
        run.run_all(runs, train)
    run.run_all(runs, train)
    assert calls == [runs[0].directory, runs[1].directory, runs[1].directory]
    assert run.read_record(runs[1]).seconds >= 0.2


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
    runs = request_for(tmp_path, names=names, seeds=1).plan
    done = []

    def train(config, directory):
        done.append(directory.parent.name)
        if "resnet50" in str(directory):
            raise error
        finish(config, directory)

    failures = run.run_all(runs, train)
    assert done == ["patch_resnet50_s10", "patch_vgg16_s10"]
    assert failures["patch_resnet50_s10 (seed 0)"] == why
    assert "which it starts from" in failures["resnet50_s10_forest (seed 0)"]


def _worker(out, log):
    def train(config, directory):
        with open(log, "a") as file:
            file.write(f"{directory}\n")
        time.sleep(0.2)
        finish(config, directory)

    runs = request_for(Path(out), tables=["1"], seeds=1).plan
    run.run_all(runs, train, wait_seconds=0.05)


def test_those_who_share_a_folder_run_every_row_once(tmp_path):
    # The kernel's locks tell threads apart that open a file each, as processes do.
    log = tmp_path / "log"
    workers = [
        threading.Thread(target=_worker, args=(str(tmp_path), str(log)))
        for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    done = log.read_text().splitlines()
    assert len(done) == len(set(done)) == 9


@pytest.fixture
def no_data(monkeypatch):
    """The phantoms are taken to be there."""
    monkeypatch.setattr(phantoms, "prepare", lambda *arguments: None)
    monkeypatch.setattr(plan, "check_inputs", lambda runs: None)


def _alone_in_turn(inside, seen):
    """Work that notes how many are at it at once."""

    def work(*arguments):
        inside.append(1)
        seen.append(len(inside))
        time.sleep(0.02)
        inside.pop()

    return work


@pytest.mark.usefixtures("no_data")
def test_those_who_share_a_folder_sum_up_in_turn(tmp_path, monkeypatch):
    inside, seen, texts, read = [], [], [], []
    work = _alone_in_turn(inside, seen)
    monkeypatch.setattr(ensembles, "score_flips", work)
    monkeypatch.setattr(gradients, "measure_all", work)
    monkeypatch.setattr(command, "_tables", lambda *_: [work() or "tables"])
    read_seconds = command.read_seconds

    def read_slowly(folder):
        before = read_seconds(folder)
        read.append(before)
        time.sleep(0.3)
        return before

    monkeypatch.setattr(command, "read_seconds", read_slowly)
    impatient = functools.partial(run.run_all, wait_seconds=0.05)
    monkeypatch.setattr(command, "run_all", impatient)
    request = request_for(tmp_path, tables=["ensemble"], figures=["appendix"], seeds=1)

    def call():
        texts.append(command.reproduce(request, finish))

    workers = [threading.Thread(target=call) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert texts == [("tables", {})] * 3
    assert seen == [1] * 9
    # Nobody read a time that another was about to replace.
    times = [*read, read_seconds(request.setting.folder)]
    assert len(read) == 3
    assert times == sorted(set(times))


@pytest.mark.usefixtures("no_data")
def test_the_time_by_the_clock_runs_from_first_start_to_last_end(tmp_path):
    request = request_for(tmp_path, names=["resnet50_s10_forest"], seeds=1)
    folder = request.setting.folder
    path = folder / "time.json"
    command.reproduce(request, finish)
    start, end = conditions.read_span(folder)
    now = datetime.now(UTC)
    assert start <= end <= now
    assert now - start < timedelta(minutes=1)
    # An earlier process, and one that ended later.
    times = {"first_start": start - timedelta(minutes=90), "last_end": now}
    written = {name: when.isoformat() for name, when in times.items()}
    workdirs.write_json(path, {"seconds": 60.0, **written})
    command.reproduce(request, finish)  # Nothing is left to do: no later end.
    assert conditions.read_span(folder) == (times["first_start"], now)
    (request.plan[1].directory / "metrics.json").unlink()
    command.reproduce(request, finish)
    first, last = conditions.read_span(folder)
    assert first == times["first_start"]
    assert last > now
    text = conditions.conditions(outcomes.by_row(request.plan), request.setting)
    assert "pauses; from first start to last end 90 minutes by the clock." in text


@pytest.mark.usefixtures("no_data")
def test_times_that_were_not_kept_are_not_made_up(tmp_path):
    request = request_for(tmp_path, names=["resnet50_s10_forest"], seeds=1)
    folder = request.setting.folder
    folder.mkdir(parents=True)
    workdirs.write_json(folder / "time.json", {"seconds": 600.0})
    command.reproduce(request, finish)
    assert conditions.read_seconds(folder) > 600
    assert conditions.read_span(folder) is None
    text = conditions.conditions(outcomes.by_row(request.plan), request.setting)
    assert "and pauses.\n" in text


@pytest.mark.usefixtures("no_data")
def test_a_finished_run_of_another_configuration_is_refused(tmp_path):
    request = request_for(tmp_path, names=["resnet50_s10_forest"], seeds=1)
    command.reproduce(request, finish)
    before = (tmp_path / "phantom" / "table_rows.csv").read_text()
    other = dataclasses.replace(presets.PHANTOM, width=0.125)
    changed = dataclasses.replace(
        request, setting=dataclasses.replace(request.setting, scale=other)
    )
    message = (
        r"patch_resnet50_s10/seed0 holds a run with another configuration "
        r"\(model\); use another --out"
    )

    def train(config, directory):
        raise AssertionError

    with pytest.raises(UserError, match=message):
        command.reproduce(changed, train)
    with pytest.raises(UserError, match=message):
        command.describe(changed)
    with pytest.raises(UserError, match=message):
        command.write_results(changed, tmp_path / "R.md")
    with pytest.raises(UserError, match=message):
        run.run_all(changed.plan, train)
    assert (tmp_path / "phantom" / "table_rows.csv").read_text() == before
    assert command.reproduce(request, train)[1] == {}


def test_results_may_be_moved_and_merged(tmp_path):
    names = ["inbreast_vgg16_s10_vgg_512x1", "patch_vgg16_s10"]
    before = request_for(tmp_path / "here", names=names, seeds=1)
    for planned in before.plan:
        finish(planned.config, planned.directory)
    design = gradients.DESIGNS[3]
    appendix = request_for(tmp_path / "here", figures=["appendix"], seeds=1)
    (run_of_design,) = (r for r in appendix.designs if r.row.name == design.row)
    curve = gradients.curve_file(design, 0, appendix.setting)
    curve.parent.mkdir(parents=True)
    recorded = {
        "config": workdirs.as_json(run_of_design.config),
        "points_per_epoch": 5,
    }
    workdirs.write_json(curve, recorded)
    (tmp_path / "here").rename(tmp_path / "there")
    after = request_for(tmp_path / "there", names=names, seeds=1)
    plan.check_finished(after.plan)
    assert all(planned.finished for planned in after.plan)
    moved = request_for(tmp_path / "there", figures=["appendix"], seeds=1)
    gradients.check_curves(moved.designs, moved.setting)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("data_dir", "/elsewhere/data"),
        ("data_dir", "/elsewhere/phantom/data/raw"),
        ("init_from", "/elsewhere/phantom/patch_vgg16_s10/seed1"),
        ("init_from", "/elsewhere/patch_vgg16_s10/seed0"),
    ],
)
def test_what_a_moved_run_read_must_be_the_same(tmp_path, field, value):
    names = ["vgg16_s10_vgg_512x1"]
    *_, planned = request_for(tmp_path, names=names, seeds=1).plan
    finish(planned.config, planned.directory)
    path = planned.directory / "config.json"
    config = json.loads(path.read_text())
    part = config["data"] if field == "data_dir" else config
    part[field] = value
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"use another --out"):
        plan.check_finished([planned])


def test_real_data_in_another_folder_are_other_data(tmp_path):
    def planned(data_dir):
        request = command.check_request(
            ROWS,
            preset="paper",
            out=tmp_path / "out",
            data_dir=str(data_dir),
            names=["patch_vgg16_s10"],
        )
        return request.plan[0]

    first = planned(tmp_path / "one" / "data")
    finish(first.config, first.directory)
    plan.check_finished([first])
    with pytest.raises(UserError, match=r"\(data\); use another --out"):
        plan.check_finished([planned(tmp_path / "two" / "data")])


def test_a_curve_of_another_configuration_is_refused(tmp_path):
    request = request_for(tmp_path, figures=["appendix"], seeds=1)
    design = gradients.DESIGNS[1]
    (planned,) = (r for r in request.designs if r.row.name == design.row)
    config = workdirs.as_json(planned.config)
    config["model"]["top"]["activation"] = design.activation
    path = gradients.curve_file(design, 0, request.setting)
    path.parent.mkdir(parents=True)
    curve = {"steps": [0], "norms": [1.0], "points_per_epoch": 5}
    workdirs.write_json(path, curve | {"config": config})
    gradients.check_curves(request.designs, request.setting)
    config["model"]["top"]["activation"] = "relu"
    workdirs.write_json(path, curve | {"config": config})
    with pytest.raises(UserError, match=r"seed0.json holds .*\(model\); use another"):
        command.reproduce(request, finish)
    # Curves of the first epochs alone, which an earlier version measured.
    config["model"]["top"]["activation"] = design.activation
    del curve["points_per_epoch"]
    workdirs.write_json(path, curve | {"config": config})
    with pytest.raises(UserError, match=r"\(points_per_epoch\); use another"):
        command.reproduce(request, finish)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"tables": ["7"]}, "--table: there is no '7'; choose from 1, 2"),
        ({"figures": ["1"]}, "--figure: there is no '1'; choose from 2, appendix"),
        ({"names": ["x"]}, "--rows: there is no row x; choose from patch_"),
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
        "build_dataset.py cbis_ddsm/paper_s10",
        "build_dataset.py cbis_ddsm/paper_whole",
        "convert_weights.py --download=resnet50",
    ):
        assert part in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_the_appendix_needs_its_designs_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    request = command.check_request(
        ROWS, preset="paper", out=tmp_path / "out", figures=["appendix"]
    )
    assert not any(planned.row.kind == "whole" for planned in request.plan)
    whole = "build_dataset.py cbis_ddsm/paper_whole"
    assert whole in command.describe(request)
    with pytest.raises(UserError, match=whole):
        command.reproduce(request)
    assert not (tmp_path / "out").exists()
