"""Writes what a benchmark printed into a page of the documentation."""

from pathlib import Path

from mammo_jax.common.errors import UserError


def split_at_markers(path: Path, name: str) -> tuple[str, str]:
    """A file up to and with `<!-- NAME -->`, and from `<!-- end of NAME -->` on.

    Raises:
      UserError: the file has no such lines.
    """
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
    before, found, rest = path.read_text(encoding="utf-8").partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found and found_end):
        raise UserError(
            f"{path} has no lines {begin.strip()!r} and {end.strip()!r}; write them "
            "where the table is to be"
        )
    return before + begin, end + after


def write_between_markers(path: Path, name: str, text: str) -> None:
    """Replaces what is between the markers, see `split_at_markers`."""
    before, after = split_at_markers(path, name)
    path.write_text(f"{before}{text}{after}", encoding="utf-8")
