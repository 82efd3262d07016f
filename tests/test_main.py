"""The command: overrides, refusals, resuming, what a run leaves behind."""

import json
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from absl import flags
from ml_collections import ConfigDict
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from whole_runs import (
    REPOSITORY,
    cached_environment,
    command,
    results,
    run,
    tiny_config,
    tiny_run,
)

from mammo_jax import main
from mammo_jax.common import run_directory
from mammo_jax.common.errors import UserError
from mammo_jax.evaluation.calibration import fit_line
from mammo_jax.evaluation.prediction_table import read_table
from mammo_jax.training.experiment import open_experiment
from mammo_jax.training.run import train_and_evaluate


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
    # So few test images: one class has a single patient, and nothing to vary over.
    assert test["auc_95_low"] is test["auc_95_high"] is None
    assert f"test AUC {test['auc']:.3f} (no interval: too few pat" in result.stdout
    rows = (workdir / "predictions" / "test.csv").read_text().splitlines()
    assert rows[0].startswith("image_index,malignant_pred,malignant_label")
    assert len(rows) == test["images"] + 1


def test_a_model_keeps_the_line_fitted_on_its_validation_images(finished):
    workdir, _ = finished
    said = json.loads((workdir / "model.json").read_text())
    table = read_table(workdir / "predictions" / "validation.csv")
    line = fit_line(table.scores, table.labels)
    assert said["calibration"] == (line and pytest.approx([*line], rel=1e-3))
    # Youden's threshold, by trying every score.
    gains = {
        score: np.mean(table.scores[table.labels == 1] >= score)
        + np.mean(table.scores[table.labels == 0] < score)
        for score in table.scores
    }
    best = [score for score, gain in gains.items() if gain >= max(gains.values())]
    expected = max(best) if max(gains.values()) > 1 else None
    assert said["threshold"] == (expected and pytest.approx(expected, rel=1e-6))
    assert said["intent"] == "film"
    assert said["phantoms"] is True  # The builder copies the note of what drew them.
    assert json.loads((workdir / "patch/model.json").read_text())["calibration"] is None


def test_progress_and_time_left_are_shown(finished):
    _, result = finished
    assert "patch stage1 epoch 1/1" in result.stderr
    assert "whole stage2 epoch 1/1" in result.stderr
    assert "step/s" in result.stderr or "s/step" in result.stderr


def test_tensorboard_files_hold_curves_rates_and_images(finished):
    workdir, _ = finished
    for part, groups in (("patch", {"head"}), (".", {"new_layers"})):
        name = "patch" if part == "patch" else "whole"
        events = EventAccumulator(str(workdir / part / name))
        events.Reload()
        tags = events.Tags()
        assert {
            "loss/train",
            "accuracy/train",
            "speed/images_per_second",
            "auc/validation",
            "loss/validation",
            "loss/validation_unweighted",
            *(f"rate/{group}" for group in groups),
        } <= set(tags["scalars"])
        # TensorBoard shows tags in the order of their names.
        first = list(dict.fromkeys(x.split("/")[0] for x in sorted(tags["scalars"])))
        assert first[:3] == ["accuracy", "auc", "loss"]
        assert any(tag.startswith("train/augmented_inputs") for tag in tags["images"])
        assert _colourfulness(events, "validation/most_wrong") > 30
        epochs = [event.step for event in events.Scalars("auc/validation")]
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
    (final,) = events.Scalars("result/test_auc")
    assert final.value == pytest.approx(metrics["test"]["auc"])
    content = events.PluginTagToContent("hparams")
    data = HParamsPluginData.FromString(content["_hparams_/session_start_info"])
    values = data.session_start_info.hparams
    config = json.loads((run_directory / "config.json").read_text())
    assert values["batch_size"].number_value == config["batch_size"]
    assert values["model.trunk"].string_value == "vgg16"
    assert "model.wiring" not in values  # It is the paper's.
    data = HParamsPluginData.FromString(content["_hparams_/experiment"])
    tags = {info.name.tag for info in data.experiment.metric_infos}
    assert {"result/test_auc", "result/validation_auc"} <= tags


def _colourfulness(events: EventAccumulator, tag: str) -> int:
    """How far the most colourful pixel of a picture is from grey, 0 to 255."""
    (name,) = (name for name in events.Tags()["images"] if name.startswith(tag))
    content = np.frombuffer(events.Images(name)[-1].encoded_image_string, np.uint8)
    picture = cv2.imdecode(content, cv2.IMREAD_COLOR).astype(int)
    return int((picture.max(-1) - picture.min(-1)).max())


