"""The command on one's own files: scores, names, pictures, refusals, DICOM, export."""

import csv
import functools
import json
import os
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import cv2
import highdicom
import numpy as np
import pydicom
import pytest
import scipy.special
from browser import screenshot
from doc_pages import ROOT, blocks
from pydicom.datadict import DicomDictionary
from pydicom.sr.codedict import codes
from raw_files import make_dataset, save, write_dicom
from tiny_runs import HEIGHT, MEAN, WIDTH, write_run

from mammo_jax import predict
from mammo_jax.common.errors import run_command
from mammo_jax.evaluation.predictions import COLUMNS
from mammo_jax.images import overlays
from mammo_jax.prediction.inputs import CaseBook, reading
from mammo_jax.prediction.scorer import Scorer

SHAPE = (300, 170)
SECRETS = {
    "PatientID": "SECRET-ID-77",
    "PatientName": "Secretname^Jane",
    "PatientBirthDate": "19560317",
    "AccessionNumber": "ACC-5512",
    "InstitutionName": "Secret Hospital",
    "StudyDate": "20210417",
}


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path_factory):
    cache = tmp_path_factory.getbasetemp() / "xla"
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(cache))


@functools.cache
def _breast(seed: int, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 60000, (9, 6)).astype(np.uint16)
    return cv2.resize(noise, shape[::-1], interpolation=cv2.INTER_CUBIC)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = tmp_path_factory.mktemp("model") / "run"
    return directory, write_run(directory)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    directory = tmp_path_factory.mktemp("other") / "run"
    return directory, write_run(directory, seed=7)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two views of one breast and one of another patient, and a picture."""
    for seed, (patient, side, view) in enumerate(
        [("A", "L", "CC"), ("A", "L", "MLO"), ("B", "R", "CC")]
    ):
        write_dicom(
            tmp_path / "in" / "deep" / f"{seed}.dcm",
            _breast(seed),
            ViewPosition=view,
            ImageLaterality=side,
            **SECRETS | {"PatientID": SECRETS["PatientID"] + patient},
        )
    cv2.imwrite(str(tmp_path / "in" / "picture.png"), _breast(3))
    (tmp_path / "in" / "notes.txt").write_text("no image")
    return tmp_path / "in"


def _predict(*arguments: object) -> int:
    """The exit code."""
    options = predict.parse_arguments([str(argument) for argument in arguments])
    with pytest.raises(SystemExit) as stop:
        run_command(lambda: predict.main(options))
    assert isinstance(stop.value.code, int)
    return stop.value.code


def _table(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    table = {next(iter(row.values())): row for row in rows}
    assert len(table) == len(rows)
    return table


def _scores(path: Path) -> dict[str, float]:
    return {name: float(row["malignant_pred"]) for name, row in _table(path).items()}


def _by_hand(network, pixels: np.ndarray) -> float:
    """Squeezed, 16 bits to 0..255, less the mean, three channels, softmax."""
    small = cv2.resize(pixels, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    grey = small.astype(np.float32) * np.float32(255 / 65535) - MEAN
    logits = network(np.repeat(grey[None, ..., None], 3, axis=-1), train=False)
    return float(scipy.special.softmax(np.asarray(logits)[0])[1])


def test_scores_are_those_of_the_model(model, folder, tmp_path, capsys):
    directory, network = model
    out = tmp_path / "out"
    assert _predict(f"--model={directory}", f"--out={out}", folder) == 0
    table = _table(out / "predictions.csv")
    assert list(table["case_0001_LEFT_CC"]) == list(COLUMNS)
    expected = {
        "case_0001_LEFT_CC": 0,
        "case_0001_LEFT_MLO": 1,
        "case_0002_RIGHT_CC": 2,
        "case_0003": 3,
    }
    found = _scores(out / "predictions.csv")
    assert found == pytest.approx(
        {name: _by_hand(network, _breast(seed)) for name, seed in expected.items()},
        rel=1e-4,
    )
    assert {row["malignant_label"] for row in table.values()} == {""}
    printed = capsys.readouterr()
    assert "4 images scored" in printed.out
    assert "scoring" in printed.err
    assert "4/4" in printed.err
    files = _table(out / "files.csv")
    assert files["case_0002_RIGHT_CC"]["file"] == str(folder / "deep" / "2.dcm")


def test_breasts_and_patients_have_the_mean_and_the_highest(model, folder, tmp_path):
    out = tmp_path / "out"
    assert _predict(f"--model={model[0]}", f"--out={out}", folder) == 0
    scores = _scores(out / "predictions.csv")
    pair = [scores["case_0001_LEFT_CC"], scores["case_0001_LEFT_MLO"]]
    for table, name in (("breasts", "case_0001_LEFT"), ("patients", "case_0001")):
        row = _table(out / f"{table}.csv")[name]
        assert float(row["malignant_pred"]) == pytest.approx(np.mean(pair))
        assert float(row["malignant_max"]) == pytest.approx(max(pair))
        assert row["images"] == "2"
    # A picture has no laterality: it is of a patient and of no breast.
    assert [*_table(out / "breasts.csv")] == ["case_0001_LEFT", "case_0002_RIGHT"]
    assert [*_table(out / "patients.csv")] == ["case_0001", "case_0002", "case_0003"]


# What may stand in a text attribute, by its value representation.
_SECRET_TEXTS = {
    **dict.fromkeys(["LO", "SH", "ST", "LT", "UT", "UC", "AE"], "SECRETtext"),
    "CS": "SECRETCODE",
    "PN": "SECRETname^JANE",
    "DA": "19330102",
    "DT": "19330102010203",
    "AS": "SECR",
    "UR": "http://secret.example",
}
# Those that would make it another image, or another kind of file.
_TECHNICAL = {"SpecificCharacterSet", "PhotometricInterpretation", "Modality"}


def _fill_with_secrets(dataset: pydicom.Dataset) -> pydicom.Dataset:
    """Every text attribute that DICOM knows, and two private ones."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for tag, (kind, _, _, _, keyword) in DicomDictionary.items():
            if kind in _SECRET_TEXTS and tag >> 16 > 2 and keyword not in _TECHNICAL:
                dataset.add_new(tag, kind, _SECRET_TEXTS[kind])
        for group in (0x0009, 0x0029):
            block = dataset.private_block(group, "SECRETOWNER", create=True)
            block.add_new(1, "LO", "SECRETprivate")
    return dataset


