"""Tables of breasts and patients."""

import numpy as np
import pytest
from predicting import read_scores, read_table, run_predict


def test_breasts_and_patients_have_the_mean_and_the_highest(model, folder, tmp_path):
    out = tmp_path / "out"
    assert run_predict(f"--model={model[0]}", f"--out={out}", folder) == 0
    scores = read_scores(out / "predictions.csv")
    pair = [scores["case_0001_LEFT_CC"], scores["case_0001_LEFT_MLO"]]
    for table, name in (("breasts", "case_0001_LEFT"), ("patients", "case_0001")):
        row = read_table(out / f"{table}.csv")[name]
        assert float(row["malignant_pred"]) == pytest.approx(np.mean(pair))
        assert float(row["malignant_max"]) == pytest.approx(max(pair))
        assert row["images"] == "2"
    # A picture has no laterality: it is of a patient and of no breast.
    assert [*read_table(out / "breasts.csv")] == ["case_0001_LEFT", "case_0002_RIGHT"]
    assert [*read_table(out / "patients.csv")] == [
        "case_0001",
        "case_0002",
        "case_0003",
    ]


@pytest.mark.parametrize("name", ["predictions.csv", "breasts.csv", "patients.csv"])
def test_tables_with_labels_filled_in_are_not_replaced(
    model, folder, tmp_path, capsys, name
):
    out = tmp_path / "out"
    command = (f"--model={model[0]}", f"--out={out}", folder)
    assert run_predict(*command) == 0
    header, first, *others = (out / name).read_text().splitlines()
    labelled = "\n".join([header, first.replace(",,", ",1,", 1), *others]) + "\n"
    # As other programs save it: with semicolons.
    for filled in (labelled, labelled.replace(",", ";")):
        (out / name).write_text(filled)
        before = {path: path.read_bytes() for path in out.rglob("*.*")}
        assert run_predict(*command) == 1
        assert f"{out / name} has been filled in" in capsys.readouterr().err
        assert before == {path: path.read_bytes() for path in out.rglob("*.*")}
