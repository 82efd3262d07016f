"""Which files the arguments name."""

import pytest
from predicting import read_scores, run_predict


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere.dcm", "no such file or folder"),
        ("*.dcm", "matches no file"),
        ("empty", "holds no DICOM file"),
    ],
)
def test_arguments_that_name_nothing_are_refused(
    model, tmp_path, capsys, path, message
):
    (tmp_path / "empty").mkdir()
    out = tmp_path / "out"
    assert run_predict(f"--model={model[0]}", f"--out={out}", tmp_path / path) == 1
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_an_earlier_predictions_overlays_are_no_input(model, folder, capsys):
    out = folder / "scores"
    for _ in range(2):
        assert run_predict(f"--model={model[0]}", f"--out={out}", folder) == 0
    assert len(read_scores(out / "predictions.csv")) == 4
    assert run_predict(f"--model={model[0]}", f"--out={out}", out) == 1
    assert "nothing to score" in capsys.readouterr().err
