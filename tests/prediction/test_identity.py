"""Who is who, and nothing of it in any output."""

import warnings
from pathlib import Path

import pydicom
import pytest
from predicting import SECRETS, make_breast, read_scores, read_table, run_predict
from raw_files import (
    HEADER_SECRETS,
    fill_with_secrets,
    make_dataset,
    save,
    write_dicom,
)

from mammo_jax.prediction.identity import KEYWORDS, CaseBook
from mammo_jax.prediction.reading import reading


def _write_secret_files(folder: Path) -> None:
    """One good file, and those that are refused in different ways."""
    for seed, (name, changes) in enumerate(
        {
            "good": {},
            "frames": {"NumberOfFrames": 3},
            "photometric": {"PhotometricInterpretation": "SECRETCODE"},
            "rows": {"Rows": 900},
            "uid": {"SeriesInstanceUID": "SECRETUID"},
        }.items(),
        4,
    ):
        dataset = fill_with_secrets(make_dataset(make_breast(seed)))
        for keyword, value in changes.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                setattr(dataset, keyword, value)
        save(dataset, folder / f"{name}.dcm")


def test_no_text_of_a_header_is_written_or_printed(model, tmp_path, capfd):
    _write_secret_files(tmp_path / "in")
    out = tmp_path / "out"
    command = (f"--model={model[0]}", "--dicom", f"--out={out}", tmp_path / "in")
    assert run_predict(*command) == 3
    printed = capfd.readouterr()
    assert len(read_scores(out / "predictions.csv")) == 2
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
    for secret in HEADER_SECRETS:
        assert secret not in said


def test_nothing_that_identifies_is_written_or_printed(model, folder, tmp_path, capfd):
    (folder / "bad.dcm").write_bytes((folder / "deep" / "0.dcm").read_bytes()[:-4000])
    out = tmp_path / "out"
    assert run_predict(f"--model={model[0]}", "--dicom", f"--out={out}", folder) == 3
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
        run_predict(
            f"--model={model[0]}",
            "--keep_identifiers",
            "--dicom",
            f"--out={out}",
            folder / "deep",
        )
        == 0
    )
    row = read_table(out / "predictions.csv")["case_0001_LEFT_CC"]
    assert row["patient_id"] == "SECRET-ID-77A"
    made = pydicom.dcmread(out / "dicom" / "case_0001_LEFT_CC_overlay.dcm")
    assert made.PatientName == SECRETS["PatientName"]
    assert made.PatientID == "SECRET-ID-77A"


@pytest.mark.parametrize("formula", ["=1+1", "+1", "-1", "@SUM(1)"])
def test_no_spreadsheet_runs_a_patients_name(model, tmp_path, monkeypatch, formula):
    monkeypatch.chdir(tmp_path)
    write_dicom(tmp_path / f"{formula}.dcm", make_breast(0), PatientID=formula)
    command = (f"--model={model[0]}", "--keep_identifiers", "--out=out")
    assert run_predict(*command, f"./{formula}.dcm") == 0
    (row,) = read_table(tmp_path / "out" / "predictions.csv").values()
    assert row["patient_id"] == f"'{formula}"
    (row,) = read_table(tmp_path / "out" / "files.csv").values()
    assert row["file"] == f"./{formula}.dcm"


def test_a_table_of_cbis_ddsm_groups_the_views_of_a_patient(model, tmp_path):
    for seed, view in enumerate(("LEFT_CC", "LEFT_MLO")):
        write_dicom(
            tmp_path / "in" / f"{view}.dcm",
            make_breast(seed),
            PatientID=f"Mass-Training_P_00041_{view}",
        )
    out = tmp_path / "out"
    assert run_predict(f"--model={model[0]}", f"--out={out}", tmp_path / "in") == 0
    assert read_table(out / "patients.csv")["case_0001"]["images"] == "2"


def _read(folder):
    with reading(
        sorted(folder.iterdir()), [], identifying=KEYWORDS, with_original=False
    ) as found:
        return [*found]


NOBODY = (
    *("NOID", "REDACTED", "HIDDEN", "TEST", "Private", "patient", "ANON", "Anonymous"),
    *("anonymised^patient", "n/a", "xxx", "Unknown", "000000", ""),
)


