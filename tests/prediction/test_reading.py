"""Files that cannot be scored."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from opened import opened_files
from predicting import SHAPE, make_breast, read_scores, read_table, run_predict
from raw_files import make_dataset, save, write_dicom

from mammo_jax.common.parallel import Limits
from mammo_jax.images.dicom import Mammogram
from mammo_jax.images.pictures import read_image
from mammo_jax.prediction import reading as reading_module
from mammo_jax.prediction.reading import Input, Problem, read_or_report, reading


def _colour_dicom(path: Path) -> None:
    dataset = make_dataset(make_breast(0).astype(np.uint8))
    dataset.PhotometricInterpretation = "RGB"
    dataset.SamplesPerPixel = 3
    save(dataset, path)


def _landscape(path: Path) -> None:
    write_dicom(path, np.ascontiguousarray(make_breast(0).T))


def _cut_off(path: Path) -> None:
    write_dicom(path, make_breast(0))
    path.write_bytes(path.read_bytes()[:-5000])


def _several_frames(path: Path) -> None:
    write_dicom(path, make_breast(0), NumberOfFrames=3)


def _tiny(path: Path) -> None:
    write_dicom(path, make_breast(0, (20, 12)))


def _blank(path: Path) -> None:
    write_dicom(path, np.full(SHAPE, 7, np.uint16))


def _mask(path: Path) -> None:
    write_dicom(path, np.pad(np.full((9, 9), 255, np.uint16), ((50, 41), (20, 31))))


def _text(path: Path) -> None:
    path.write_text("no image at all")


def _colour_picture(path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (*SHAPE, 3), np.uint8)
    path.write_bytes(cv2.imencode(".png", colours)[1].tobytes())


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("a.dcm", _colour_dicom, "not a grey-scale image"),
        ("a.dcm", _landscape, "not the shape of a mammogram"),
        ("a.dcm", _cut_off, "truncated or damaged"),
        ("a.dcm", _several_frames, "3 frames"),
        ("a.dcm", _tiny, "no whole mammogram"),
        ("a.dcm", _blank, "blank"),
        ("a.dcm", _mask, "two grey values only"),
        ("a.dcm", _text, "not a DICOM file"),
        ("a.png", _text, "not a PNG"),
        ("a.png", _colour_picture, "colour"),
    ],
)
def test_a_bad_file_is_reported_and_the_others_go_on(
    model, tmp_path, capsys, name, write, message
):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    write(folder / name)
    cv2.imwrite(str(folder / "good.png"), make_breast(0))
    assert run_predict(f"--model={model[0]}", f"--out={out}", folder) == 3
    assert len(read_scores(out / "predictions.csv")) == 1
    (problem,) = read_table(out / "problems.csv").values()
    assert problem["file"] == str(folder / name)
    assert message in problem["problem"]
    said = capsys.readouterr().err
    assert f"problem: {folder / name}: " in said
    assert "Traceback" not in said
    assert message in (out / "report.html").read_text()


def test_only_bad_files_are_an_error(model, tmp_path, capsys):
    _text(tmp_path / "a.dcm")
    out = tmp_path / "out"
    assert run_predict(f"--model={model[0]}", f"--out={out}", tmp_path / "a.dcm") == 1
    assert "none of the 1 files could be scored" in capsys.readouterr().err
    assert len(read_table(out / "problems.csv")) == 1


def test_a_link_to_a_file_that_is_gone_is_a_problem(model, folder, tmp_path):
    (folder / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (folder / "gone.txt").symlink_to(tmp_path / "nowhere.txt")
    out = tmp_path / "out"
    assert run_predict(f"--model={model[0]}", f"--out={out}", folder) == 3
    (problem,) = read_table(out / "problems.csv").values()
    assert problem["file"] == str(folder / "gone.png")
    assert "no such file" in problem["problem"]


def test_each_file_is_opened_once(folder):
    files = [*(folder / "deep").iterdir(), folder / "picture.png"]
    with opened_files() as opened:
        for path in files:
            read_or_report(
                path, grids=(), identifying=("PatientID",), with_original=True
            )
    assert [opened.count(path) for path in files] == [1] * 4


def _greedy(path: Path, **options: object) -> Input | Problem:
    """Stands in for a codec that takes what the file claims, or does not end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading_module, "read_image", lambda path, _: _claim(path))
        return read_or_report(path, **options)


def _claim(path: Path) -> Mammogram:
    while path.stem == "endless":
        pass
    if path.stem == "huge":
        np.ones(3 << 30, np.uint8)
    if path.stem == "aborting":
        os.abort()
    return read_image(path)


def test_a_file_that_takes_too_much_is_a_problem_and_the_others_go_on(
    folder, monkeypatch
):
    names = ["0.dcm", "huge.dcm", "endless.dcm", "1.dcm", "aborting.dcm", "2.dcm"]
    files = [folder / "deep" / name for name in names]
    monkeypatch.setattr(reading_module, "_MOST", Limits(1 << 30, 1))
    monkeypatch.setattr(reading_module, "read_or_report", _greedy)
    with reading(files, [], with_original=False) as found:
        results = list(found)
    assert [result.path for result in results] == files
    bad = [result for result in results if isinstance(result, Problem)]
    assert [problem.path.stem for problem in bad] == ["huge", "endless", "aborting"]
    assert all("GiB of memory or" in problem.reason for problem in bad)


def test_what_was_read_keeps_its_pixels_once_and_shows_no_patient(folder):
    with reading(
        [folder / "deep" / "0.dcm"],
        [],
        identifying=("PatientID", "SOPInstanceUID"),
        with_original=False,
    ) as found:
        (image,) = found
    assert [element.keyword for element in image.identifying] == [
        "SOPInstanceUID",
        "PatientID",
    ]
    assert "SECRET" not in repr(image)