def _write_secret_files(folder: Path) -> None:
    """One good file, and those that are refused in different ways."""
    for name, changes in {
        "good": {},
        "frames": {"NumberOfFrames": 3},
        "photometric": {"PhotometricInterpretation": "SECRETCODE"},
        "rows": {"Rows": 900},
        "uid": {"SeriesInstanceUID": "SECRETUID"},
    }.items():
        dataset = _fill_with_secrets(make_dataset(_breast(4)))
        for keyword, value in changes.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                setattr(dataset, keyword, value)
        save(dataset, folder / f"{name}.dcm")


def test_no_text_of_a_header_is_written_or_printed(model, tmp_path, capfd):
    _write_secret_files(tmp_path / "in")
    out = tmp_path / "out"
    command = (f"--model={model[0]}", "--dicom", f"--out={out}", tmp_path / "in")
    assert _predict(*command) == 3
    printed = capfd.readouterr()
    assert len(_scores(out / "predictions.csv")) == 2
    assert len(list(out.glob("dicom/*.dcm"))) == 2
    assert "Interpretation an unknown one" in printed.err
    said = b"".join(
        [
            *(path.read_bytes() for path in out.rglob("*") if path.is_file()),
            *(path.name.encode() for path in out.rglob("*")),
            printed.out.encode(),
            printed.err.encode(),
        ]
    )
    for secret in (b"SECR", b"secret.example", b"JANE", b"19330102"):
        assert secret not in said


