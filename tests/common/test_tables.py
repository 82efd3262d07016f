"""Tables as people have them: what is certain is read, the rest is named."""

import pytest

from mammo_jax.common.errors import UserError
from mammo_jax.common.tables import (
    LABEL,
    LATERALITY,
    Column,
    read_table,
    text_column,
)

COLUMNS = {
    "file name": text_column(r".+"),
    "side": LATERALITY,
    "label": LABEL,
    "score": Column(float, "a number"),
}
ROWS = [["a.png", "L", "1", "0.5"], ["b.png", "RIGHT", "0", "2"]]
VALUES = [
    {"file name": "a.png", "side": "LEFT", "label": 1, "score": 0.5},
    {"file name": "b.png", "side": "RIGHT", "label": 0, "score": 2.0},
]


def text(separator=",", header="file name,side,label,score", rows=ROWS):
    lines = [header.replace(",", separator), *map(separator.join, rows)]
    return "\r\n".join(lines)


def values(path, odd_rows=None):
    rows = read_table(path, COLUMNS, remedy="write one", odd_rows=odd_rows)
    return [row for _, row in rows]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_separators_and_marks_of_spreadsheets_are_read(tmp_path, separator, encoding):
    path = tmp_path / "t.csv"
    path.write_text(text(separator), encoding=encoding, newline="")
    assert values(path) == VALUES


def test_columns_are_named_in_either_spelling(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(text(header="File_Name,SIDE,Label,score "))
    assert values(path) == VALUES


@pytest.mark.parametrize(
    ("cell", "label"),
    [("1.0", 1), ("0.0", 0), ("True", 1), ("false", 0), ("TRUE", 1), ("1", 1)],
)
def test_labels_however_a_program_writes_them(tmp_path, cell, label):
    path = tmp_path / "t.csv"
    path.write_text(text(rows=[["a.png", "left", cell, "1"]]))
    assert values(path)[0]["label"] == label
    assert values(path)[0]["side"] == "LEFT"


def test_decimal_commas_are_read_where_semicolons_separate(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(text(";", rows=[["a,b.png", "L", "1,0", "0,25"]]))
    (row,) = values(path)
    assert row == {"file name": "a,b.png", "side": "LEFT", "label": 1, "score": 0.25}


def test_a_quoted_decimal_comma_between_commas_is_refused(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(text(rows=[["a.png", "L", "1", '"1,234"']]))
    with pytest.raises(UserError, match="column 'score': '1,234' is not a number"):
        values(path)


def test_an_unknown_separator_is_named(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(text("|"))
    with pytest.raises(UserError, match=r"separated by '\|'\?"):
        values(path)


def test_odd_rows_are_set_aside_and_a_broken_header_is_not(tmp_path):
    path = tmp_path / "t.csv"
    rows = [ROWS[0], ["b.png", "up", "0", "1"], ["c.png", "L", "1"], ROWS[1]]
    path.write_text(text(rows=rows))
    odd = []
    assert values(path, odd) == VALUES
    assert [(row.number, row.reason) for row in odd] == [
        (3, "row 3, column 'side': 'up' is not LEFT or RIGHT"),
        (4, "row 4: 3 cells, but the header has 4"),
    ]
    assert odd[0].cells["file name"] == "b.png"
    with pytest.raises(UserError, match="row 3, column 'side'"):
        values(path)
    path.write_text(text(header="file name,side,lable,score"))
    with pytest.raises(UserError, match="column 'label' is missing"):
        values(path, [])
