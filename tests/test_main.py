"""The command: overrides, refusals, resuming, what a run leaves behind."""

import json
import signal
import subprocess
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from whole_runs import (
    REPOSITORY,
    cached_environment,
    command,
    results,
    run,
    tiny_run,
)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return cached_environment(tmp_path_factory.mktemp("xla"))


@pytest.fixture(scope="module")
def finished(
    environment: dict[str, str],
    phantom_data: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, subprocess.CompletedProcess]:
    """A run that nothing disturbed."""
    workdir = tmp_path_factory.mktemp("runs") / "finished"
    result = run(environment, *tiny_run(phantom_data, workdir))
    assert result.returncode == 0, result.stderr
    return workdir, result


def test_a_run_prints_and_writes_the_test_auc(finished):
    workdir, result = finished
    metrics = json.loads((workdir / "metrics.json").read_text())
    test = metrics["test"]
    assert 0 <= test["auc_95_low"] <= test["auc"] <= test["auc_95_high"] <= 1
    assert f"test AUC {test['auc']:.3f}" in result.stdout
    rows = (workdir / "predictions" / "test.csv").read_text().splitlines()
    assert rows[0].startswith("image_index,malignant_pred,malignant_label")
    assert len(rows) == test["images"] + 1


def test_progress_and_time_left_are_shown(finished):
    _, result = finished
    assert "patch stage1 epoch 1/1" in result.stderr
    assert "whole stage2 epoch 1/1" in result.stderr
    assert "step/s" in result.stderr or "s/step" in result.stderr


def test_tensorboard_files_hold_curves_rates_and_images(finished):
    workdir, _ = finished
    for part, groups in (("patch", {"head"}), (".", {"new_layers"})):
        events = EventAccumulator(str(workdir / part))
        events.Reload()
        tags = events.Tags()
        assert {
            "train/loss",
            "train/accuracy",
            "train/images_per_second",
            "validation/auc",
            "validation/loss",
            *(f"learning_rate/{group}" for group in groups),
        } <= set(tags["scalars"])
        assert any(tag.startswith("train/augmented_inputs") for tag in tags["images"])
        assert _colourfulness(events, "validation/most_wrong") > 30
        epochs = [event.step for event in events.Scalars("validation/auc")]
        names = ["validation/roc"] + ["validation/confusion"] * (part == "patch")
        for name in names:
            (tag,) = (tag for tag in tags["images"] if tag.startswith(name))
            assert [event.step for event in events.Images(tag)] == epochs
        curves = events.Tensors("validation/precision_recall")
        assert [event.step for event in curves] == epochs
        _assert_hyperparameters(events, workdir / part)


def _assert_hyperparameters(events: EventAccumulator, run_directory: Path) -> None:
    """They and the final figures are those of the run."""
    metrics = json.loads((run_directory / "metrics.json").read_text())
    (final,) = events.Scalars("final/test_auc")
    assert final.value == pytest.approx(metrics["test"]["auc"])
    content = events.PluginTagToContent("hparams")
    data = HParamsPluginData.FromString(content["_hparams_/session_start_info"])
    values = data.session_start_info.hparams
    config = json.loads((run_directory / "config.json").read_text())
    assert values["batch_size"].number_value == config["batch_size"]
    assert values["model.trunk"].string_value == "vgg16"
    data = HParamsPluginData.FromString(content["_hparams_/experiment"])
    tags = {info.name.tag for info in data.experiment.metric_infos}
    assert {"final/test_auc", "final/validation_auc"} <= tags


def _colourfulness(events: EventAccumulator, tag: str) -> int:
    """How far the most colourful pixel of a picture is from grey, 0 to 255."""
    (name,) = (name for name in events.Tags()["images"] if name.startswith(tag))
    content = np.frombuffer(events.Images(name)[-1].encoded_image_string, np.uint8)
    picture = cv2.imdecode(content, cv2.IMREAD_COLOR).astype(int)
    return int((picture.max(-1) - picture.min(-1)).max())