def test_nothing_that_identifies_is_written_or_printed(model, folder, tmp_path, capfd):
    (folder / "bad.dcm").write_bytes((folder / "deep" / "0.dcm").read_bytes()[:-4000])
    out = tmp_path / "out"
    assert _predict(f"--model={model[0]}", "--dicom", f"--out={out}", folder) == 3
    printed = capfd.readouterr()
    written = [path.read_bytes() for path in out.rglob("*") if path.is_file()]
    names = [str(path.relative_to(out)) for path in out.rglob("*")]
    said = b"".join([*written, printed.out.encode(), printed.err.encode()])
    assert len(list(out.glob("dicom/*.dcm"))) == 6
    for secret in (*SECRETS.values(), "Secretname", "Jane"):
        assert secret.encode() not in said
        assert not any(secret in name for name in names)


def test_identifiers_are_kept_where_asked_for(model, folder, tmp_path):
    out = tmp_path / "out"
    assert (
        _predict(
            f"--model={model[0]}",
            "--keep_identifiers",
            "--dicom",
            f"--out={out}",
            folder / "deep",
        )
        == 0
    )
    row = _table(out / "predictions.csv")["case_0001_LEFT_CC"]
    assert row["patient_id"] == "SECRET-ID-77A"
    made = pydicom.dcmread(out / "dicom" / "case_0001_LEFT_CC_overlay.dcm")
    assert made.PatientName == SECRETS["PatientName"]
    assert made.PatientID == "SECRET-ID-77A"


def test_a_table_of_cbis_ddsm_groups_the_views_of_a_patient(model, tmp_path):
    for view in ("LEFT_CC", "LEFT_MLO"):
        write_dicom(
            tmp_path / "in" / f"{view}.dcm",
            _breast(0),
            PatientID=f"Mass-Training_P_00041_{view}",
        )
    out = tmp_path / "out"
    assert _predict(f"--model={model[0]}", f"--out={out}", tmp_path / "in") == 0
    assert _table(out / "patients.csv")["case_0001"]["images"] == "2"


def _read(folder):
    with reading(sorted(folder.iterdir()), [], with_original=False) as found:
        return [*found]


@pytest.mark.parametrize(
    "nobody",
    ["ANON", "Anonymous", "anonymised^patient", "n/a", "xxx", "Unknown", "000000", ""],
)
def test_patients_without_a_name_are_told_apart_by_study(nobody, tmp_path):
    studies = ["1.2.3", "1.2.3", "1.2.4", None, None]
    for number, study in enumerate(studies):
        dataset = make_dataset(_breast(0), PatientID=nobody)
        dataset.StudyInstanceUID = study or ""
        save(dataset, tmp_path / f"{number}.dcm")
    found = _read(tmp_path)
    for keep in (False, True):
        book = CaseBook(keep_identifiers=keep)
        names = [book.name(image) for image in found]
        assert [name.case[-1] for name in names] == ["1", "1", "2", "3", "4"]
        assert all(name.patient_id == name.case for name in names)


@pytest.mark.parametrize("study", ["REMOVED", "0", "1", "1.2.", "1.02.3", "1..2"])
def test_a_study_that_stands_for_any_makes_no_case(study, tmp_path):
    for number in range(2):
        dataset = make_dataset(_breast(0), PatientID="ANON")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset.StudyInstanceUID = study
        save(dataset, tmp_path / f"{number}.dcm")
    book = CaseBook(keep_identifiers=False)
    found = _read(tmp_path)
    assert [book.name(image).case for image in found] == ["case_0001", "case_0002"]


@pytest.mark.parametrize("pseudonym", ["ANON0012", "anonym7", "X1", "0001", "P_NA_3"])
def test_a_pseudonym_is_a_patient(pseudonym, tmp_path):
    for number in range(2):
        write_dicom(tmp_path / f"{number}.dcm", _breast(0), PatientID=pseudonym)
    book = CaseBook(keep_identifiers=True)
    found = _read(tmp_path)
    names = [book.name(image) for image in found]
    assert {name.case for name in names} == {"case_0001"}
    assert {name.patient_id for name in names} == {pseudonym}


@pytest.mark.parametrize("ending", ["png", "tif", "jpg", "pgm", "dcm"])
def test_every_format_is_read(model, tmp_path, ending):
    pixels = _breast(1)
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
    assert _predict(f"--model={model[0]}", f"--out={out}", path) == 0
    (score,) = _scores(out / "predictions.csv").values()
    assert score == pytest.approx(_by_hand(model[1], pixels), rel=1e-4)