@pytest.mark.parametrize("nobody", NOBODY)
def test_patients_without_a_name_are_told_apart_by_study(nobody, tmp_path):
    studies = ["1.2.3", "1.2.3", "1.2.4", None, None]
    for number, study in enumerate(studies):
        dataset = make_dataset(make_breast(0), PatientID=nobody)
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
        dataset = make_dataset(make_breast(0), PatientID="ANON")
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
        write_dicom(tmp_path / f"{number}.dcm", make_breast(0), PatientID=pseudonym)
    book = CaseBook(keep_identifiers=True)
    found = _read(tmp_path)
    names = [book.name(image) for image in found]
    assert {name.case for name in names} == {"case_0001"}
    assert {name.patient_id for name in names} == {pseudonym}


def test_eight_studies_of_nobody_are_eight_cases(tmp_path):
    for number, nobody in enumerate(["NOID", "REDACTED", "HIDDEN", "TEST"] * 2):
        write_dicom(tmp_path / f"{number}.dcm", make_breast(number), PatientID=nobody)
    book = CaseBook(keep_identifiers=False)
    assert len({book.name(image).case for image in _read(tmp_path)}) == 8


def test_images_that_differ_in_one_pixel_are_no_copies(model, tmp_path):
    pixels = make_breast(0, (1500, 900)).copy()
    write_dicom(tmp_path / "in" / "0.dcm", pixels, PatientID="A")
    pixels[700, 400] ^= 1
    write_dicom(tmp_path / "in" / "1.dcm", pixels, PatientID="A")
    out = tmp_path / "out"
    assert run_predict(f"--model={model[0]}", f"--out={out}", tmp_path / "in") == 0
    assert len(read_table(out / "predictions.csv")) == 2


def test_copies_count_once(model, tmp_path, capsys):
    folder, out = tmp_path / "in", tmp_path / "out"
    study = {"StudyInstanceUID": "1.2.3", "ImageLaterality": "L"}
    first = make_dataset(make_breast(0), PatientID="A", **study)
    save(first, folder / "a.dcm")
    (folder / "b.dcm").write_bytes((folder / "a.dcm").read_bytes())
    # The same pixels under another UID, and other pixels under the same.
    save(make_dataset(make_breast(0), PatientID="A", **study), folder / "c.dcm")
    changed = make_dataset(make_breast(1), PatientID="A", **study)
    changed.SOPInstanceUID = first.SOPInstanceUID
    save(changed, folder / "d.dcm")
    # The same pixels of somebody else, and a view of its own.
    save(make_dataset(make_breast(0), PatientID="B"), folder / "e.dcm")
    save(make_dataset(make_breast(2), PatientID="A", **study), folder / "f.dcm")
    # The same pixels as another view: the header contradicts the copy.
    other = make_dataset(make_breast(2), PatientID="A", ViewPosition="MLO", **study)
    save(other, folder / "g.dcm")
    assert run_predict(f"--model={model[0]}", f"--out={out}", folder) == 3
    (breast,) = read_table(out / "breasts.csv").values()
    assert breast["images"] == "3"
    problems = read_table(out / "problems.csv")
    assert [Path(name).name for name in problems] == ["b.dcm", "c.dcm", "d.dcm"]
    assert len(read_table(out / "patients.csv")) == 2


def test_examinations_have_scores_of_their_own(model, tmp_path):
    for seed, (study, side) in enumerate([("1", "L"), ("1", "R"), ("2", "L")]):
        write_dicom(
            tmp_path / "in" / f"{seed}.dcm",
            make_breast(seed),
            PatientID="A",
            StudyInstanceUID=f"1.2.{study}",
            ImageLaterality=side,
        )
    out = tmp_path / "out"
    assert run_predict(f"--model={model[0]}", f"--out={out}", tmp_path / "in") == 0
    images = read_scores(out / "predictions.csv")
    assert read_scores(out / "exams.csv") == {
        "case_0001_exam_1_LEFT": images["case_0001_LEFT"],
        "case_0001_exam_1_RIGHT": images["case_0001_RIGHT"],
        "case_0001_exam_2_LEFT": images["case_0001_LEFT_2"],
    }