def test_an_ensemble_averages_the_run_with_those_it_names(
    environment, phantom_data, finished, tmp_path
):
    first, _ = finished
    workdir = tmp_path / "second"
    result = run(
        environment,
        *tiny_run(
            phantom_data,
            workdir,
            f"--config.init_from={first / 'patch'}",
            f"--config.ensemble={first}",
            "--config.seed=1",
            "--config.stages.stage1.epochs=1",
        ),
    )
    assert result.returncode == 0, result.stderr
    figures = json.loads((workdir / "metrics.json").read_text())["ensemble"]
    for role in ("validation", "test"):
        one, other, mean = (
            _scores(folder / "predictions" / f"{role}.csv")
            for folder in (first, workdir, workdir / "ensemble")
        )
        assert one.keys() == other.keys() == mean.keys()
        assert one != other
        expected = {image: (one[image] + other[image]) / 2 for image in one}
        assert mean == pytest.approx(expected, rel=1e-5)
        alone = json.loads((first / "metrics.json").read_text())[role]
        member = figures["members"][str(first)][role]
        assert member["auc"] == alone["auc"]
        assert member["loss"] == pytest.approx(alone["loss"], rel=1e-5)
        assert figures[role]["images"] == len(mean)
        assert figures[role]["auc"] is not None
    page = (workdir / "report.html").read_text(encoding="utf-8")
    assert "Two models" in page
    assert f"the mean of the scores of this run&#x27;s model and {first}" in page
    assert (workdir / "ensemble" / "report.html").is_file()


def _scores(table: Path) -> dict[str, float]:
    rows = [line.split(",") for line in table.read_text().splitlines()[1:]]
    return {row[0]: float(row[1]) for row in rows}


def test_an_ensemble_with_no_model_is_refused_before_training(
    environment, phantom_data, tmp_path
):
    workdir = tmp_path / "run"
    result = run(
        environment,
        *tiny_run(phantom_data, workdir, f"--config.ensemble={tmp_path / 'none'}"),
    )
    _assert_one_line(result, "config.ensemble: ")
    assert not (workdir / "patch").exists()


@pytest.mark.parametrize("content", ["[]", "{}", "{"])
def test_damaged_figures_of_a_finished_run_are_an_error(
    environment, phantom_data, finished, tmp_path, content
):
    workdir = tmp_path / "run"
    workdir.mkdir()
    config = json.loads((finished[0] / "config.json").read_text())
    (workdir / "config.json").write_text(json.dumps(config))
    (workdir / "metrics.json").write_text(content)
    result = run(environment, *tiny_run(phantom_data, workdir))
    _assert_one_line(result, "metrics.json")


def test_a_finished_run_is_left_alone(environment, phantom_data, finished):
    workdir, _ = finished
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*.json")}
    result = run(environment, *tiny_run(phantom_data, workdir))
    assert result.returncode == 0
    assert "finished" in result.stderr
    assert before == {path: path.stat().st_mtime_ns for path in workdir.rglob("*.json")}


def test_config_json_reproduces_the_run(environment, finished, tmp_path):
    workdir, _ = finished
    again = tmp_path / "again"
    result = run(
        environment, f"--config=configs/rerun.py:{workdir}", f"--workdir={again}"
    )
    assert result.returncode == 0, result.stderr
    assert results(again) == results(workdir)


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGKILL, -9), (signal.SIGTERM, 143), (signal.SIGINT, 130)],
)
def test_a_stopped_run_goes_on_to_the_same_numbers(
    environment, phantom_data, finished, tmp_path, number, code
):
    workdir = tmp_path / "stopped"
    arguments = tiny_run(phantom_data, workdir)
    process = subprocess.Popen(
        command(*arguments),
        cwd=REPOSITORY,
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    # Somewhere within the first whole-image epoch, past a checkpoint.
    _wait_for(lambda: any((workdir / "checkpoints").glob("[0-9]")), process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == code, errors
    assert not (workdir / "metrics.json").exists()
    result = run(environment, *arguments)
    assert result.returncode == 0, result.stderr
    assert "going on from step" in result.stderr
    assert results(workdir) == results(finished[0])


def _wait_for(condition, process: subprocess.Popen, seconds: float = 200) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the run ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--config.batchsize=4"],
            """'batchsize'. Did you mean "batch_size" in""",
        ),
        (["--config.stages.stage1.rate.head=1"], 'Did you mean "rates"'),
        (["--config.batch_size=1.5"], "batch_size"),
        (["--config.batch_size=3"], "not divisible by config.accum_steps"),
        (["--config.patch.task=ptch"], "must be one of"),
        (["--config.model.trunk=resnet51"], "resnet50"),
        (["--worksdir=x"], "Did you mean: workdir"),
    ],
)
def test_a_wrong_option_is_refused_in_one_line(
    environment, phantom_data, tmp_path, arguments, message
):
    workdir = tmp_path / "run"
    base = (
        "--config=configs/whole_res.py",
        f"--workdir={workdir}",
        f"--config.data.data_dir={phantom_data}",
        "--config.data.dataset=cbis_ddsm/paper_whole_h288",
        "--config.patch.data.dataset=cbis_ddsm/paper_s1_h288",
        "--config.patch.pretrained=",
    )
    _assert_one_line(run(environment, *base, *arguments), message)


