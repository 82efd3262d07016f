"""Search for patients' codes, prediction tables and paths in what is passed on."""

import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mammo_jax.common.errors import UserError
from mammo_jax.common.tables import read_cells, spelling
from mammo_jax.weights import hub

# Columns of prediction tables that name people or their images.
_NAMING = ("patientid", "imageindex")
# Signs between the names of a table's columns, and around them.
_BETWEEN, _AROUND = re.compile(r"[,;|]|\s{2,}|[\t\n\r]"), " \ufeff[](){}\"'"
_TABLE = re.compile(r"\.csv", re.IGNORECASE)  # in copies' names, too
# Characters of one's own codes; shorter words and numbers are in any file.
_LEAST_CODE, _LEAST_NUMBER = 3, 6
_ADDRESS = re.compile(rf"(?a:{hub.NAME.pattern})|\bhttps?://[^\s/][^\s,;)\"'<>|\\]*")
_CREDENTIALS = re.compile(r"//[^/\s]*@")
# A word stands between signs, of which an underscore is one.
_WORD = r"(?<![^\W_])({})(?![^\W_])"
# Codes of CBIS-DDSM, of `predict`, of INbreast, and a DICOM UID.
_CODES = r"P[_-]\d{5}|case[_-]\d{4,}|[0-9a-f]{16}|\d+(?:\.\d+){5,}"
_CODE = re.compile(_WORD.format(_CODES), re.IGNORECASE)
_PATH = re.compile(
    r"(^|[^\w./-])(/+[^\s/]|~[\w-]*[/\\]|[A-Za-z]:[\\/]"
    r"|\\{2}[\w.$-]+\\|\\\w[\w .$-]*\\)"
    r"|(?<![\w.])\.\.[/\\]|\$\{?[\w:]+\}?[/\\]|%\w+%[/\\]"
)


def codes_of(directory: Path) -> set[str]:
    """Returns the codes of patients and images in a run's prediction tables.

    Those that are as short as words and numbers of any file are left out.

    Raises:
      UserError: one of the tables cannot be read.
    """
    codes = set[str]()
    for path in sorted(directory.rglob("*")):
        if path.is_symlink() and path.is_dir():
            raise UserError(
                f"{path} is a link to a folder, whose tables are not looked through; "
                "remove it, or copy the folder"
            )
        if not _TABLE.search(path.name) or not path.is_file():
            continue
        header, rows, _ = read_cells(path, remedy="move it out of the run's directory")
        naming = [at for at, name in enumerate(header) if _names_people(name)]
        codes |= {_words(row[at]) for row in rows for at in naming if at < len(row)}
    return {code for code in codes if _is_telling(code)}


def _is_telling(code: str) -> bool:
    is_number = code.replace(" ", "").isdigit()
    return len(code) >= (_LEAST_NUMBER if is_number else _LEAST_CODE)


def refuse_leaks(name: str, content: Any, codes: Collection[str], remedy: str) -> None:
    """Refuses JSON, or a text, with something in it that must not be passed on.

    Args:
      name: the content's name in the message.
      content: as `json.loads` returns it.
      codes: see `codes_of`. They are found in other cases and with other signs between
        their words, as in a file's or a folder's name.
      remedy: the way out.

    Raises:
      UserError: there is something; it says where, and quotes nothing of it.
    """
    for where, text in _leaves(content):
        if kind := _kind(text, codes):
            place = f" ({' '.join(where.split())[:100]})" if where else ""
            raise UserError(f"{name}{place} holds {kind}; {remedy}")


def _kind(text: str, codes: Collection[str]) -> str:
    text = _folded(text)
    words = f" {_words(text)} "
    if _CODE.search(text) or any(f" {code} " in words for code in codes):
        return "a patient's code"
    if any(_names_people(cell.strip(_AROUND)) for cell in _BETWEEN.split(text)):
        return "rows of a prediction table"
    if _CREDENTIALS.search(text):
        return "credentials"
    return "a path of a machine" if _PATH.search(_ADDRESS.sub(" ", text)) else ""


def _names_people(column: str) -> bool:
    return spelling(column).replace(" ", "") in _NAMING


def _words(text: str) -> str:
    """Returns the words of a text in one case and form, with a blank between them."""
    return " ".join(re.split(r"[\W_]+", _folded(text).casefold())).strip()


def _folded(text: str) -> str:
    """Returns a text in one form, with one kind of dash and no invisible signs."""
    kinds = {"Pd": "-", "Cf": ""}
    return "".join(
        kinds.get(unicodedata.category(sign), sign)
        for sign in unicodedata.normalize("NFKC", text)
    )


def _leaves(content: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Yields the keys and values of JSON as texts, each with the place it is at."""
    if isinstance(content, Mapping):
        for key, value in content.items():
            yield f"a name in {where}" if where else "a name", str(key)
            yield from _leaves(value, f"{where}.{key}".lstrip("."))
    elif isinstance(content, str):
        yield where, content
    elif isinstance(content, Iterable):
        for value in content:
            yield from _leaves(value, where)
    elif isinstance(content, int | float) and content % 1 == 0:
        yield where, str(int(content))
