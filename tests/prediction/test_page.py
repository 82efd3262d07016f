"""The page of a prediction."""

import cv2
import pytest
from browser import screenshot
from predicting import read_scores, run_predict


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