def _assert_one_line(result: subprocess.CompletedProcess, message: str) -> None:
    assert result.returncode == 1, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    errors = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1, result.stderr


def test_an_unbuilt_dataset_is_named_with_the_command_that_builds_it(
    environment, tmp_path
):
    result = run(
        environment,
        "--config=configs/whole_res.py",
        f"--workdir={tmp_path / 'run'}",
        f"--config.data.data_dir={tmp_path / 'nothing'}",
        "--config.patch.pretrained=",
    )
    _assert_one_line(result, "scripts/build_dataset.py cbis_ddsm/paper_whole")


def test_missing_imagenet_weights_are_named_with_the_command_that_gets_them(
    environment, phantom_data, tmp_path
):
    result = run(
        environment,
        *tiny_run(
            phantom_data,
            tmp_path / "run",
            f"--config.patch.pretrained={tmp_path / 'vgg16.safetensors'}",
        ),
    )
    _assert_one_line(result, "scripts/convert_weights.py --download=vgg16")
    assert "error: config.patch.pretrained: " in result.stderr


def test_a_mended_command_may_use_the_same_directory(
    environment, phantom_data, tmp_path
):
    workdir = tmp_path / "run"
    wrong = run(environment, *tiny_run(tmp_path / "nothing", workdir))
    _assert_one_line(wrong, "build it first")
    mended = run(
        environment, *tiny_run(phantom_data, workdir, "--config.data.test_split=tst")
    )
    _assert_one_line(mended, "config.data.test_split is 'tst'")


def test_another_configuration_does_not_touch_the_run(
    environment, phantom_data, finished
):
    workdir, _ = finished
    before = results(workdir)
    result = run(environment, *tiny_run(phantom_data, workdir, "--config.seed=1"))
    _assert_one_line(result, "config.seed is 0 there and 1 here")
    assert results(workdir) == before


def test_a_folder_with_other_things_is_not_taken(environment, phantom_data, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    result = run(environment, *tiny_run(phantom_data, tmp_path))
    _assert_one_line(result, "thesis.tex")


def test_a_workdir_that_is_a_file_is_an_error(environment, phantom_data, tmp_path):
    (tmp_path / "file").write_text("")
    result = run(environment, *tiny_run(phantom_data, tmp_path / "file"))
    _assert_one_line(result, "cannot write to the run's directory")


def test_a_missing_configuration_file_is_an_error(environment, tmp_path):
    result = run(environment, "--config=configs/none.py", f"--workdir={tmp_path}")
    _assert_one_line(result, "configs/none.py: there is no such file")


def test_an_unknown_preset_is_an_error(environment, tmp_path):
    result = run(
        environment, "--config=configs/whole_res.py:big", f"--workdir={tmp_path}"
    )
    _assert_one_line(result, "there is no preset 'big'")


def test_a_patch_run_of_another_trunk_is_refused(
    environment, phantom_data, finished, tmp_path
):
    workdir, _ = finished
    result = run(
        environment,
        *tiny_run(
            phantom_data,
            tmp_path / "run",
            f"--config.init_from={workdir / 'patch'}",
            "--config.model.trunk=vgg19",
        ),
    )
    _assert_one_line(result, "trunk")


def test_init_from_a_folder_without_a_run_is_refused(
    environment, phantom_data, tmp_path
):
    result = run(
        environment,
        *tiny_run(phantom_data, tmp_path / "run", f"--config.init_from={tmp_path}"),
    )
    _assert_one_line(result, "config.init_from: ")


def test_tta_is_short_for_its_field(environment, tmp_path):
    workdir = tmp_path / "run"
    # Without data: the directory is taken before they are looked for.
    run(environment, *tiny_run(tmp_path / "nothing", workdir, "--tta"))
    assert json.loads((workdir / "config.json").read_text())["tta"] is True


def test_help_explains_the_options(environment):
    result = run(environment, "--help")
    assert "--workdir" in result.stdout
    assert "configs/FILE.py:PRESET" in result.stdout
