"""Scores of the command, against the networks called by hand."""

import threading
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
import scipy.special
from predicting import by_hand, make_breast, read_scores, read_table, run_predict
from raw_files import write_dicom
from tiny_runs import HEIGHT, WIDTH, write_run

from mammo_jax import load
from mammo_jax.common import devices
from mammo_jax.evaluation.predictions import COLUMNS
from mammo_jax.prediction.model import Model
from mammo_jax.prediction.scorer import Scorer
from mammo_jax.weights.model_directory import LoadedModel, load_model


def test_scores_are_those_of_the_model(model, folder, tmp_path, capsys):
    directory, network = model
    out = tmp_path / "out"
    assert run_predict(f"--model={directory}", f"--out={out}", folder) == 0
    table = read_table(out / "predictions.csv")
    assert list(table["case_0001_LEFT_CC"]) == list(COLUMNS)
    expected = {
        "case_0001_LEFT_CC": 0,
        "case_0001_LEFT_MLO": 1,
        "case_0002_RIGHT_CC": 2,
        "case_0003": 3,
    }
    found = read_scores(out / "predictions.csv")
    assert found == pytest.approx(
        {name: by_hand(network, make_breast(seed)) for name, seed in expected.items()},
        rel=1e-4,
    )
    assert {row["malignant_label"] for row in table.values()} == {""}
    printed = capsys.readouterr()
    assert "4 images scored" in printed.out
    assert "scoring" in printed.err
    assert "4/4" in printed.err
    files = read_table(out / "files.csv")
    assert files["case_0002_RIGHT_CC"]["file"] == str(folder / "deep" / "2.dcm")


def test_calibrated_scores_lie_on_the_models_own_line(
    model, calibrated, folder, tmp_path, capsys
):
    found = {}
    for name, options in {
        "raw": [f"--model={calibrated}"],
        "on the line": [f"--model={calibrated}", "--calibrated"],
    }.items():
        out = tmp_path / name
        assert run_predict(*options, f"--out={out}", folder) == 0
        found[name] = np.array([*read_scores(out / "predictions.csv").values()])
        page = (out / "report.html").read_text()
        assert ("scores are uncalibrated" in page) == (name == "raw")
    odds = 2.0 * scipy.special.logit(found["raw"]) - 1.0
    np.testing.assert_allclose(
        found["on the line"], scipy.special.expit(odds), rtol=1e-6
    )
    options = (f"--model={model[0]}", "--calibrated", f"--out={tmp_path / 'none'}")
    assert run_predict(*options, folder) == 1
    assert "keeps no calibration in its model.json" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("ending", ["png", "tif", "jpg", "pgm", "dcm"])
def test_every_format_is_read(model, tmp_path, ending):
    pixels = make_breast(1)
    if ending == "jpg":  # Eight bits; read as they are stored.
        pixels = (pixels >> 8).astype(np.uint8)
    path = tmp_path / f"in.{ending}"
    if ending == "dcm":
        write_dicom(path, pixels)
    else:
        cv2.imwrite(str(path), pixels)
        pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED).astype(np.uint16)
    if ending == "jpg":  # Eight bits, on a grid that was filled from 16.
        pixels *= 257
    out = tmp_path / "out"
    assert run_predict(f"--model={model[0]}", f"--out={out}", path) == 0
    (score,) = read_scores(out / "predictions.csv").values()
    assert score == pytest.approx(by_hand(model[1], pixels), rel=1e-4)


def test_a_model_of_stretched_images_stretches(stretching, tmp_path):
    directory, network = stretching
    pixels = (make_breast(1) >> 4) + 100
    path = write_dicom(tmp_path / "in.dcm", pixels)
    out = tmp_path / "out"
    assert run_predict(f"--model={directory}", f"--out={out}", path) == 0
    span = pixels.max() - pixels.min()
    stretched = np.rint((pixels - pixels.min()) / span * 65535).astype(np.uint16)
    (score,) = read_scores(out / "predictions.csv").values()
    assert score == pytest.approx(by_hand(network, stretched), rel=1e-4)


def test_a_score_does_not_depend_on_the_images_beside_it(model, tmp_path):
    for seed in range(5):  # Batches of two: the last one is filled up.
        cv2.imwrite(str(tmp_path / f"{seed}.png"), make_breast(seed))
    out = tmp_path / "out"
    assert run_predict(f"--model={model[0]}", f"--out={out}", tmp_path / "*.png") == 0
    found = list(read_scores(out / "predictions.csv").values())
    expected = [by_hand(model[1], make_breast(seed)) for seed in range(5)]
    assert found == pytest.approx(expected, rel=1e-4)


def test_kernels_in_a_gpus_layout_give_the_same_scores(model, folder, monkeypatch):
    image = folder / "deep" / "2.dcm"
    wanted = load(model[0]).score(image)
    monkeypatch.setattr(devices, "_is_of_gpus", lambda sharding: True)
    loaded = load_model(model[0])
    assert {
        x.format.layout.major_to_minor for x in loaded.params.values() if x.ndim == 4
    } == {(3, 0, 1, 2)}
    assert Model([loaded]).score(image).score == pytest.approx(wanted.score, rel=1e-5)


def test_tta_averages_four_flips(model, folder, tmp_path):
    out = tmp_path / "out"
    assert run_predict(f"--model={model[0]}", "--tta", f"--out={out}", folder) == 0
    small = cv2.resize(make_breast(0), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    flipped = [small, small[:, ::-1], small[::-1], small[::-1, ::-1]]
    expected = np.mean([by_hand(model[1], image) for image in flipped])
    found = read_scores(out / "predictions.csv")["case_0001_LEFT_CC"]
    assert found == pytest.approx(expected, rel=1e-4)
    assert found != pytest.approx(by_hand(model[1], small), rel=1e-4)


def test_an_ensemble_averages_its_models(model, other, folder, tmp_path):
    out, models = tmp_path / "out", f"--model={model[0]},{other[0]}"
    assert run_predict(models, f"--out={out}", folder / "deep" / "0.dcm") == 0
    scores = [by_hand(network, make_breast(0)) for network in (model[1], other[1])]
    (found,) = read_scores(out / "predictions.csv").values()
    assert found == pytest.approx(np.mean(scores), rel=1e-4)
    assert scores[0] != pytest.approx(scores[1], rel=1e-3)


def test_a_patch_classifier_slides_over_whole_images(tmp_path, folder):
    write_run(tmp_path / "patch", "patch")
    out = tmp_path / "out"
    assert run_predict(f"--model={tmp_path / 'patch'}", f"--out={out}", folder) == 0
    assert all(
        0 <= score <= 1 for score in read_scores(out / "predictions.csv").values()
    )


def test_a_closed_scorer_compiles_no_further_models(monkeypatch):
    begun, go_on = threading.Event(), threading.Event()

    def compile_slowly(self, model):
        begun.set()
        assert go_on.wait(60)
        return model

    monkeypatch.setattr(Scorer, "_compile", compile_slowly)
    models = [Mock(spec=LoadedModel) for _ in range(3)]
    scorer = Scorer(models, 2, tta=False)
    assert begun.wait(60)
    scorer.close()
    go_on.set()
    first, *others = scorer._steps
    assert first.result() is models[0]
    assert all(other.cancelled() for other in others)
