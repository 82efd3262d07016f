"""Files that are whole or not there."""

import pytest

from mammo_jax.common.errors import UserError
from mammo_jax.common.files import replace_file, whole_folder


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


def test_a_folder_is_there_when_all_is_in_it(tmp_path):
    with whole_folder(tmp_path / "deep" / "out") as partial:
        (partial / "a").write_text("a")
        assert not (tmp_path / "deep" / "out").exists()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]
    assert (tmp_path / "deep" / "out" / "a").read_text() == "a"


def _fail_in(folder, error) -> None:
    with whole_folder(folder) as partial:
        (partial / "a").write_text("half")
        raise error


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (UserError("bad"), "bad"),
        (OSError(28, "No space left on device"), "cannot be written: No space left"),
    ],
)
def test_of_a_folder_that_fails_nothing_is_left(tmp_path, error, raised):
    with pytest.raises(UserError, match=raised):
        _fail_in(tmp_path / "deep" / "out", error)
    assert [*tmp_path.iterdir()] == []


def test_a_folder_of_others_stays_as_it_is(tmp_path):
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(UserError, match="not empty"), whole_folder(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert [path.name for path in tmp_path.parent.glob(".*partial*")] == []
