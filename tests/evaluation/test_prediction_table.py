"""Prediction tables: written, read back, refused, averaged."""

import csv
import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mammo_jax.common import tables
from mammo_jax.common.errors import UserError
from mammo_jax.evaluation import prediction_table
from mammo_jax.evaluation.prediction_table import align, mean_table, read_table
from mammo_jax.evaluation.predictions import (
    COLUMNS,
    DETAIL_COLUMNS,
    Predictions,
    write_predictions,
)

HEADER = ",".join(COLUMNS)
GOOD = ("P_1_LEFT_CC,0.25,0,P_1,LEFT,CC", "P_2_LEFT_CC,0.75,1,P_2,LEFT,CC")


def _write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _mean(paths: list[Path]) -> prediction_table.PredictionTable:
    return mean_table([read_table(path) for path in paths])


def _predictions(details: dict[str, np.ndarray] | None) -> Predictions:
    malignant = np.array([0.123456789, 1.0, 0.0], np.float32)
    return Predictions(
        image_ids=("P_1_LEFT_CC", "P_1_LEFT_MLO", "P_2_RIGHT_CC"),
        patient_ids=("P_1", "P_1", "P_2"),
        lateralities=("LEFT", "LEFT", "RIGHT"),
        views=("CC", "MLO", "CC"),
        probabilities=np.stack([1 - malignant, malignant], 1),
        labels=np.array([0, 1, 0]),
        losses=np.zeros(3),
        malignant_classes=(1,),
        details=details,
    )


DETAILS = {
    "breast_density": np.array([3, 0, 1]),
    "abnormality_types": np.array(["calc;mass", "", "mass"]),
    "lesion_size": np.array([0.5, 0, 1]),
}


def test_what_is_written_is_read_back(tmp_path):
    predictions = _predictions(DETAILS)
    write_predictions(tmp_path / "new" / "test.csv", predictions)
    table = read_table(tmp_path / "new" / "test.csv")
    for field in ("image_ids", "patient_ids", "lateralities", "views"):
        assert getattr(table, field) == getattr(predictions, field)
    np.testing.assert_array_equal(
        table.scores.astype(np.float32), predictions.malignant_score
    )
    assert table.labels.tolist() == [0, 1, 0]
    assert table.breast_densities.tolist() == [3, 0, 1]
    assert table.abnormality_types == ("calc;mass", "", "mass")
    np.testing.assert_array_equal(table.lesion_sizes, [0.5, math.nan, 1])


def test_patches_have_six_columns_and_whole_images_nine(tmp_path):
    for details, columns in ((None, COLUMNS), (DETAILS, COLUMNS + DETAIL_COLUMNS)):
        path = tmp_path / "table.csv"
        write_predictions(path, _predictions(details))
        with open(path, newline="") as file:
            rows = list(csv.reader(file))
        assert tuple(rows[0]) == columns
        assert {len(row) for row in rows} == {len(columns)}
    assert rows[2][-3:] == ["", "", ""]


def test_empty_cells_behind_the_last_column_do_not_matter(tmp_path):
    path = _write(tmp_path / "table.csv", HEADER, GOOD[0] + ",,", GOOD[1])
    assert len(read_table(path).image_ids) == 2


