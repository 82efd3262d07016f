"""Overlays, the directory that is written, and what stops a prediction."""

import errno
import os
import shutil
import signal
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from predicting import (
    SHAPE,
    by_hand,
    make_breast,
    read_scores,
    read_table,
    run_predict,
)
from raw_files import write_dicom

from mammo_jax.common.errors import UserError
from mammo_jax.common.run_directory import read_json, write_json
from mammo_jax.common.tables import GrowingTable
from mammo_jax.prediction.scorer import Scorer


def test_overlays_have_the_originals_aspect_ratio(model, folder, tmp_path):
    large = tmp_path / "large.png"
    cv2.imwrite(str(large), make_breast(5, (3000, 1700)))
    out = tmp_path / "out"
    assert run_predict(f"--model={model[0]}", f"--out={out}", folder, large) == 0
    shapes = {p.stem: cv2.imread(str(p)).shape for p in (out / "overlays").iterdir()}
    assert set(shapes) == set(read_table(out / "predictions.csv"))
    assert shapes["case_0001_LEFT_CC"] == (*SHAPE, 3)
    assert shapes["case_0004"] == (1024, round(1024 * 1700 / 3000), 3)


def test_overlays_of_full_size_lie_on_the_originals_pixels(model, tmp_path):
    pixels, folder = make_breast(5, (1500, 900)), tmp_path / "in"
    write_dicom(folder / "a.dcm", pixels)
    drawn = {}
    for name, options in {"small": ["--dicom"], "full": ["--full_size"]}.items():
        out = tmp_path / name
        assert run_predict(f"--model={model[0]}", *options, f"--out={out}", folder) == 0
        drawn[name] = cv2.imread(str(out / "overlays" / "case_0001.png"))
    assert drawn["small"].shape == (1024, round(1024 * 900 / 1500), 3)
    assert drawn["full"].shape == (1500, 900, 3)
    size = drawn["small"].shape[1::-1]
    shrunk = cv2.resize(drawn["full"], size, interpolation=cv2.INTER_AREA)
    difference = np.abs(shrunk.astype(int) - drawn["small"])
    assert np.quantile(difference, 0.99) <= 2
    # The DICOM object has the mammogram's rows and columns whatever the PNG has.
    (path,) = (tmp_path / "small" / "dicom").glob("*_overlay.dcm")
    capture = pydicom.dcmread(path)
    np.testing.assert_array_equal(capture.pixel_array, drawn["full"][..., ::-1])


def test_a_full_size_overlay_shows_every_pixel_of_the_original(model, tmp_path):
    pixels = make_breast(5, (1500, 900)).copy()
    pixels[700, 400], pixels[700, 401] = 0, 65535
    cv2.imwrite(str(tmp_path / "a.png"), pixels)
    out = tmp_path / "out"
    command = (f"--model={model[0]}", "--full_size", f"--out={out}")
    assert run_predict(*command, tmp_path / "a.png") == 0
    shown = cv2.imread(str(out / "overlays" / "case_0001.png")).astype(int).sum(-1)
    assert shown[700, 401] - shown[700, 400] > 300


def test_a_directory_of_something_else_is_refused(model, folder, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    assert run_predict(f"--model={model[0]}", f"--out={out}", folder) == 1
    assert "holds no prediction" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]


def test_an_earlier_prediction_is_replaced_whole(model, folder, tmp_path):
    out = tmp_path / "out"
    command = (f"--model={model[0]}", "--dicom", f"--out={out}")
    assert run_predict(*command, folder) == 3
    shutil.rmtree(folder / "deep")
    assert run_predict(*command, folder) == 3
    assert [path.name for path in (out / "overlays").iterdir()] == ["case_0001.png"]
    assert not list((out / "dicom").iterdir())
    assert len(read_scores(out / "predictions.csv")) == 1


