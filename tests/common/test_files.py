"""Files that are whole or not there."""

import pytest

from mammo_jax.common.files import replace_file


def test_the_new_content_takes_the_place_of_the_old(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with replace_file(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["table.csv"]


def _fail(path) -> None:
    with replace_file(path) as partial:
        partial.write_text("half")
        raise KeyboardInterrupt


def test_a_failure_leaves_what_was_there(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        _fail(path)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["table.csv"]


def test_a_folder_that_is_not_there_is_the_error(tmp_path):
    with (
        pytest.raises(FileNotFoundError, match="none"),
        replace_file(tmp_path / "none" / "table.csv") as partial,
    ):
        partial.write_text("new")
