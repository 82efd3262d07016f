"""Which files the arguments name."""

import os
from pathlib import Path

import numpy as np
import pytest
from predicting import read_scores, run_predict
from raw_files import write_dicom

from mammo_jax.common.errors import UserError
from mammo_jax.prediction.find_files import find_files

PIXELS = np.zeros((40, 30), np.uint16)


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
    assert "a link out of what is searched" in problem.reason
    # What the user names is followed.
    found = find_files([str(folder / "linked"), str(folder)], tmp_path / "out")
    assert len(found.files) == 5


def _names(*arguments) -> list[str]:
    found = find_files([str(one) for one in arguments], Path("nowhere"))
    return [path.name for path in found.files]


@pytest.mark.parametrize("pattern", ["", "**", "**/*.dcm", "*", "*/**/*.dcm", "*/*"])
def test_links_to_themselves_end(tmp_path, pattern):
    folder = tmp_path / "folder"
    write_dicom(folder / "deep" / "a.dcm", PIXELS)
    for name in ("one", "two", "three"):
        (folder / name).symlink_to(folder)
        (folder / "deep" / name).symlink_to(folder)
    (folder / "self.png").symlink_to(folder / "self.png")
    named = [name for name in _names(folder / pattern) if name != "self.png"]
    assert named == ["a.dcm"]


def test_a_link_to_itself_is_a_problem_of_its_own(model, folder, tmp_path):
    (folder / "self.png").symlink_to(folder / "self.png")
    out = tmp_path / "out"
    assert run_predict(f"--model={model[0]}", f"--out={out}", folder) == 3
    assert len(read_scores(out / "predictions.csv")) == 4
    assert "self.png: no such file" in (out / "problems.csv").read_text().replace(
        ",", ": "
    )


def test_a_link_to_a_file_out_of_the_folder_is_named(tmp_path):
    folder = tmp_path / "folder"
    write_dicom(tmp_path / "other" / "a.dcm", PIXELS)
    write_dicom(folder / "b.dcm", PIXELS)
    (folder / "c.dcm").symlink_to(tmp_path / "other" / "a.dcm")
    (folder / "notes.txt").symlink_to(tmp_path / "nothing.txt")
    (tmp_path / "nothing.txt").write_text("no image")
    for argument in (folder, folder / "**", folder / "*.dcm"):
        found = find_files([str(argument)], tmp_path / "out")
        assert [path.name for path in found.files] == ["b.dcm"]
        assert [problem.path.name for problem in found.problems] == ["c.dcm"]
    # A file, or its target's folder, that the user names is scored.
    assert _names(folder / "c.dcm") == ["c.dcm"]
    assert _names(folder, tmp_path / "other") == ["b.dcm", "c.dcm"]


def test_a_pattern_leads_through_a_link_within_the_folder(tmp_path):
    write_dicom(tmp_path / "b" / "x.dcm", PIXELS)
    (tmp_path / "a1").mkdir()
    (tmp_path / "a1" / "link").symlink_to(tmp_path / "b")
    assert _names(tmp_path / "a*") == _names(tmp_path / "a*/**/x.dcm") == ["x.dcm"]


def test_a_folder_may_be_called_like_a_pattern(tmp_path):
    write_dicom(tmp_path / "set[1]" / "a.dcm", PIXELS)
    assert _names(tmp_path / "set[1]" / "*.dcm") == ["a.dcm"]


def test_a_folder_that_cannot_be_read_is_a_problem(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    write_dicom(tmp_path / "a.dcm", PIXELS)
    scandir = os.scandir

    def guarded(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    found = find_files([str(tmp_path)], tmp_path / "out")
    assert [path.name for path in found.files] == ["a.dcm"]
    (problem,) = found.problems
    assert problem.path.name == "closed"
    assert "permissions" in problem.reason


def test_a_pipe_is_left_alone(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    write_dicom(tmp_path / "a.dcm", PIXELS)
    found = find_files([str(tmp_path)], tmp_path / "out")
    assert [path.name for path in found.files] == ["a.dcm"]


def test_a_mistyped_argument_is_refused_though_another_has_a_problem(tmp_path):
    folder, other = tmp_path / "folder", tmp_path / "other"
    folder.mkdir()
    other.mkdir()
    write_dicom(folder / "a.dcm", PIXELS)
    (folder / "link").symlink_to(other)
    with pytest.raises(UserError, match="typo: no such file"):
        find_files([str(folder), str(tmp_path / "typo")], tmp_path / "out")