def test_a_prediction_of_something_else_is_refused(
    model, other, folder, tmp_path, capsys, monkeypatch
):
    out = tmp_path / "out"
    command = (f"--model={model[0]}", f"--out={out}")
    assert run_predict(*command, folder) == 0
    before = {path: path.read_bytes() for path in out.rglob("*.*")}
    assert run_predict(*command, folder / "picture.png") == 1
    assert run_predict(f"--model={other[0]}", f"--out={out}", folder) == 1
    assert (
        "holds the prediction of other models, files or options"
        in capsys.readouterr().err
    )
    assert before == {path: path.read_bytes() for path in out.rglob("*.*")}
    # The same by another name.
    monkeypatch.chdir(folder.parent)
    assert run_predict(*command, folder.name) == 0


def test_what_a_kill_left_is_no_obstacle(model, folder, tmp_path):
    """Nothing but the beginning of a file that was to get its name."""
    out = tmp_path / "out"
    command = (f"--model={model[0]}", f"--out={out}", folder)
    for left in (
        ["prediction.json.part"],
        ["predictions.csv.part", "files.csv.part", "overlays/case_0001.png.part"],
        ["exams.csv.part", "report.html.part"],
    ):
        out.mkdir(exist_ok=True)
        for name in left:
            (out / name).write_text("beg")
        assert run_predict(*command) == 0
        assert not list(out.rglob("*.part"))


@pytest.mark.parametrize("room", [0, 2000, 60_000, 120_000])
def test_a_full_disk_keeps_what_was_scored_and_goes_on_later(
    model, folder, tmp_path, capsys, monkeypatch, room
):
    out = tmp_path / "out"
    command = (f"--model={model[0]}", f"--out={out}", folder)
    write, tables = Path.write_bytes, GrowingTable.add

    def used() -> int:
        return sum(path.stat().st_size for path in out.rglob("*") if path.is_file())

    def write_on_a_small_disk(self, content):
        if used() + len(content) > room:
            write(self, content[: max(0, room - used())])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))
        return write(self, content)

    def add_on_a_small_disk(self, row):
        if used() + 200 > room and row[0] != "image_index":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a table")
        tables(self, row)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", write_on_a_small_disk)
        patch.setattr(GrowingTable, "add", add_on_a_small_disk)
        assert run_predict(*command) == 1
    said = capsys.readouterr().err
    assert "No space left on device; the scores of" in said
    assert "Traceback" not in said
    kept = read_scores(out / "predictions.csv")
    assert f"the scores of {len(kept)} of 4 files are in {out}" in said
    assert [*read_table(out / "files.csv")][: len(kept)] == [*kept]
    assert not list((out / "overlays").glob("*.part"))
    assert run_predict(*command) == 0
    whole = read_scores(out / "predictions.csv")
    assert len(whole) == 4
    assert {name: whole[name] for name in kept} == pytest.approx(kept)


def test_tables_that_no_digest_knows_keep_their_part(
    model, folder, tmp_path, capsys, monkeypatch
):
    out, write = tmp_path / "out", Path.write_text
    command = (f"--model={model[0]}", f"--out={out}", folder)

    def write_no_digests(self, text, encoding):
        if '"tables"' in text:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))
        return write(self, text, encoding)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", write_no_digests)
        assert run_predict(*command) == 1
    assert f"the scores of 4 of 4 files are in {out}" in capsys.readouterr().err
    assert len(read_scores(out / "predictions.csv.part")) == 4
    assert not (out / "predictions.csv").exists()
    assert run_predict(*command) == 0


def test_without_digests_a_table_without_labels_is_replaced(
    model, folder, tmp_path, capsys
):
    """Earlier versions noted none."""
    out = tmp_path / "out"
    command = (f"--model={model[0]}", f"--out={out}", folder)
    for label, code in (("", 0), ("1", 1)):
        assert run_predict(*command) == 0
        settings = read_json(out / "prediction.json")
        del settings["tables"]
        write_json(out / "prediction.json", settings)
        table = out / "predictions.csv"
        table.write_text(
            table.read_text().replace(",,case_0001", f",{label},case_0001")
        )
        assert run_predict(*command) == code
    assert "has been filled in or changed" in capsys.readouterr().err


