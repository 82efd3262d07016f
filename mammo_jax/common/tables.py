"""CSV tables, each cell checked; whatever is wrong names the row and the column."""

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mammo_jax.common.errors import UserError
from mammo_jax.common.files import replace_file

# A table of a million images is some 60 MB; more is no table of images.
MAX_BYTES = 256 << 20
MAX_ROWS = 1_000_000
_SHOWN = 40


class Column(NamedTuple):
    """Rule for the cells of a column.

    Attributes:
      parse: returns a cell's value; a ValueError or KeyError refuses the cell.
      expected: the rule in words.
      needed: True if the column must be there; a missing one has empty cells.
      shown: True if a refused cell is quoted; False where it could be a patient's name.
    """

    parse: Callable[[str], Any]
    expected: str
    needed: bool = True
    shown: bool = True


def text_column(pattern: str, *, needed: bool = True) -> Column:
    """Makes the rule that cells match a pattern, or are empty if not needed."""

    def parse(cell: str) -> str:
        if (cell or needed) and not re.fullmatch(pattern, cell):
            raise ValueError
        return cell

    choices = pattern.split("|") if needed else [*pattern.split("|"), ""]
    *first, last = (choice or "empty" for choice in choices)
    expected = f"{', '.join(first)} or {last}" if first else last
    return Column(parse, expected, needed)


def read_cells(
    path: Path, *, remedy: str, delimiter: str = ","
) -> tuple[list[str], list[list[str]]]:
    """Reads a table's first row and the others as they stand, cells not stripped.

    Args:
      path: the table, in UTF-8.
      remedy: advice for a missing table.
      delimiter: character between cells.

    Raises:
      UserError: the table is missing, too large or not such text.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such table; {remedy}")
    if path.stat().st_size > MAX_BYTES:
        raise UserError(
            f"{path}: larger than {MAX_BYTES >> 20} MiB, far too large for a table of "
            "images"
        )
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            rows = list(_bounded(path, reader))
        if not rows:
            raise csv.Error("it is empty")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"{path}: not a CSV table in UTF-8 ({error}); save or download it again"
        ) from error
    return rows[0], rows[1:]


def _bounded(path: Path, rows: Iterable[list[str]]) -> Iterator[list[str]]:
    for number, row in enumerate(rows):
        if number > MAX_ROWS:
            raise UserError(f"{path}: more than {MAX_ROWS} rows")
        yield row


def read_table(
    path: Path, columns: Mapping[str, Column], *, remedy: str, delimiter: str = ","
) -> list[tuple[int, dict[str, Any]]]:
    """Reads the rows that are not empty, each with its number; the header is row 1.

    The columns may be in any order; others are left out.

    Args:
      path: the table.
      columns: what is read, by name; capitals and underscores for spaces count as
        the same.
      remedy: see `read_cells`.
      delimiter: character between cells.

    Raises:
      UserError: as `read_cells`; a missing or repeated column, a row of
        another length, a cell that is not what its column says.
    """
    header, lines = read_cells(path, remedy=remedy, delimiter=delimiter)
    names = [_spelling(cell) for cell in header]
    for name, column in columns.items():
        if column.needed and _spelling(name) not in names:
            raise UserError(f"{path}: row 1: column {name!r} is missing; {remedy}")
        if names.count(_spelling(name)) > 1:
            raise UserError(f"{path}: row 1: column {name!r} is there twice")
    rows = []
    for number, line in enumerate(lines, start=2):
        cells = [cell.strip() for cell in line]
        if not any(cells):
            continue
        if len(cells) < len(names) or any(cells[len(names) :]):
            raise UserError(
                f"{path}: row {number}: {len(cells)} cells, but the header has "
                f"{len(names)}"
            )
        given = dict(zip(names, cells, strict=False))
        row = {
            name: _parse(path, number, name, column, given.get(_spelling(name), ""))
            for name, column in columns.items()
        }
        rows.append((number, row))
    return rows


def _spelling(name: str) -> str:
    """Returns a column's name as it is compared: public sets write it in two ways."""
    return name.strip().lower().replace("_", " ")


def _parse(path: Path, number: int, name: str, column: Column, cell: str) -> Any:
    try:
        return column.parse(cell)
    except (ValueError, KeyError):
        short = cell if len(cell) <= _SHOWN else f"{cell[:_SHOWN]}..."
        shown = repr(short) if column.shown else "the cell"
        raise UserError(
            f"{path}: row {number}, column {name!r}: {shown} is not {column.expected}"
        ) from None


def write_table(
    path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
    """Writes a CSV table, whole or not at all; its directory is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        replace_file(path) as partial,
        # Names of files may hold bytes that are no UTF-8.
        partial.open(
            "w", newline="", encoding="utf-8", errors="surrogateescape"
        ) as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
