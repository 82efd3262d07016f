"""Writes what a benchmark printed into a page of the documentation."""

from pathlib import Path

from mammo_jax.errors import UserError


def write_between_markers(path: Path, name: str, text: str) -> None:
    """Replaces what is between `<!-- NAME -->` and `<!-- end of NAME -->` in a file.

    Raises:
      UserError: the file has no such lines.
    """
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
    whole = path.read_text(encoding="utf-8")
    before, found, rest = whole.partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found and found_end):
        raise UserError(
            f"{path} has no lines {begin.strip()!r} and {end.strip()!r}; write them "
            "where the table is to be"
        )
    path.write_text(f"{before}{begin}{text}{end}{after}", encoding="utf-8")