def test_a_model_of_stretched_images_stretches(tmp_path):
    network = write_run(tmp_path / "run", stretch=True)
    pixels = (_breast(1) >> 4) + 100
    path = write_dicom(tmp_path / "in.dcm", pixels)
    out = tmp_path / "out"
    assert _predict(f"--model={tmp_path / 'run'}", f"--out={out}", path) == 0
    span = pixels.max() - pixels.min()
    stretched = np.rint((pixels - pixels.min()) / span * 65535).astype(np.uint16)
    (score,) = _scores(out / "predictions.csv").values()
    assert score == pytest.approx(_by_hand(network, stretched), rel=1e-4)


def test_a_score_does_not_depend_on_the_images_beside_it(model, tmp_path):
    for seed in range(5):  # Batches of two: the last one is filled up.
        cv2.imwrite(str(tmp_path / f"{seed}.png"), _breast(seed))
    out = tmp_path / "out"
    assert _predict(f"--model={model[0]}", f"--out={out}", tmp_path / "*.png") == 0
    found = list(_scores(out / "predictions.csv").values())
    expected = [_by_hand(model[1], _breast(seed)) for seed in range(5)]
    assert found == pytest.approx(expected, rel=1e-4)


def test_tta_averages_four_flips(model, folder, tmp_path):
    out = tmp_path / "out"
    assert _predict(f"--model={model[0]}", "--tta", f"--out={out}", folder) == 0
    small = cv2.resize(_breast(0), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    flipped = [small, small[:, ::-1], small[::-1], small[::-1, ::-1]]
    expected = np.mean([_by_hand(model[1], image) for image in flipped])
    found = _scores(out / "predictions.csv")["case_0001_LEFT_CC"]
    assert found == pytest.approx(expected, rel=1e-4)
    assert found != pytest.approx(_by_hand(model[1], small), rel=1e-4)


def test_an_ensemble_averages_its_models(model, other, folder, tmp_path):
    out, models = tmp_path / "out", f"--model={model[0]},{other[0]}"
    assert _predict(models, f"--out={out}", folder / "deep" / "0.dcm") == 0
    scores = [_by_hand(network, _breast(0)) for network in (model[1], other[1])]
    (found,) = _scores(out / "predictions.csv").values()
    assert found == pytest.approx(np.mean(scores), rel=1e-4)
    assert scores[0] != pytest.approx(scores[1], rel=1e-3)


def test_a_patch_classifier_slides_over_whole_images(tmp_path, folder):
    write_run(tmp_path / "patch", "patch")
    out = tmp_path / "out"
    assert _predict(f"--model={tmp_path / 'patch'}", f"--out={out}", folder) == 0
    assert all(0 <= score <= 1 for score in _scores(out / "predictions.csv").values())


def test_overlays_have_the_originals_aspect_ratio(model, folder, tmp_path):
    large = tmp_path / "large.png"
    cv2.imwrite(str(large), _breast(5, (3000, 1700)))
    out = tmp_path / "out"
    assert _predict(f"--model={model[0]}", f"--out={out}", folder, large) == 0
    shapes = {p.stem: cv2.imread(str(p)).shape for p in (out / "overlays").iterdir()}
    assert set(shapes) == set(_table(out / "predictions.csv"))
    assert shapes["case_0001_LEFT_CC"] == (*SHAPE, 3)
    assert shapes["case_0004"] == (1024, round(1024 * 1700 / 3000), 3)


def test_overlays_of_full_size_lie_on_the_originals_pixels(model, tmp_path):
    pixels, folder = _breast(5, (1500, 900)), tmp_path / "in"
    write_dicom(folder / "a.dcm", pixels)
    drawn = {}
    for name, options in {"small": ["--dicom"], "full": ["--full_size"]}.items():
        out = tmp_path / name
        assert _predict(f"--model={model[0]}", *options, f"--out={out}", folder) == 0
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
    pixels = _breast(5, (1500, 900)).copy()
    pixels[700, 400], pixels[700, 401] = 0, 65535
    cv2.imwrite(str(tmp_path / "a.png"), pixels)
    out = tmp_path / "out"
    command = (f"--model={model[0]}", "--full_size", f"--out={out}")
    assert _predict(*command, tmp_path / "a.png") == 0
    shown = cv2.imread(str(out / "overlays" / "case_0001.png")).astype(int).sum(-1)
    assert shown[700, 401] - shown[700, 400] > 300


def test_an_overlay_is_grey_at_even_odds_red_for_and_blue_against():
    picture = np.full((4, 3), 100, np.uint8)
    strength = np.repeat([[0.0, 1.0, -1.0]], 4, axis=0).astype(np.float32)
    drawn = overlays.draw_overlay(picture, strength)
    assert (drawn[:, 0] == 100).all()
    for column, brightest in ((1, 0), (2, 2)):
        channels = drawn[0, column].tolist()
        assert channels[brightest] > 150
        assert sorted(channels)[1] < 100
    # RGB in memory comes back as RGB from the file.
    content = np.frombuffer(overlays.encode(drawn), np.uint8)
    np.testing.assert_array_equal(cv2.imdecode(content, 1)[..., ::-1], drawn)


def test_the_report_shows_the_highest_score_first(model, folder, tmp_path):
    out = tmp_path / "out"
    assert _predict(f"--model={model[0]}", f"--out={out}", folder) == 0
    page = (out / "report.html").read_text()
    scores = _scores(out / "predictions.csv")
    places = [
        page.index(f"  {name}") for name in sorted(scores, key=lambda n: -scores[n])
    ]
    assert places == sorted(places)
    assert page.count("data:image/png;base64") == len(scores)


def test_a_browser_shows_the_thumbnails_and_asks_nobody(model, folder, tmp_path):
    out = tmp_path / "out"
    assert _predict(f"--model={model[0]}", f"--out={out}", folder) == 0
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


def _colour_dicom(path: Path) -> None:
    dataset = make_dataset(_breast(0).astype(np.uint8))
    dataset.PhotometricInterpretation = "RGB"
    dataset.SamplesPerPixel = 3
    save(dataset, path)


def _landscape(path: Path) -> None:
    write_dicom(path, np.ascontiguousarray(_breast(0).T))


def _cut_off(path: Path) -> None:
    write_dicom(path, _breast(0))
    path.write_bytes(path.read_bytes()[:-5000])


def _several_frames(path: Path) -> None:
    write_dicom(path, _breast(0), NumberOfFrames=3)


def _tiny(path: Path) -> None:
    write_dicom(path, _breast(0, (20, 12)))


def _blank(path: Path) -> None:
    write_dicom(path, np.full(SHAPE, 7, np.uint16))


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
    cv2.imwrite(str(folder / "good.png"), _breast(0))
    assert _predict(f"--model={model[0]}", f"--out={out}", folder) == 3
    assert len(_scores(out / "predictions.csv")) == 1
    (problem,) = _table(out / "problems.csv").values()
    assert problem["file"] == str(folder / name)
    assert message in problem["problem"]
    said = capsys.readouterr().err
    assert f"problem: {folder / name}: " in said
    assert "Traceback" not in said
    assert message in (out / "report.html").read_text()


def test_only_bad_files_are_an_error(model, tmp_path, capsys):
    _text(tmp_path / "a.dcm")
    out = tmp_path / "out"
    assert _predict(f"--model={model[0]}", f"--out={out}", tmp_path / "a.dcm") == 1
    assert "none of the 1 files could be scored" in capsys.readouterr().err
    assert len(_table(out / "problems.csv")) == 1


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
    assert _predict(f"--model={model[0]}", f"--out={out}", tmp_path / path) == 1
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_a_directory_of_something_else_is_refused(model, folder, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    assert _predict(f"--model={model[0]}", f"--out={out}", folder) == 1
    assert "holds no prediction" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]


def test_an_earlier_prediction_is_replaced_whole(model, folder, tmp_path):
    out = tmp_path / "out"
    command = (f"--model={model[0]}", f"--out={out}")
    assert _predict(*command, "--dicom", folder / "deep") == 0
    assert _predict(*command, folder / "picture.png") == 0
    assert [path.name for path in (out / "overlays").iterdir()] == ["case_0001.png"]
    assert not (out / "dicom").exists()
    assert len(_scores(out / "predictions.csv")) == 1


def test_files_of_others_stay_where_an_earlier_prediction_is_replaced(
    model, folder, tmp_path
):
    out = tmp_path / "out"
    command = (f"--model={model[0]}", f"--out={out}", folder)
    assert _predict(*command) == 0
    mine = [out / name for name in ("labels.csv", "notes.txt", "overlays/lesion.png")]
    for path in mine:
        path.write_text("mine")
    assert _predict(*command) == 0
    assert [path.read_text() for path in mine] == ["mine"] * 3


@pytest.mark.parametrize("name", ["predictions.csv", "breasts.csv", "patients.csv"])
def test_tables_with_labels_filled_in_are_not_replaced(
    model, folder, tmp_path, capsys, name
):
    out = tmp_path / "out"
    command = (f"--model={model[0]}", f"--out={out}", folder)
    assert _predict(*command) == 0
    header, first, *others = (out / name).read_text().splitlines()
    labelled = "\n".join([header, first.replace(",,", ",1,", 1), *others]) + "\n"
    # As other programs save it: with semicolons.
    for filled in (labelled, labelled.replace(",", ";")):
        (out / name).write_text(filled)
        before = {path: path.read_bytes() for path in out.rglob("*.*")}
        assert _predict(*command) == 1
        assert f"{out / name} has been filled in" in capsys.readouterr().err
        assert before == {path: path.read_bytes() for path in out.rglob("*.*")}


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_a_stopped_prediction_keeps_its_scores(
    model, tmp_path, capsys, monkeypatch, number, code
):
    for seed in range(5):  # Batches of two.
        cv2.imwrite(str(tmp_path / f"{seed}.png"), _breast(seed))
    score, batches = Scorer.score, []

    def stop_in_the_second(self, images):
        batches.append(images)
        if len(batches) == 2:
            os.kill(os.getpid(), number)
        return score(self, images)

    monkeypatch.setattr(Scorer, "score", stop_in_the_second)
    out = tmp_path / "out"
    assert _predict(f"--model={model[0]}", f"--out={out}", tmp_path / "*.png") == code
    found = list(_scores(out / "predictions.csv").values())
    expected = [_by_hand(model[1], _breast(seed)) for seed in range(4)]
    assert found == pytest.approx(expected, rel=1e-4)
    assert len(_table(out / "files.csv")) == len(_table(out / "patients.csv")) == 4
    assert "4 of 5 files were scored" in (out / "report.html").read_text()
    said = capsys.readouterr().err
    assert f"stopped: 4 of 5 files were scored; their scores are in {out}" in said
    monkeypatch.undo()
    assert _predict(f"--model={model[0]}", f"--out={out}", tmp_path / "*.png") == 0


def test_a_closed_scorer_compiles_no_further_models(monkeypatch):
    begun, go_on = threading.Event(), threading.Event()

    def compile_slowly(self, model):
        begun.set()
        assert go_on.wait(60)
        return model

    monkeypatch.setattr(Scorer, "_compile", compile_slowly)
    scorer = Scorer(["first", "second", "third"], 2, tta=False)
    assert begun.wait(60)
    scorer.close()
    go_on.set()
    first, *others = scorer._steps
    assert first.result() == "first"
    assert all(other.cancelled() for other in others)


def test_an_earlier_predictions_overlays_are_no_input(model, folder, capsys):
    out = folder / "scores"
    for _ in range(2):
        assert _predict(f"--model={model[0]}", f"--out={out}", folder) == 0
    assert len(_scores(out / "predictions.csv")) == 4
    assert _predict(f"--model={model[0]}", f"--out={out}", out) == 1
    assert "nothing to score" in capsys.readouterr().err


def test_a_model_that_is_named_twice_is_refused(model, folder, tmp_path, capsys):
    out, models = tmp_path / "out", f"--model={model[0]},{model[0]}/"
    assert _predict(models, f"--out={out}", folder) == 1
    assert "--model names a directory twice" in capsys.readouterr().err
    assert not out.exists()


def test_a_link_to_a_file_that_is_gone_is_a_problem(model, folder, tmp_path):
    (folder / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (folder / "gone.txt").symlink_to(tmp_path / "nowhere.txt")
    out = tmp_path / "out"
    assert _predict(f"--model={model[0]}", f"--out={out}", folder) == 3
    (problem,) = _table(out / "problems.csv").values()
    assert problem["file"] == str(folder / "gone.png")
    assert "no such file" in problem["problem"]


def test_a_directory_that_is_no_model_is_refused(folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert _predict(f"--model={folder}", f"--out={out}", folder) == 1
    assert "holds no model" in capsys.readouterr().err
    assert not out.exists()


def test_dicom_output_refers_to_its_source(model, folder, tmp_path):
    out = tmp_path / "out"
    source = pydicom.dcmread(folder / "deep" / "2.dcm")
    path = folder / "deep" / "2.dcm"
    assert _predict(f"--model={model[0]}", "--dicom", f"--out={out}", path) == 0
    capture = pydicom.dcmread(out / "dicom" / "case_0001_RIGHT_CC_overlay.dcm")
    assert capture.SOPClassUID == pydicom.uid.SecondaryCaptureImageStorage
    assert capture.StudyInstanceUID == source.StudyInstanceUID
    assert capture.SeriesInstanceUID != source.SeriesInstanceUID
    (item,) = capture.SourceImageSequence
    assert item.ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert capture.Laterality == "R"
    drawn = cv2.imread(str(out / "overlays" / "case_0001_RIGHT_CC.png"))[..., ::-1]
    np.testing.assert_array_equal(capture.pixel_array, drawn)

    report = highdicom.sr.srread(out / "dicom" / "case_0001_RIGHT_CC_report.dcm")
    assert isinstance(report, highdicom.sr.ComprehensiveSR)
    assert report.StudyInstanceUID == source.StudyInstanceUID
    (group,) = report.content.get_image_measurement_groups()
    (image,) = group.source_images
    assert image.referenced_sop_instance_uid == source.SOPInstanceUID
    (measured,) = group.get_measurements(name=codes.DCM.ProbabilityOfCancer)
    (score,) = _scores(out / "predictions.csv").values()
    assert measured.value == pytest.approx(100 * score, abs=1e-3)
    assert measured.unit == codes.UCUM.Percent
    (site,) = group.finding_sites
    assert site.laterality == codes.SCT.Right
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0]
    (series,) = evidence.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == source.SeriesInstanceUID


def test_pictures_and_sources_without_uids_get_no_dicom(model, folder, tmp_path):
    dataset = make_dataset(_breast(0))
    del dataset.StudyInstanceUID
    save(dataset, folder / "no_uid.dcm")
    out = tmp_path / "out"
    assert _predict(f"--model={model[0]}", "--dicom", f"--out={out}", folder) == 3
    reasons = {row["problem"] for row in _table(out / "problems.csv").values()}
    assert reasons == {
        "scored, but a picture has no DICOM instance to refer to",
        "scored, but: its header has no valid StudyInstanceUID to refer to",
    }
    page = (out / "report.html").read_text()
    assert "Files that were scored, but not all was written: 2; see" in page
    assert "could not be scored" not in page
    assert len(_scores(out / "predictions.csv")) == 5


_SCORE_WITHOUT_US = """
import json, sys
import numpy as np
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("mammo_jax", "flax", "orbax", "cv2", "pydicom"):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
from jax import export
score = export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
images = np.load(sys.argv[2])
print(json.dumps([score.call(images[:n]).tolist() for n in (1, 3)]))
print(json.dumps(score.platforms))
"""


def test_an_export_scores_with_jax_alone(model, other, tmp_path):
    exported = tmp_path / "folder" / "model.jax"
    models = f"--model={model[0]},{other[0]}"
    assert _predict(models, "--tta", f"--export={exported}") == 0
    images = np.stack(
        [
            cv2.resize(_breast(s), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
            for s in range(3)
        ]
    )
    np.save(tmp_path / "images.npy", images)
    result = subprocess.run(
        [sys.executable, "-c", _SCORE_WITHOUT_US, exported, tmp_path / "images.npy"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    one, three = json.loads(result.stdout.splitlines()[0])
    assert json.loads(result.stdout.splitlines()[1]) == ["cpu", "cuda"]
    expected = [
        np.mean(
            [
                _by_hand(network, flipped)
                for network in (model[1], other[1])
                for flipped in (i, i[:, ::-1], i[::-1], i[::-1, ::-1])
            ]
        )
        for i in images
    ]
    assert three == pytest.approx(expected, rel=1e-4)
    assert one == pytest.approx(expected[:1], rel=1e-4)


def _documented_export() -> str:
    """The page's Python that scores with an export."""
    (block,) = blocks(ROOT / "docs" / "scoring.md", "python")
    return block


@pytest.mark.parametrize(
    ("bits", "stretch"), [(8, False), (12, False), (16, False), (8, True)]
)
def test_the_documented_way_with_an_export_gives_predicts_score(
    tmp_path, monkeypatch, bits, stretch
):
    write_run(tmp_path / "run", stretch=stretch)
    pixels = _breast(1) >> (16 - bits)
    path = tmp_path / f"in.{'png' if bits == 8 else 'dcm'}"
    if bits == 8:
        pixels = pixels.astype(np.uint8)
        cv2.imwrite(str(path), pixels)
    else:
        write_dicom(path, pixels, BitsStored=bits, HighBit=bits - 1)
    command = (f"--model={tmp_path / 'run'}", f"--out={tmp_path / 'out'}")
    assert _predict(*command, f"--export={tmp_path / 'model.jax'}", path) == 0
    (score,) = _scores(tmp_path / "out" / "predictions.csv").values()
    monkeypatch.chdir(tmp_path)
    names = {"pixels": pixels, "bits": bits, "stretch": stretch}
    names |= {"height": HEIGHT, "width": WIDTH}
    *code, last = _documented_export().splitlines()
    exec("\n".join([*code, f"found = {last}"]), names)
    assert float(names["found"][0]) == pytest.approx(score, rel=1e-6)


def test_an_export_may_lie_in_the_output(model, folder, tmp_path):
    out = tmp_path / "out"
    command = (f"--model={model[0]}", f"--out={out}", f"--export={out / 'model.jax'}")
    for _ in range(2):
        assert _predict(*command, folder) == 0
        assert (out / "model.jax").is_file()
        assert len(_scores(out / "predictions.csv")) == 4


def test_the_command_ends_in_one_line(tmp_path):
    result = subprocess.run(
        [
            *(sys.executable, "-m", "mammo_jax.predict"),
            *(f"--model={tmp_path}", "--out=out", tmp_path / "no.dcm"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 1
    assert result.stderr.startswith(f"error: {tmp_path / 'no.dcm'}: no such file")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model=x"], "name a file"),
        (["--model=x", "a.png"], "--out is needed"),
        (["--out=x", "a.png"], "--model"),
    ],
)
def test_an_incomplete_command_line_is_refused(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        predict.parse_arguments(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_a_name_that_is_not_utf_8_ends_in_no_traceback(model, tmp_path):
    picture, out = tmp_path / os.fsdecode(b"a\xff.png"), os.fsdecode(b"out\xff")
    picture.write_bytes(cv2.imencode(".png", _breast(0))[1].tobytes())
    result = subprocess.run(
        [
            *(sys.executable, "-m", "mammo_jax.predict"),
            *(f"--model={model[0]}", f"--out={out}", picture),
        ],
        capture_output=True,
        cwd=tmp_path,
        # As where the locale is a language's.
        env={**os.environ, "PYTHONIOENCODING": "utf-8:strict"},
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    assert b"1 images scored; written to out\\udcff" in result.stdout
    assert b"a\xff.png" in (tmp_path / out / "files.csv").read_bytes()
