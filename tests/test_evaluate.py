"""The command that evaluates prediction tables, and the report of a run."""

import datetime
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import safetensors.numpy
import sklearn.metrics
from browser import screenshot

import mammo_jax
from mammo_jax import evaluate
from mammo_jax.common.errors import UserError
from mammo_jax.evaluation.predictions import COLUMNS, DETAIL_COLUMNS
from mammo_jax.evaluation.report import FIGURES
from mammo_jax.training.run_report import write_run_report

REPOSITORY = Path(__file__).parents[1]
COMMAND = (sys.executable, "-m", "mammo_jax.evaluate")


def _write_table(path: Path, start: int, seed: int, *, malignant: bool = True) -> Path:
    """40 patients from number `start` on, with two views of one breast."""
    rng = np.random.default_rng(start)
    noise = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [",".join(COLUMNS + DETAIL_COLUMNS)]
    for number in range(start, start + 40):
        side, label = ["LEFT", "RIGHT"][number % 2], int(rng.random() < 0.4)
        density, kind = rng.integers(0, 5), ("calc", "mass", "")[number % 3]
        size = f"{rng.uniform(0.02, 0.1):.4f}" if kind else ""
        for view in ("CC", "MLO"):
            score = 1 / (1 + np.exp(-(2 * label - 1 + noise.normal())))
            lines.append(
                f"P_{number}_{side}_{view},{score:.9g},{label * malignant},P_{number},"
                f"{side},{view},{density or ''},{kind},{size}"
            )
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _write_two_images(path: Path) -> Path:
    path.write_text(f"{','.join(COLUMNS)}\na,0.1,0,p,,\nb,0.9,1,q,,\n")
    return path


