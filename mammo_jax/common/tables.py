"""CSV tables, each cell checked; whatever is wrong names the row and the column."""

import contextlib
import csv
import errno
import io
import itertools
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mammo_jax.common.errors import UserError
from mammo_jax.common.files import replace_file

# A table of a million images is some 60 MB; more is no table of images.
MAX_BYTES = 256 << 20
MAX_ROWS = 1_000_000
_SHOWN = 40
_DELIMITERS = (",", ";", "\t")


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


def word_column(words: Mapping[str, Any], expected: str) -> Column:
    """Describes cells that hold one of some words, in small or capital letters."""
    return Column(lambda cell: words[cell.upper()], expected)


LABEL = word_column(
    {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "FALSE": 0, "TRUE": 1}, "0 or 1"
)
LATERALITY = word_column(
    {"L": "LEFT", "LEFT": "LEFT", "R": "RIGHT", "RIGHT": "RIGHT"}, "LEFT or RIGHT"
)


class OddRow(NamedTuple):
    """A row that cannot be understood.

    Attributes:
      number: number of the row; the header is row 1.
      reason: the fault, for the user to read.
      cells: its cells by the columns' names, as far as there are any.
    """

    number: int
    reason: str
    cells: Mapping[str, str]


def read_cells(path: Path, *, remedy: str) -> tuple[list[str], list[list[str]], str]:
    """Reads a table's first row, the others and the delimiter; cells not stripped.

    Args:
      path: the table, in UTF-8, or in UTF-16 with its mark; between the cells are
        commas, semicolons or tabulators, whichever the first row has most of.
      remedy: the way out if it is missing.

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
        with path.open("rb") as binary:
            is_utf16 = binary.read(2) in (b"\xff\xfe", b"\xfe\xff")
        encoding = "utf-16" if is_utf16 else "utf-8-sig"
        with path.open(newline="", encoding=encoding) as file:
            first = file.readline()
            delimiter = max(_DELIMITERS, key=first.count)
            lines = itertools.chain([first] if first else [], file)
            reader = csv.reader(lines, delimiter=delimiter, strict=True)
            rows = list(itertools.islice(reader, MAX_ROWS + 2))
        if not rows:
            raise csv.Error("it is empty")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (UnicodeError, csv.Error) as error:
        raise UserError(
            f"{path}: not a CSV table in UTF-8 ({error}); save or download it again"
        ) from error
    if len(rows) > MAX_ROWS + 1:
        raise UserError(f"{path}: more than {MAX_ROWS} rows")
    return rows[0], rows[1:], delimiter


def read_table(
    path: Path,
    columns: Mapping[str, Column],
    *,
    remedy: str,
    odd_rows: list[OddRow] | None = None,
) -> list[tuple[int, dict[str, Any]]]:
    """Reads the rows that are not empty, each with its number; the header is row 1.

    The columns may be in any order; others are left out.

    Args:
      path: the table.
      columns: columns to read, by name; capitals and underscores for spaces count as
        the same.
      remedy: see `read_cells`.
      odd_rows: gets the rows that cannot be understood; None if they are errors.

    Raises:
      UserError: what `read_cells` raises, a missing or repeated column; without
        `odd_rows` also a row of another length, a cell that is not what its column
        says.
    """
    header, lines, delimiter = read_cells(path, remedy=remedy)
    names = [spelling(cell) for cell in header]
    for name, column in columns.items():
        if column.needed and spelling(name) not in names:
            # One long cell: something else may stand between the names.
            alone = header[0] if len(header) == 1 else ""
            other = re.search(r"\w\s*([^\w\s.-])\s*\w", alone)
            hint = f" (separated by {other[1]!r}?)" if other else ""
            raise UserError(
                f"{path}: row 1: column {name!r} is missing{hint}; {remedy}"
            )
        if names.count(spelling(name)) > 1:
            raise UserError(f"{path}: row 1: column {name!r} is there twice")
    rows = []
    for number, line in enumerate(lines, start=2):
        cells = [cell.strip() for cell in line]
        if not any(cells):
            continue
        given = dict(zip(names, cells, strict=False))
        own = {name: given.get(spelling(name), "") for name in columns}
        try:
            if len(cells) < len(names) or any(cells[len(names) :]):
                raise ValueError(f"{len(cells)} cells, but the header has {len(names)}")
            row = {
                name: _parse(name, column, own[name], delimiter)
                for name, column in columns.items()
            }
        except ValueError as error:
            separator = ": " if len(cells) != len(names) else ", "
            reason = f"row {number}{separator}{error}"
            if odd_rows is None:
                raise UserError(f"{path}: {reason}") from None
            odd_rows.append(OddRow(number, reason, own))
        else:
            rows.append((number, row))
    return rows


def spelling(name: str) -> str:
    """Returns a column's name as it is compared: public sets write it in two ways."""
    return name.strip().lower().replace("_", " ")


def _parse(name: str, column: Column, cell: str, delimiter: str) -> Any:
    # A comma is a decimal one if something else stands between the cells.
    spellings = [cell]
    if delimiter != "," and re.fullmatch(r"[-+]?\d+,\d+(e[-+]?\d+)?", cell.lower()):
        spellings.append(cell.replace(",", "."))
    for spelling in spellings:
        with contextlib.suppress(ValueError, KeyError):
            return column.parse(spelling)
    short = cell if len(cell) <= _SHOWN else f"{cell[:_SHOWN]}..."
    shown = repr(short) if column.shown else "the cell"
    raise ValueError(f"column {name!r}: {shown} is not {column.expected}")


def write_table(
    path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
    """Writes a CSV table, whole or not at all; its directory is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replace_file(path) as partial:
        partial.write_bytes(table_bytes(itertools.chain([header], rows)))


def table_bytes(rows: Iterable[Sequence[Any]]) -> bytes:
    """Returns rows as they stand in a table."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    # Names of files may hold bytes that are no UTF-8.
    return text.getvalue().encode(errors="surrogateescape")


class GrowingTable:
    """CSV table in `X.part` that has all rows but the last whatever happens.

    Args:
      path: X, where it is from `finish` on.
      header: its first row.
    """

    def __init__(self, path: Path, header: Sequence[str]):
        self._path, self._partial = path, path.with_name(f"{path.name}.part")
        self._file = self._partial.open("wb", buffering=0)
        self.add(header)

    def add(self, row: Sequence[Any]) -> None:
        """Appends a row, whole or not at all.

        Raises:
          OSError: the disk is full.
        """
        content, end = table_bytes([row]), self._file.tell()
        try:
            if self._file.write(content) < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self._file.truncate(end)
            self._file.seek(end)
            error.filename = str(self._partial)
            raise

    def close(self) -> None:
        """Ends the writing; the table stays in `X.part` until `finish`."""
        self._file.close()

    def finish(self) -> None:
        """Gives the table its name."""
        self.close()
        self._partial.replace(self._path)