def test_order_further_columns_and_a_byte_order_mark_do_not_matter(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(
        "\ufeffview,malignant_pred,note,malignant_label,image_index,patient_id,"
        "laterality\r\nCC,1e-3,a b,1,x,p,\r\n\r\n",
        encoding="utf-8",
    )
    table = read_table(path)
    assert (table.image_ids, table.scores.tolist()) == (("x",), [0.001])
    assert table.lateralities == ("",)


REFUSED = {
    "no rows": ([HEADER], "has no rows"),
    "no header": ([], "row 1: column 'image_index' is missing"),
    "columns": (
        ["image_index,malignant_pred,view"],
        "column 'malignant_label' is miss",
    ),
    "twice a column": (
        [HEADER + ",view", GOOD[0] + ",CC"],
        "column 'view' is there tw",
    ),
    "twice an image": ([HEADER, *GOOD, GOOD[0]], "row 4.*also in row 2"),
    "nan": (
        [HEADER, "a,nan,0,p,LEFT,CC"],
        "row 2, column 'malignant_pred': 'nan' is not .*0 to 1",
    ),
    "infinite": ([HEADER, "a,inf,0,p,LEFT,CC"], "'malignant_pred': 'inf'"),
    "above 1": (
        [HEADER, *GOOD, "a,1.01,0,p,LEFT,CC"],
        "row 4, column 'malignant_pred'",
    ),
    "below 0": ([HEADER, "a,-0.1,0,p,LEFT,CC"], "'malignant_pred': '-0.1'"),
    "underscore": ([HEADER, "a,0.1_1,0,p,LEFT,CC"], "'malignant_pred': '0.1_1'"),
    "another script": ([HEADER, "a,\u0660.\u0665,0,p,LEFT,CC"], "'malignant_pred'"),
    "no number": ([HEADER, "a,high,0,p,LEFT,CC"], "'malignant_pred': 'high'"),
    "no score": ([HEADER, "a,,0,p,LEFT,CC"], "'malignant_pred': ''"),
    "label": ([HEADER, "a,0.1,2,p,LEFT,CC"], "'malignant_label': '2' is not 0 or 1"),
    "no label": ([HEADER, "a,0.1,,p,LEFT,CC"], "'malignant_label': ''"),
    "no id": ([HEADER, ",0.1,0,p,LEFT,CC"], "'image_index': ''"),
    "no patient": ([HEADER, "a,0.1,0,,LEFT,CC"], "'patient_id': ''"),
    "laterality": (
        [HEADER, "a,0.1,0,p,up,CC"],
        "'laterality': 'up' is not LEFT, RIGHT or empty",
    ),
    "view": ([HEADER, "a,0.1,0,p,LEFT,ML"], "'view': 'ML'"),
    "cells": ([HEADER, "a,0.1,0,p,LEFT"], "row 2: 5 cells, but the header has 6"),
    "more cells": ([HEADER, GOOD[0] + ",x"], "row 2: 7 cells, but the header has 6"),
    "long id": (
        [HEADER, f"{'a' * 300},0.1,0,p,LEFT,CC"],
        r"'a+\.\.\.' is not an id of 1 to",
    ),
    "quotes": ([HEADER, 'a,"0.1,0,p,LEFT,CC'], "not a CSV table"),
    "density": (
        [HEADER + ",breast_density", GOOD[0] + ",5"],
        "'breast_density': '5' is not 1 to 4 or empty",
    ),
    "types": (
        [HEADER + ",abnormality_types", GOOD[0] + ",cyst"],
        "'cyst' is not calc, mass, calc;mass or empty",
    ),
    "size": ([HEADER + ",lesion_size", GOOD[0] + ",-1"], "'lesion_size': '-1'"),
    "huge size": ([HEADER + ",lesion_size", GOOD[0] + ",inf"], "'lesion_size': 'inf'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_damaged_table_is_refused_with_its_place(case, tmp_path):
    lines, message = REFUSED[case]
    path = _write(tmp_path / "table.csv", *lines)
    with pytest.raises(UserError, match=message) as refusal:
        read_table(path)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "content", [b"\xff\xfe\x00", b"\x89PNG\r\n\x1a\n\x00\x00", b"a\x00b\n1\n"]
)
def test_another_kind_of_file_is_refused(content, tmp_path):
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"not a CSV table|is missing"):
        read_table(path)


@given(st.binary(max_size=200))
def test_whatever_a_file_holds_it_is_read_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "fuzzed.csv"
    path.write_bytes(HEADER.encode() + b"\n" + content)
    try:
        table = read_table(path)
    except UserError:
        return
    assert ((table.scores >= 0) & (table.scores <= 1)).all()


def test_no_file_a_directory_and_too_large_ones_are_refused(tmp_path, monkeypatch):
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(UserError, match="no such table; a prediction table starts"):
            read_table(path)
    path = _write(tmp_path / "table.csv", HEADER, *GOOD)
    monkeypatch.setattr(tables, "MAX_ROWS", 1)
    with pytest.raises(UserError, match="more than 1 rows"):
        read_table(path)
    monkeypatch.setattr(tables, "MAX_BYTES", 10)
    with pytest.raises(UserError, match="larger than"):
        read_table(path)


def test_several_tables_are_averaged_by_image(tmp_path):
    first = _write(tmp_path / "a.csv", HEADER, *GOOD)
    other = [line.replace("0.25", "0.75").replace("0.75,1", "0.5,1") for line in GOOD]
    second = _write(tmp_path / "b.csv", HEADER, *reversed(other))
    table = _mean([first, second])
    assert table.image_ids == ("P_1_LEFT_CC", "P_2_LEFT_CC")
    assert table.scores.tolist() == [0.5, 0.625]
    assert table.name == f"{first}, {second}"


def test_tables_of_other_images_are_refused(tmp_path):
    first = _write(tmp_path / "a.csv", HEADER, *GOOD)
    second = _write(tmp_path / "b.csv", HEADER, GOOD[0])
    for paths in ([first, second], [second, first]):
        with pytest.raises(UserError, match=r"a\.csv only \(P_2_LEFT_CC\)"):
            _mean(paths)


def test_of_many_missing_images_a_few_are_named(tmp_path):
    lines = [f"image{n},0.5,0,p{n},LEFT,CC" for n in range(9)]
    first = _write(tmp_path / "a.csv", HEADER, *lines)
    second = _write(tmp_path / "b.csv", HEADER, *GOOD)
    with pytest.raises(UserError, match=r"no image in common \(P_1.* different splits"):
        _mean([first, second])
    second = _write(tmp_path / "b.csv", HEADER, *GOOD, lines[8])
    with pytest.raises(UserError, match=r"8 of 9 .*image0, image1, image2 and 5 more"):
        _mean([first, second])


@pytest.mark.parametrize(
    ("change", "field"), [(("1,P_2", "0,P_2"), "label"), ((",P_2", ",P_9"), "patient")]
)
def test_tables_that_disagree_on_an_image_are_refused(tmp_path, change, field):
    first = _write(tmp_path / "a.csv", HEADER, *GOOD)
    second = _write(tmp_path / "b.csv", HEADER, GOOD[0], GOOD[1].replace(*change))
    with pytest.raises(UserError, match=f"disagree on the {field}.* of P_2_LEFT_CC"):
        _mean([first, second])


@given(st.permutations(range(5)))
def test_aligning_undoes_any_order(order):
    table = prediction_table.PredictionTable(
        name="t",
        image_ids=tuple("abcde"),
        scores=np.arange(5) / 4,
        labels=np.array([0, 1, 0, 1, 1]),
        patient_ids=tuple("vwxyz"),
        lateralities=("LEFT",) * 5,
        views=("CC",) * 5,
        breast_densities=np.arange(5),
        abnormality_types=("calc",) * 5,
        lesion_sizes=np.arange(5) / 10,
    )
    back = align(prediction_table.take(table, order), table)
    for field in dataclasses.fields(table):
        found, expected = getattr(back, field.name), getattr(table, field.name)
        np.testing.assert_array_equal(found, expected)