@pytest.fixture
def run(tmp_path) -> Path:
    """A finished run, as far as evaluation looks at it."""
    directory = tmp_path / "run"
    _write_table(directory / "predictions" / "test.csv", 0, seed=1)
    _write_table(directory / "predictions" / "validation.csv", 100, seed=1)
    config = {
        "task": "whole",
        "model": {"trunk": "resnet50", "image_size": [1152, 896]},
        "data": {
            "dataset": "cbis_ddsm/paper_whole",
            "data_dir": str(tmp_path / "data"),
        },
        "stages": {"stage1": {"epochs": 30}, "stage2": {"epochs": 20}},
        "seed": 3,
        "batch_size": 2,
    }
    weights = {"a": np.zeros((10, 100), np.float32), "b": np.zeros(6, np.float32)}
    safetensors.numpy.save_file(weights, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def _evaluate(out: Path, predictions: object, **more: object) -> dict:
    options = {"predictions": predictions, "out": out, **more}
    arguments = [f"--{key}={value}" for key, value in options.items()]
    evaluate.main(evaluate.parse_arguments(arguments))
    return json.loads(
        (out / "metrics.json").read_text(),
        parse_constant=lambda name: pytest.fail(name),
    )


def _columns(path: Path) -> tuple[np.ndarray, np.ndarray]:
    rows = [line.split(",") for line in path.read_text().splitlines()[1:]]
    return np.array([float(r[1]) for r in rows]), np.array([int(r[2]) for r in rows])


def test_the_command_writes_and_prints_what_sklearn_finds(run, tmp_path):
    out = tmp_path / "out"
    result = subprocess.run(
        [*COMMAND, f"--predictions={run}", f"--out={out}"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    scores, labels = _columns(run / "predictions" / "test.csv")
    auc = sklearn.metrics.roc_auc_score(labels, scores)
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["auc"]["value"] == pytest.approx(auc)
    assert f"AUC{auc:>28.3f}" in result.stdout
    low, high = metrics["auc"]["patients_95"]
    assert low < auc < high
    assert f"{low:.3f} to {high:.3f}" in result.stdout
    assert (out / "report.html").is_file()
    assert {path.stem for path in (out / "figures").glob("*.png")} == {
        "roc",
        "precision_recall",
        "histogram",
        "reliability",
        "subgroups",
    }


def test_thresholds_come_from_validation_alone(run, tmp_path):
    metrics = _evaluate(tmp_path / "out", run)
    scores, labels = _columns(run / "predictions" / "validation.csv")
    false_alarms, found, thresholds = sklearn.metrics.roc_curve(labels, scores)
    youden = metrics["operating_points"]["Youden"]
    expected = thresholds[np.argmax(found - false_alarms)]
    assert youden["threshold"] == pytest.approx(expected)
    test_scores, test_labels = _columns(run / "predictions" / "test.csv")
    called = test_scores >= expected
    assert youden["true_positive"] == (called & (test_labels == 1)).sum()
    assert metrics["calibration"]["line_from_validation"]["slope"] > 0


def test_without_validation_nothing_is_chosen_and_it_says_so(run, tmp_path):
    out = tmp_path / "out"
    metrics = _evaluate(out, run / "predictions" / "test.csv")
    assert "operating_points" not in metrics
    assert "calibrated" not in metrics["calibration"]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "no validation table to choose thresholds on: no threshold was" in page
    assert ">threshold</th>" not in page  # Nor is one chosen on the test images.


def test_an_ensemble_is_the_mean_and_is_compared_in_pairs(run, tmp_path):
    tables = [run / "predictions" / "test.csv"]
    tables.append(_write_table(tmp_path / "second.csv", 0, seed=2))
    metrics = _evaluate(tmp_path / "out", f"{tables[0]},{tables[1]}", compare=tables[0])
    (first, labels), (second, _) = map(_columns, tables)
    auc = sklearn.metrics.roc_auc_score(labels, (first + second) / 2)
    alone = sklearn.metrics.roc_auc_score(labels, first)
    assert metrics["auc"]["value"] == pytest.approx(auc)
    comparison = metrics["comparison"]
    assert comparison["other_auc"]["value"] == pytest.approx(alone)
    assert comparison["difference"]["value"] == pytest.approx(auc - alone)
    assert 0 < comparison["p_value"] < 1
    low, high = comparison["difference"]["patients_95"]
    assert low < auc - alone < high


def test_one_class_alone_is_said_and_has_no_numbers(tmp_path, capsys):
    table = _write_table(tmp_path / "benign.csv", 0, seed=1, malignant=False)
    metrics = _evaluate(tmp_path / "out", table)
    assert metrics["auc"] == {"value": None, "patients_95": None}
    assert "AUC undefined: the images are all of one class" in capsys.readouterr().out
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "AUC undefined: the images are all of one class" in page
    assert not re.search(r"\bnan\b", page, re.IGNORECASE)


def test_a_validation_of_one_class_chooses_nothing(run, tmp_path):
    validation = _write_table(tmp_path / "v.csv", 100, seed=1, malignant=False)
    table = run / "predictions" / "test.csv"
    metrics = _evaluate(tmp_path / "out", table, validation=validation)
    assert metrics["operating_points"] is None
    assert metrics["calibration"]["line_from_validation"] is None


def test_a_table_of_few_images_is_evaluated(tmp_path):
    table = _write_two_images(tmp_path / "two.csv")
    metrics = _evaluate(tmp_path / "out", table)
    assert metrics["auc"] == {"value": 1.0, "patients_95": None}
    assert metrics["subgroups"] == {}


def test_another_evaluation_is_not_overwritten(run, tmp_path):
    out, table = tmp_path / "out", _write_two_images(tmp_path / "two.csv")
    first = _evaluate(out, table)
    assert _evaluate(out, table) == first  # The same command again.
    with pytest.raises(UserError, match="holds the evaluation of other tables"):
        _evaluate(out, run)
    (run / "metrics.json").write_text("{}")  # Of another kind.
    with pytest.raises(UserError, match="not empty and holds no evaluation"):
        _evaluate(run, table)
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(UserError, match="is a file"):
        _evaluate(file, run)
    assert file.read_text() == "mine"


def test_figures_of_an_earlier_evaluation_do_not_stay(run, tmp_path):
    out, table = tmp_path / "out", run / "predictions" / "test.csv"
    _evaluate(out, table)
    (out / "figures" / "mine.png").write_text("mine")
    _write_table(table, 0, seed=1, malignant=False)  # One class: no curve.
    _evaluate(out, table)
    names = {path.stem for path in (out / "figures").iterdir()}
    assert names == {"histogram", "reliability", "mine"}


def test_every_figure_of_a_report_has_a_known_name(run, tmp_path):
    _evaluate(tmp_path / "out", run, compare=run / "predictions" / "test.csv")
    names = {path.stem for path in (tmp_path / "out" / "figures").iterdir()}
    assert names == {*FIGURES}


REFUSED = {
    "shared images": ("{test}", "{test}", "share 80 images; thresholds"),
    "another split": ("{test},{validation}", None, "no image in common"),
    "no run": ("{empty}", None, r"no finished run \(no predictions/test.csv\)"),
    "no file": ("{empty}/none.csv", None, "none.csv: no such table"),
    "nothing": (",", None, "names no table"),
    "fewer models": ("{test},{copy}", "{validation}", "2 tables and validation 1"),
    "twice": ("{test},{run}", None, "test.csv is named twice"),
    "shared patients": ("{test}", "{renamed}", "share 40 patients; thresholds"),
    "run and table": ("{run}", "{test}", "share 80 images"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_tables_are_refused_before_anything_is_written(case, run, tmp_path):
    predictions, validation, message = REFUSED[case]
    (tmp_path / "empty").mkdir()
    names = {
        "test": run / "predictions" / "test.csv",
        "validation": run / "predictions" / "validation.csv",
        "empty": tmp_path / "empty",
        "run": run,
        "copy": tmp_path / "copy.csv",
        "renamed": tmp_path / "renamed.csv",
    }
    content = names["test"].read_text()
    names["copy"].write_text(content)
    names["renamed"].write_text(re.sub("^P", "other", content, flags=re.MULTILINE))
    more = {} if validation is None else {"validation": validation.format(**names)}
    with pytest.raises(UserError, match=message):
        _evaluate(tmp_path / "out", predictions.format(**names), **more)
    assert not (tmp_path / "out").exists()


def test_an_error_is_one_line_and_exit_code_1(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text(f"{','.join(COLUMNS)}\na,2,0,p,LEFT,CC\n")
    result = subprocess.run(
        [*COMMAND, f"--predictions={table}", f"--out={tmp_path / 'out'}"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 1
    assert result.stderr == (
        f"error: {table}: row 2, column 'malignant_pred': '2' is not a number from 0 "
        "to 1\n"
    )


def test_a_run_gets_a_report_of_its_test(run):
    before = (run / "config.json").read_text()
    write_run_report(run, "whole classifier, resnet50")
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Whole classifier, resnet50, trained on cbis_ddsm/paper_whole" in page
    said = dict(
        re.findall('scope="row">([^<]*)</th><td data-label="value">([^<]*)', page)
    )
    assert said["data set"] == "cbis_ddsm/paper_whole"
    assert "image size" not in said  # model.json says what the network saw.
    assert said["values of the network"] == "1,006"
    assert said["training"] == "seed 3, batches of 2, at most 50 epochs"
    assert said["made by"] == f"mammo_jax {mammo_jax.__version__}"
    assert datetime.date.fromisoformat(said["date of this report"])
    assert "80 validation images (they chose the epoch)" in page
    assert "hantom" not in page
    assert '<th scope="row">Youden</th>' in page
    assert str(run) not in page
    assert (run / "config.json").read_text() == before
    assert not (run / "metrics.json").exists()


@pytest.mark.parametrize(("patch_size", "size"), [(0, (288, 224)), (56, (56, 56))])
def test_the_image_size_is_what_the_network_saw(run, patch_size, size):
    seen = {"height": 288, "width": 224, "patch_size": patch_size}
    (run / "model.json").write_text(json.dumps(seen))
    write_run_report(run, "whole classifier, resnet50")
    page = (run / "report.html").read_text(encoding="utf-8")
    assert f">{size[0]} rows, {size[1]} columns<" in page
    assert "1152 rows" not in page


def test_facts_that_cannot_be_read_are_left_out(run):
    (run / "model.safetensors").write_bytes(b"damaged weights")
    config = json.loads((run / "config.json").read_text())
    del config["seed"]
    (run / "config.json").write_text(json.dumps(config))
    write_run_report(run, "whole classifier, resnet50")
    page = (run / "report.html").read_text(encoding="utf-8")
    assert ">cbis_ddsm/paper_whole<" in page
    assert "values of the network" not in page
    assert "at most" not in page


def test_the_summary_says_in_words_what_the_figures_say(run, tmp_path):
    metrics = _evaluate(tmp_path / "out", run)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    point = metrics["operating_points"]["Youden"]
    area, alarms = metrics["auc"]["value"], point["false_positive"]
    assert f"has the higher score in {100 * area:.0f} % (95 % interval" in page
    assert (
        f"With a threshold of {point['threshold']:.3f}, chosen on the validation "
        f"images, {point['true_positive']} of {metrics['malignant']} malignant images "
        f"are found, and {alarms} of {80 - metrics['malignant']} others" in page
    )
    assert metrics["validation"]["chose_epoch"]
    table = run / "predictions" / "test.csv"
    validation = run / "predictions" / "validation.csv"
    copies = [tmp_path / f"{path.stem}.csv" for path in (table, validation)]
    for path, copy in zip((table, validation), copies, strict=True):
        copy.write_bytes(path.read_bytes())
    alone = _evaluate(tmp_path / "alone", copies[0], validation=copies[1])
    assert not alone["validation"]["chose_epoch"]


NOTES = (
    "model.json",
    "phantom.json",
    "cbis_ddsm/paper_whole/1.0.0/phantom_images.json",
)


@pytest.mark.parametrize("noted", NOTES)
def test_phantoms_are_called_phantoms(run, tmp_path, noted):
    if noted == "model.json":
        (run / noted).write_text('{"phantoms": true}')
    else:  # As of earlier versions, and of forests.
        (tmp_path / "data" / noted).parent.mkdir(parents=True)
        (tmp_path / "data" / noted).write_text("{}")
        # Earlier versions wrote this where nothing was known.
        (run / "model.json").write_text('{"phantoms": false}')
    write_run_report(run, "whole classifier, resnet50")
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "These are phantoms: synthetic mammograms" in page
    assert ">cbis_ddsm/paper_whole (phantoms)<" in page
    shutil.rmtree(tmp_path / "data", ignore_errors=True)
    (run / "model.json").write_text('{"phantoms": false}')
    write_run_report(run, "whole classifier, resnet50")
    assert "hantom" not in (run / "report.html").read_text(encoding="utf-8")


def test_the_report_of_a_patch_run_is_of_patches(run):
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "task": "patch"}))
    write_run_report(run, "whole classifier, resnet50")
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Every row of the tables is a patch" in page
    assert "Per breast" not in page
    assert "Sub-groups" not in page


def test_the_tables_of_a_patch_run_are_evaluated_as_patches(run, tmp_path):
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "task": "patch"}))
    out = tmp_path / "out"
    for predictions in (run, run / "predictions" / "test.csv"):
        metrics = _evaluate(out / predictions.stem, predictions)
        assert "subgroups" not in metrics
        assert "per_patient" not in metrics
    assert "operating_points" in _evaluate(out / "again", run)
    page = (out / "run" / "report.html").read_text(encoding="utf-8")
    assert "Every row of the tables is a patch" in page
    whole = _write_table(tmp_path / "whole.csv", 0, seed=2)
    with pytest.raises(UserError, match=r"test.csv is of patches and .*whole.csv of"):
        _evaluate(tmp_path / "mixed", run, compare=whole)
    assert not (tmp_path / "mixed").exists()


@pytest.mark.parametrize("content", ["[]", "3", "{", "", '{"made_by": "hand"}'])
def test_figures_of_something_else_are_left_alone(run, tmp_path, content):
    out = tmp_path / "out"
    out.mkdir()
    (out / "metrics.json").write_text(content)
    with pytest.raises(UserError, match=str(out)):
        _evaluate(out, run)
    assert (out / "metrics.json").read_text() == content


def test_a_run_with_a_damaged_configuration_is_refused(run, tmp_path):
    (run / "config.json").write_text("[]")
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        _evaluate(tmp_path / "out", run)


def test_a_run_tested_on_its_validation_images_chooses_no_threshold(run):
    tables = run / "predictions"
    (tables / "validation.csv").write_bytes((tables / "test.csv").read_bytes())
    write_run_report(run, "whole classifier, resnet50")
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Test and validation share 80 images" in page
    assert "they chose the epoch, the figures say nothing about new patients" in page
    assert '<th scope="row">Youden</th>' not in page


def test_a_run_tested_on_its_validation_images_is_evaluated_without_thresholds(
    run, tmp_path, capsys
):
    tables = run / "predictions"
    (tables / "validation.csv").write_bytes((tables / "test.csv").read_bytes())
    metrics = _evaluate(tmp_path / "out", run)
    assert metrics["auc"]["value"] > 0.5
    assert "operating_points" not in metrics
    assert "line_from_validation" not in metrics["calibration"]
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    for said in (page, capsys.readouterr().out, metrics["validation_not_used"]):
        assert "Test and validation share 80 images" in said
    assert _evaluate(tmp_path / "out", run) == metrics  # The same command again.


def test_a_threshold_above_every_score_is_said(run, tmp_path, capsys):
    lines = (run / "predictions" / "validation.csv").read_text().splitlines()
    upside_down = [
        re.sub(r",[\d.e-]+,([01]),", lambda m: f",{1 - int(m[1])},{m[1]},", line)
        for line in lines
    ]
    (run / "predictions" / "validation.csv").write_text("\n".join(upside_down))
    _evaluate(tmp_path / "out", run)
    assert "above every score (Youden, chosen on" in capsys.readouterr().out


def test_images_without_a_lesion_are_counted(run, tmp_path):
    _evaluate(tmp_path / "out", run)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "26 images have no known abnormality" in page


def test_a_browser_shows_the_figures_of_a_report(run, tmp_path):
    write_run_report(run, "whole classifier, resnet50")
    assert screenshot(run / "report.html", tmp_path / "seen.png", (1240, 4000)) == []
    seen = cv2.imread(str(tmp_path / "seen.png"))
    blue, orange, green = (178, 114, 0), (0, 94, 213), (115, 158, 0)
    for colour in (blue, orange, green):
        # Lines are a pixel or two wide, and mixed with what is beside them.
        near = np.abs(seen.astype(int) - colour).max(-1) < 40
        assert near.sum() > 300
