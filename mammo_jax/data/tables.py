"""CSV tables, each cell checked; whatever is wrong names the row and the column."""

import csv
import re
from collections.abc import Mapping
from pathlib import Path

from mammo_jax.errors import UserError

_MAX_TABLE_BYTES = 256 << 20


def read_cells(
    path: Path, *, remedy: str, delimiter: str = ","
) -> tuple[list[str], list[list[str]]]:
    """The first row and the others as they stand in a table, cells not stripped.

    Args:
      path: the table, in UTF-8.
      remedy: what to do if it is missing.
      delimiter: between cells.

    Raises:
      UserError: the table is missing, too large or not such text.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such table; {remedy}")
    if path.stat().st_size > _MAX_TABLE_BYTES:
        raise UserError(f"{path}: far too large for a table of images")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header, *rows = list(csv.reader(file, delimiter=delimiter))
    except (UnicodeDecodeError, csv.Error, ValueError) as error:
        raise UserError(
            f"{path}: not a CSV table in UTF-8 ({error}); save or download it again"
        ) from error
    return header, rows


def read_table(
    path: Path,
    columns: Mapping[str, tuple[str, bool]],
    *,
    remedy: str,
    delimiter: str = ",",
) -> list[tuple[int, dict[str, str]]]:
    """The rows that are not empty, each with its number; the header is row 1.

    Args:
      path: the table.
      columns: name in small letters to the pattern that all of a cell must match, and
        whether the column must be there. Cells of a column that may be missing may be
        empty; other columns are left out.
      remedy: see `read_cells`.
      delimiter: between cells.

    Raises:
      UserError: what `read_cells` raises, a missing column, a cell that does not match.
    """
    header, lines = read_cells(path, remedy=remedy, delimiter=delimiter)
    names = [cell.strip().lower() for cell in header]
    for name, (_, needed) in columns.items():
        if needed and name not in names:
            raise UserError(f"{path}: row 1: column {name!r} is missing")
    rows = []
    for number, cells in enumerate(lines, start=2):
        if not any(cell.strip() for cell in cells):
            continue
        given = dict(zip(names, (cell.strip() for cell in cells), strict=False))
        row = {name: given.get(name, "") for name in columns}
        for name, (pattern, needed) in columns.items():
            if (needed or row[name]) and not re.fullmatch(pattern, row[name]):
                raise UserError(
                    f"{path}: row {number}, column {name!r}: {row[name][:40]!r} is not"
                    f" {pattern.replace('|', ', ')}"
                )
        rows.append((number, row))
    return rows
