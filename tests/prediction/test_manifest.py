"""Images of a labelled table, and what `evaluate` makes of them."""

import csv
import json
from pathlib import Path

import pytest
from predicting import make_breast, read_scores, read_table, run_predict
from raw_files import write_dicom

from mammo_jax import evaluate
from mammo_jax.common.errors import UserError
from mammo_jax.datasets.manifest import read_views

HEADER = ("path", "patient_id", "laterality", "view", "label")


def _write(folder: Path, rows: list[tuple[str, ...]]) -> Path:
    table = folder / "manifest.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([HEADER, *rows])
    return table


@pytest.fixture
def table(tmp_path) -> Path:
    """Three patients with two views each; the headers know one patient and one side."""
    rows = []
    for number in range(6):
        patient, view = f"P{number // 2}", ("CC", "MLO")[number % 2]
        path = tmp_path / "in" / f"{number}.dcm"
        write_dicom(path, make_breast(number), PatientID="X", ImageLaterality="L")
        rows.append((path.name, patient, "LEFT", view, str(int(number < 2))))
    return _write(tmp_path / "in", rows)


def test_patients_and_labels_of_a_manifest_reach_the_evaluation(
    model, table, tmp_path, capsys
):
    out = tmp_path / "out"
    command = (f"--model={model[0]}", f"--manifest={table}", f"--out={out}")
    assert run_predict(*command) == 0
    rows = read_table(out / "predictions.csv")
    assert [*rows][:3] == ["P0_LEFT_CC", "P0_LEFT_MLO", "P1_LEFT_CC"]
    assert [row["malignant_label"] for row in rows.values()] == [*"110000"]
    assert [row["view"] for row in rows.values()] == ["CC", "MLO"] * 3
    patients = read_table(out / "patients.csv")
    assert {name: row["malignant_label"] for name, row in patients.items()} == {
        **{"P0": "1", "P1": "0", "P2": "0"}
    }
    options = [f"--predictions={out / 'predictions.csv'}", f"--out={tmp_path / 'e'}"]
    evaluate.main(evaluate.parse_arguments(options))
    figures = json.loads((tmp_path / "e" / "metrics.json").read_text())
    assert (figures["images"], figures["patients"], figures["malignant"]) == (6, 3, 2)
    # The same again, though its tables have labels; with changed ones not.
    assert run_predict(*command) == 0
    text = (out / "predictions.csv").read_text()
    (out / "predictions.csv").write_text(text.replace(",1,P0", ",0,P0"))
    assert run_predict(*command) == 1
    assert "has been filled in or changed" in capsys.readouterr().err


def test_a_header_that_contradicts_the_manifest_is_a_problem(model, tmp_path):
    folder = tmp_path / "in"
    headers = [("L", "CC"), ("R", "CC"), ("L", "MLO"), ("", ""), ("L", "ML")]
    rows = []
    for number, (side, view) in enumerate(headers):
        pixels = make_breast(number)
        path = folder / f"{number}.dcm"
        write_dicom(path, pixels, ImageLaterality=side, ViewPosition=view)
        own = "MLO" if view == "ML" else "CC"
        rows.append((path.name, f"P{number}", "LEFT", own, "0"))
    rows += [("gone.dcm", "P7", "LEFT", "CC", "1"), ("0.dcm", "P8", "LEFT", "x", "1")]
    table, out = _write(folder, rows), tmp_path / "out"
    command = (f"--model={model[0]}", f"--manifest={table}", f"--out={out}")
    assert run_predict(*command) == 3
    assert [*read_scores(out / "predictions.csv")] == [
        *("P0_LEFT_CC", "P3_LEFT_CC", "P4_LEFT_MLO")
    ]
    problems = [row["problem"] for row in read_table(out / "problems.csv").values()]
    said = "{} in the table and {} in the file's header; correct"
    assert any(said.format("LEFT", "RIGHT") in problem for problem in problems)
    assert any(said.format("CC", "MLO") in problem for problem in problems)
    assert any("no such file" in problem for problem in problems)
    assert any("row 8, column 'view'" in problem for problem in problems)
    assert len(problems) == 4


def test_odd_rows_reach_the_page_as_a_number_alone(model, table, tmp_path):
    with table.open("a") as file:
        file.write("SMITH/jane.dcm,P7,LEFT,JaneSmith,1\n../JANE.dcm,P8,LEFT,CC,1\n")
    out = tmp_path / "out"
    command = (f"--model={model[0]}", f"--manifest={table}", f"--out={out}")
    assert run_predict(*command) == 3
    assert "JaneSmith" in (out / "problems.csv").read_text()
    page = (out / "report.html").read_text()
    assert "a row of the table cannot be used" in page
    assert "jane" not in page.lower()
    assert str(tmp_path) not in page


def test_results_of_removed_rows_are_removed(model, table, tmp_path):
    out = tmp_path / "out"
    options = (f"--model={model[0]}", f"--manifest={table}", f"--out={out}")
    assert run_predict(*options, "--dicom") == 0
    lines = table.read_text().splitlines()
    table.write_text("\n".join(lines[:-2]))
    assert run_predict(*options) == 0
    assert read_scores(out / "predictions.csv")
    assert not [path for path in out.rglob("*") if path.name.startswith("P2")]
    assert not (out / "dicom").exists()


def test_regions_beside_a_manifest_are_no_matter_of_scoring(model, table, tmp_path):
    # They may be of images that another table lists.
    rois = "path,class,circle\nelsewhere.dcm,mass_benign,5 5 2\n"
    table.with_name("rois.csv").write_text(rois)
    command = (f"--model={model[0]}", f"--manifest={table}", f"--out={tmp_path / 'o'}")
    assert run_predict(*command) == 0
    other = table.rename(table.with_name("hospital.csv"))
    with pytest.raises(UserError, match=r"is not in hospital\.csv"):
        read_views(other)


def test_a_manifest_without_a_usable_row_is_refused(model, tmp_path, capsys):
    table = _write(tmp_path, [])
    command = (f"--model={model[0]}", f"--manifest={table}", f"--out={tmp_path / 'o'}")
    assert run_predict(*command) == 1
    assert "lists no image" in capsys.readouterr().err
    with pytest.raises(UserError, match="no such table"):
        read_views(tmp_path / "other")
