"""The command: overrides, refusals, resuming, what a run leaves behind."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from whole_runs import REPOSITORY, command, results, tiny_run


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    cache = tmp_path_factory.mktemp("xla")
    return {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


def _run(
    environment: dict[str, str], *arguments: object
) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(*arguments),
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def finished(
    environment: dict[str, str],
    phantom_data: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, subprocess.CompletedProcess]:
    """A run that nothing disturbed."""
    workdir = tmp_path_factory.mktemp("runs") / "finished"
    result = _run(environment, *tiny_run(phantom_data, workdir))
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


def test_a_finished_run_is_left_alone(environment, phantom_data, finished):
    workdir, _ = finished
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*.json")}
    result = _run(environment, *tiny_run(phantom_data, workdir))
    assert result.returncode == 0
    assert "finished" in result.stderr
    assert before == {path: path.stat().st_mtime_ns for path in workdir.rglob("*.json")}


def test_config_json_reproduces_the_run(environment, finished, tmp_path):
    workdir, _ = finished
    again = tmp_path / "again"
    result = _run(
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
    result = _run(environment, *arguments)
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
        (["--config.batchsize=4"], 'Did you mean "batch_size"'),
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
    _assert_one_line(_run(environment, *base, *arguments), message)


def _assert_one_line(result: subprocess.CompletedProcess, message: str) -> None:
    assert result.returncode == 1, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    errors = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1, result.stderr


def test_an_unbuilt_dataset_is_named_with_the_command_that_builds_it(
    environment, tmp_path
):
    result = _run(
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
    result = _run(
        environment,
        *tiny_run(
            phantom_data,
            tmp_path / "run",
            f"--config.patch.pretrained={tmp_path / 'vgg16.safetensors'}",
        ),
    )
    _assert_one_line(result, "scripts/convert_weights.py --download=vgg16")


def test_a_mended_command_may_use_the_same_directory(
    environment, phantom_data, tmp_path
):
    workdir = tmp_path / "run"
    wrong = _run(environment, *tiny_run(tmp_path / "nothing", workdir))
    _assert_one_line(wrong, "build it first")
    mended = _run(
        environment, *tiny_run(phantom_data, workdir, "--config.data.test_split=tst")
    )
    _assert_one_line(mended, "config.data.test_split is 'tst'")


def test_another_configuration_does_not_touch_the_run(
    environment, phantom_data, finished
):
    workdir, _ = finished
    before = results(workdir)
    result = _run(environment, *tiny_run(phantom_data, workdir, "--config.seed=1"))
    _assert_one_line(result, "config.seed is 0 there and 1 here")
    assert results(workdir) == before


def test_a_folder_with_other_things_is_not_taken(environment, phantom_data, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    result = _run(environment, *tiny_run(phantom_data, tmp_path))
    _assert_one_line(result, "thesis.tex")


def test_a_workdir_that_is_a_file_is_an_error(environment, phantom_data, tmp_path):
    (tmp_path / "file").write_text("")
    result = _run(environment, *tiny_run(phantom_data, tmp_path / "file"))
    _assert_one_line(result, "cannot write to the run's directory")


def test_a_missing_configuration_file_is_an_error(environment, tmp_path):
    result = _run(environment, "--config=configs/none.py", f"--workdir={tmp_path}")
    _assert_one_line(result, "configs/none.py: there is no such file")


def test_an_unknown_preset_is_an_error(environment, tmp_path):
    result = _run(
        environment, "--config=configs/whole_res.py:big", f"--workdir={tmp_path}"
    )
    _assert_one_line(result, "there is no preset 'big'")


def test_a_patch_run_of_another_trunk_is_refused(
    environment, phantom_data, finished, tmp_path
):
    workdir, _ = finished
    result = _run(
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
    result = _run(
        environment,
        *tiny_run(phantom_data, tmp_path / "run", f"--config.init_from={tmp_path}"),
    )
    _assert_one_line(result, "config.init_from: ")


def test_help_explains_the_options(environment):
    result = _run(environment, "--help")
    assert "--workdir" in result.stdout
    assert "configs/FILE.py:PRESET" in result.stdout