def test_an_ensemble_averages_the_run_with_those_it_names(
    phantom_data, finished, tmp_path
):
    first, _ = finished
    workdir = tmp_path / "second"
    config = tiny_config(
        phantom_data,
        init_from=str(first / "patch"),
        ensemble=str(first),
        seed=1,
        stages__stage1__epochs=1,
        stages__stage2__epochs=0,
    )
    description = first / "model.json"
    before = description.read_text()
    description.write_text(json.dumps({**json.loads(before), "credit": "Cite them."}))
    train_and_evaluate(config, workdir)
    description.write_text(before)
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
    # It has the other model's scores.
    assert "Cite them." in page
    assert "Cite them." in (workdir / "ensemble" / "report.html").read_text()


def _scores(table: Path) -> dict[str, float]:
    rows = [line.split(",") for line in table.read_text().splitlines()[1:]]
    return {row[0]: float(row[1]) for row in rows}


def test_an_ensemble_with_no_model_is_refused_before_training(phantom_data, tmp_path):
    config = tiny_config(phantom_data, ensemble=str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"config\.ensemble: "):
        train_and_evaluate(config, tmp_path / "run")
    assert not (tmp_path / "run" / "patch").exists()


@pytest.mark.parametrize("content", ["[]", "{}", "{"])
def test_damaged_figures_of_a_finished_run_are_an_error(
    phantom_data, tmp_path, content
):
    config = tiny_config(phantom_data)
    run_directory.write_json(tmp_path / "config.json", run_directory.as_json(config))
    (tmp_path / "metrics.json").write_text(content)
    with pytest.raises(UserError, match=r"metrics\.json"):
        train_and_evaluate(config, tmp_path)


def test_a_finished_run_is_left_alone_and_rerun_from_its_file(environment, finished):
    workdir, _ = finished
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*.json")}
    result = run(
        environment, f"--config=configs/rerun.py:{workdir}", f"--workdir={workdir}"
    )
    assert result.returncode == 0
    assert "finished" in result.stderr
    assert before == {path: path.stat().st_mtime_ns for path in workdir.rglob("*.json")}


def test_the_file_of_a_run_can_be_trained_again(finished):
    workdir, _ = finished
    again = ConfigDict(run_directory.read_json(workdir / "config.json"))
    experiment = open_experiment(again)
    assert [stage.name for stage in experiment.settings.stages] == ["stage1", "stage2"]
    assert next(experiment.training_batches(0))["image"].shape == (4, 288, 224)


