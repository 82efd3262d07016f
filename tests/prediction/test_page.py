"""The page of a prediction, and what is said of the scores."""

import re
import shutil

import cv2
import numpy as np
import pytest
import scipy.special
from browser import screenshot
from predicting import make_breast, read_scores, run_predict
from raw_files import write_dicom

from mammo_jax.common.run_directory import read_json, write_json


def test_the_report_shows_the_highest_score_first(model, folder, tmp_path):
    out = tmp_path / "out"
    assert run_predict(f"--model={model[0]}", f"--out={out}", folder) == 0
    page = (out / "report.html").read_text()
    scores = read_scores(out / "predictions.csv")
    places = [
        page.index(f"  {name}") for name in sorted(scores, key=lambda n: -scores[n])
    ]
    assert places == sorted(places)
    assert page.count("data:image/png;base64") == len(scores) + 1  # and the colours
    for name in scores:
        assert f'<a href="overlays/{name}.png">' in page
    assert "Which file each image is says files.csv" in page
    assert "Patients with images of several examinations (studies): 1." in page


def test_a_browser_shows_the_thumbnails_and_asks_nobody(model, folder, tmp_path):
    out = tmp_path / "out"
    assert run_predict(f"--model={model[0]}", f"--out={out}", folder) == 0
    seen = tmp_path / "seen.png"
    assert screenshot(out / "report.html", seen, (1240, 900)) == []
    # The page is light; the mammograms are not.
    dark = cv2.imread(str(seen)).max(-1) < 40
    thumbnails = [cv2.imread(str(path)) for path in (out / "overlays").glob("*.png")]
    expected = sum(
        (
            cv2.resize(one, (0, 0), fx=240 / len(one), fy=240 / len(one)).max(-1) < 40
        ).sum()
        for one in thumbnails
    )
    assert len(thumbnails) == 4
    assert dark.sum() == pytest.approx(expected, rel=0.2)


@pytest.mark.parametrize("options", [(), ("--calibrated",), ("--tta",)])
def test_scores_from_the_models_threshold_on_have_a_star(
    calibrated, folder, tmp_path, options
):
    plain = tmp_path / "plain"
    assert run_predict(f"--model={calibrated}", f"--out={plain}", folder) == 0
    threshold = float(np.median([*read_scores(plain / "predictions.csv").values()]))
    model = shutil.copytree(calibrated, tmp_path / "model")
    said = read_json(model / "model.json") | {"threshold": threshold}
    write_json(model / "model.json", said)
    out = tmp_path / "out"
    assert run_predict(f"--model={model}", f"--out={out}", *options, folder) == 0
    page = (out / "report.html").read_text()
    starred = set(re.findall(r"[01][.][0-9]{3}[*]  (case\w+)", page))
    if options == ("--tta",):  # It was chosen on scores of another kind.
        assert starred == set()
        assert "These scores have no threshold" in page
        return
    if options:
        threshold = scipy.special.expit(2 * scipy.special.logit(threshold) - 1)
    scores = read_scores(out / "predictions.csv")
    assert starred == {name for name, score in scores.items() if score >= threshold}
    assert len(starred) == 2
    assert f"threshold is {threshold:.3f}" in page


def test_images_of_detectors_are_not_scored_by_a_model_of_films_without_a_word(
    model, stretching, tmp_path, capsys
):
    for seed, intent in enumerate(["FOR PRESENTATION", ""]):
        path = tmp_path / "in" / f"{seed}.dcm"
        write_dicom(path, make_breast(seed), PresentationIntentType=intent)
    remark = "Images of detectors (FOR PRESENTATION): 1."
    for (directory, _), is_said in ((model, True), (stretching, False)):
        out = tmp_path / f"out {is_said}"
        options = (f"--model={directory}", f"--out={out}", tmp_path / "in")
        assert run_predict(*options) == 0
        assert (remark in capsys.readouterr().out) == is_said
        assert (remark in (out / "report.html").read_text()) == is_said
