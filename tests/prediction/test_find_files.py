"""Which files the arguments name."""

import pytest
from predicting import read_scores, run_predict

from mammo_jax.prediction.find_files import find_files


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


def test_what_a_folder_leaves_out_is_counted_by_kind(model, folder, tmp_path, capsys):
    for name in ("a.bmp", "b.bmp", "c.jp2", "d.SMITH-JANE", "e"):
        (folder / name).write_text("no image")
    (folder / "without_ending").write_bytes((folder / "deep" / "0.dcm").read_bytes())
    command = (f"--model={model[0]}", f"--out={tmp_path / 'out'}", folder)
    assert run_predict(*command) == 3  # a copy
    said = capsys.readouterr().out
    assert "left out as no images: 2 .bmp, 2 others, 1 .jp2, 1 .txt" in said


def test_each_file_is_found_once_whatever_leads_to_it(folder, tmp_path):
    inside = folder / "deep"
    (folder / "again").symlink_to(inside)
    (folder / "loop").symlink_to(folder)
    (folder / "picture_again.png").symlink_to(folder / "picture.png")
    arguments = [folder, inside, inside / "0.dcm", folder / "**" / "*.dcm"]
    found = find_files([str(one) for one in arguments], tmp_path / "out")
    real = sorted([*inside.iterdir(), folder / "picture.png"])
    assert sorted(path.resolve() for path in found.files) == real
    assert found.problems == []


def test_a_link_that_leaves_the_folder_is_named(folder, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "a.png").write_bytes((folder / "picture.png").read_bytes())
    (folder / "linked").symlink_to(elsewhere)
    found = find_files([str(folder)], tmp_path / "out")
    assert len(found.files) == 4
    (problem,) = found.problems
    assert problem.path == folder / "linked"
    assert "a link to a folder outside" in problem.reason
    # What the user names is followed.
    found = find_files([str(folder / "linked"), str(folder)], tmp_path / "out")
    assert len(found.files) == 5