def test_a_run_stopped_in_every_way_goes_on_to_the_same_numbers(
    environment, phantom_data, finished, tmp_path
):
    workdir = tmp_path / "stopped"
    arguments = tiny_run(phantom_data, workdir)
    done = 0
    for number, code in (
        (signal.SIGKILL, -9),
        (signal.SIGTERM, 143),
        (signal.SIGINT, 130),
    ):
        process = subprocess.Popen(
            command(*arguments),
            cwd=REPOSITORY,
            env=environment,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        # Somewhere within the whole-image epochs, past a further checkpoint.
        _wait_for(lambda: _last_checkpoint(workdir) > done, process)  # noqa: B023
        process.send_signal(number)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == code, errors
        assert not (workdir / "metrics.json").exists()
        assert ("going on from step" in errors) == (done > 0)
        done = _last_checkpoint(workdir)
    # As if it went on on another disk.
    moved = workdir.rename(tmp_path / "moved")
    result = run(environment, *tiny_run(phantom_data, moved))
    assert result.returncode == 0, result.stderr
    assert "going on from step" in result.stderr
    assert results(moved) == results(finished[0])


def _last_checkpoint(workdir: Path) -> int:
    found = (workdir / "checkpoints").glob("[0-9]*")
    return max((int(path.name) for path in found if path.name.isdigit()), default=0)


def _wait_for(condition, process: subprocess.Popen, seconds: float = 200) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the run ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--config.batchsize=4", """'batchsize'. Did you mean "batch_size" in"""),
        ("--config.stages.stage1.rate.head=1", 'Did you mean "rates"'),
        ("--config.batch_size=1.5", "batch_size"),
        ("--worksdir=x", "Did you mean: workdir"),
        ("--config=configs/none.py", "configs/none.py: there is no such file"),
        ("--config=configs/whole_res.py:big", "there is no preset 'big'"),
        ("--config=whole_ress", "no such configuration: they are paper_rows"),
    ],
)
@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
def test_a_wrong_option_is_refused(monkeypatch, argument, message):
    named = "--config=configs/whole_res.py"
    arguments = [named] * (not argument.startswith("--config=")) + [argument]
    # ml_collections looks for overrides there.
    monkeypatch.setattr(sys, "argv", ["main", *arguments])
    flags.FLAGS.unparse_flags()
    with pytest.raises(UserError) as refusal:
        main.parse_flags(sys.argv)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_help_of_the_layers_is_no_failure(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["mammo_jax.layers", "--help"])
    flags.FLAGS.unparse_flags()
    with pytest.raises(SystemExit) as end:
        runpy.run_module("mammo_jax.layers", run_name="__main__", alter_sys=True)
    assert end.value.code == 0
    assert "--config" in capsys.readouterr().out


def test_a_refusal_is_one_line(environment, phantom_data, tmp_path):
    for argument, message in (
        ("--config.batchsize=4", "Did you mean"),
        ("--config.batch_size=3", "not divisible by config.accum_steps"),
    ):
        result = run(environment, *tiny_run(phantom_data, tmp_path / "run", argument))
        assert result.returncode == 1, result.stderr
        assert message in result.stderr
        assert "Traceback" not in result.stderr
        errors = [x for x in result.stderr.splitlines() if x.startswith("error:")]
        assert len(errors) == 1, result.stderr


REFUSED = {
    "task": ({"patch__task": "ptch"}, "config.patch.task is 'ptch'; it must be one of"),
    "trunk": ({"model__trunk": "resnet51"}, "config.model.trunk .*resnet50"),
    "dataset": (
        {"data__dataset": "cbis_ddsm/paper_whole"},
        "mammo-jax build-dataset cbis_ddsm/paper_whole",
    ),
    "split": ({"data__test_split": "tst"}, "config.data.test_split is 'tst'"),
    "weights": (
        {"patch__pretrained": "none.safetensors"},
        "config.patch.pretrained: .*mammo-jax convert-weights --download=vgg16",
    ),
    "devices": ({"patch__devices__data": 2}, "more than the 1 devices"),
    "source": ({"init_from": "tests"}, "config.init_from: "),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_run_is_refused(phantom_data, tmp_path, case):
    fields, message = REFUSED[case]
    with pytest.raises(UserError, match=message):
        train_and_evaluate(tiny_config(phantom_data, **fields), tmp_path / "run")


def test_a_mended_command_may_use_the_same_directory(phantom_data, tmp_path):
    for data, split, message in (
        (tmp_path / "nothing", "test", "build it first"),
        (phantom_data, "tst", "config.data.test_split is 'tst'"),
    ):
        config = tiny_config(data, data__test_split=split)
        with pytest.raises(UserError, match=message):
            train_and_evaluate(config, tmp_path / "run")


def test_another_configuration_does_not_touch_the_run(phantom_data, finished):
    workdir, _ = finished
    before = results(workdir)
    with pytest.raises(UserError, match=r"config\.seed is 0 there and 1 here"):
        train_and_evaluate(tiny_config(phantom_data, seed=1), workdir)
    assert results(workdir) == before


def test_a_folder_with_other_things_is_not_taken(phantom_data, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"thesis\.tex"):
        train_and_evaluate(tiny_config(phantom_data), tmp_path)


def test_a_workdir_that_is_a_file_is_an_error(phantom_data, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to the run's directory"):
        train_and_evaluate(tiny_config(phantom_data), tmp_path / "file")


def test_a_patch_run_of_another_trunk_is_refused(phantom_data, finished, tmp_path):
    config = tiny_config(
        phantom_data, init_from=str(finished[0] / "patch"), model__trunk="vgg19"
    )
    with pytest.raises(UserError, match=r"model\.trunk is 'vgg19', but 'vgg16' in"):
        train_and_evaluate(config, tmp_path / "run")


def test_tta_is_short_for_its_field(environment, tmp_path):
    workdir = tmp_path / "run"
    # Without data: the directory is taken before they are looked for.
    run(environment, *tiny_run(tmp_path / "nothing", workdir, "--tta"))
    assert json.loads((workdir / "config.json").read_text())["tta"] is True


def test_help_explains_the_options(environment):
    result = run(environment, "--help")
    assert result.returncode == 0
    assert "--workdir" in result.stdout
    assert "configs/whole_res.py" in result.stdout