def test_a_full_disk_takes_the_overlay_of_the_row_that_is_missing(
    model, folder, tmp_path, monkeypatch
):
    out, add = tmp_path / "out", GrowingTable.add

    def refuse_the_third(self, row):
        if row[0].startswith("case_0002"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a table")
        add(self, row)

    monkeypatch.setattr(GrowingTable, "add", refuse_the_third)
    assert run_predict(f"--model={model[0]}", f"--out={out}", folder) == 1
    kept = read_scores(out / "predictions.csv")
    assert len(kept) == 2
    assert {path.stem for path in (out / "overlays").iterdir()} == {*kept}


def _disturb_the_second_of_three_batches(folder, monkeypatch, disturb):
    for seed in range(5):  # Batches of two.
        cv2.imwrite(str(folder / f"{seed}.png"), make_breast(seed))
    begin, batches = Scorer.begin, []

    def disturbed(self, images):
        batches.append(images)
        if len(batches) == 2:
            disturb(images)
        return begin(self, images)

    monkeypatch.setattr(Scorer, "begin", disturbed)


def test_a_scoring_that_fails_keeps_its_scores(model, tmp_path, capsys, monkeypatch):
    def fail(images):
        raise UserError(f"{images[0].path}: no room on the device")

    _disturb_the_second_of_three_batches(tmp_path, monkeypatch, fail)
    out = tmp_path / "out"
    command = (f"--model={model[0]}", f"--out={out}", tmp_path / "*.png")
    assert run_predict(*command) == 1
    assert "no room on the device" in capsys.readouterr().err
    tables = ("predictions.csv", "files.csv", "patients.csv")
    assert [len(read_table(out / name)) for name in tables] == [2] * 3
    page = (out / "report.html").read_text()
    assert "Incomplete: the scoring failed (UserError)." in page
    monkeypatch.undo()
    assert run_predict(*command) == 0


def test_files_of_others_stay_where_an_earlier_prediction_is_replaced(
    model, folder, tmp_path
):
    out = tmp_path / "out"
    command = (f"--model={model[0]}", f"--out={out}", folder)
    assert run_predict(*command) == 0
    mine = [out / name for name in ("labels.csv", "notes.txt", "overlays/lesion.png")]
    for path in mine:
        path.write_text("mine")
    assert run_predict(*command) == 0
    assert [path.read_text() for path in mine] == ["mine"] * 3


def test_scores_of_other_flips_are_not_replaced(calibrated, folder, tmp_path, capsys):
    out = tmp_path / "out"
    command = (f"--model={calibrated}", f"--out={out}", folder)
    assert run_predict(*command) == 0
    before = (out / "predictions.csv").read_bytes()
    for option in ("--tta", "--calibrated", "--keep_identifiers"):
        assert run_predict(option, *command) == 1
        assert "of other models, files or options" in capsys.readouterr().err
        assert (out / "predictions.csv").read_bytes() == before
    assert run_predict(*command) == 0


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)],
)
def test_a_stopped_prediction_keeps_its_scores(
    model, tmp_path, capsys, monkeypatch, number, code
):
    def stop(_):
        os.kill(os.getpid(), number)

    # The tests may have been started by `nohup`.
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)

    _disturb_the_second_of_three_batches(tmp_path, monkeypatch, stop)
    out = tmp_path / "out"
    try:
        ended = run_predict(f"--model={model[0]}", f"--out={out}", tmp_path / "*.png")
    finally:
        signal.signal(signal.SIGHUP, before)
    assert ended == code
    found = list(read_scores(out / "predictions.csv").values())
    expected = [by_hand(model[1], make_breast(seed)) for seed in range(4)]
    assert found == pytest.approx(expected, rel=1e-4)
    assert (
        len(read_table(out / "files.csv")) == len(read_table(out / "patients.csv")) == 4
    )
    assert "4 of 5 files were scored" in (out / "report.html").read_text()
    said = capsys.readouterr().err
    assert f"stopped: 4 of 5 files were scored; their scores are in {out}" in said
    monkeypatch.undo()
    assert run_predict(f"--model={model[0]}", f"--out={out}", tmp_path / "*.png") == 0
