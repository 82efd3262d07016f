"""Finding the files that the arguments of `predict` name."""

import collections
import dataclasses
import fnmatch
import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from mammo_jax.common.errors import UserError
from mammo_jax.datasets.manifest import read_views
from mammo_jax.datasets.views import Problems, View
from mammo_jax.images.pictures import PICTURE_NAMES
from mammo_jax.prediction.reading import Problem

_NAMES = (*PICTURE_NAMES, ".dcm", ".dicom")
_MARK, _MARK_AT = b"DICM", 128


@dataclasses.dataclass
class Found:
    """Files that arguments name.

    Attributes:
      files: to score, each once, in a stable order.
      problems: links that were not followed, folders that cannot be read.
      left_out: number of files in folders that are no images, by their ending.
    """

    files: list[Path] = dataclasses.field(default_factory=list)
    problems: list[Problem] = dataclasses.field(default_factory=list)
    left_out: collections.Counter[str] = dataclasses.field(
        default_factory=collections.Counter
    )


def find_files(arguments: Sequence[str], out: Path) -> Found:
    """Finds the files that the arguments name, each once.

    A link that a search comes upon is followed if it stays in what the arguments name;
    one that leads out of it is a problem.

    Args:
      arguments: files, folders (searched to the bottom for DICOM files and pictures)
        or globs, in which ** stands for any folders.
      out: a folder whose contents, an earlier prediction's, are left out.

    Raises:
      UserError: an argument names nothing, or all lies in `out`.
    """
    found, written = Found(), _real(out)
    named = [_split(argument) for argument in arguments]
    roots = [_real(root) for root, _ in named]
    files: dict[Path, Path] = {}
    for argument, (root, patterns) in zip(arguments, named, strict=True):
        before = len(found.problems)
        paths = list(_Search(roots, found).expand(root, patterns))
        if not paths and len(found.problems) == before:
            raise UserError(f"{argument}: {_nothing(argument)}")
        for path in paths:
            files.setdefault(_real(path), path)
    found.files = [p for real, p in files.items() if written not in real.parents]
    if files and not found.files:
        raise UserError(f"there is nothing to score but what is in {out} already")
    return found


def find_planned(table: Path) -> tuple[Found, dict[Path, View]]:
    """Finds the images of a manifest, and what it says of each.

    Raises:
      UserError: the table is missing or malformed, or not one of its rows is usable.
    """
    problems: Problems = []
    views = read_views(table, problems, with_rois=False)
    if not views:
        raise UserError(f"{table}: lists no image")
    found = Found([Path(view.image) for view in views])
    found.problems = [
        Problem(Path(path), reason, of_row=True) for _, path, reason in problems
    ]
    return found, dict(zip(found.files, views, strict=True))


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))  # Path.resolve fails on a link to itself.


def _split(argument: str) -> tuple[Path, list[str]]:
    """Splits a glob into the folder that it names and the patterns below it."""
    path = Path(argument).expanduser()
    parts = list(path.parts)
    for at, part in enumerate(parts):
        if glob.has_magic(part) and not os.path.lexists(Path(*parts[: at + 1])):
            return Path(*parts[:at]), parts[at:]
    return path, []


class _Search:
    """Search for the files of one argument, which notes what it passes over.

    Args:
      roots: folders and files that the arguments name, without links.
      found: gets the problems.
    """

    def __init__(self, roots: Sequence[Path], found: Found):
        self._roots, self._found = roots, found
        self._done: set[tuple[Path, int]] = set()

    def expand(self, path: Path, patterns: Sequence[str]) -> Iterator[Path]:
        """Yields the files that a glob below a path names, all images if it is empty.

        A folder that several links lead to is gone through once.
        """
        if not path.is_dir():
            if not patterns and os.path.lexists(path):
                yield path
            return
        if (state := (_real(path), len(patterns))) in self._done:
            return
        self._done.add(state)
        pattern, *rest = patterns or ["**"]
        if pattern == "**" and rest:
            yield from self.expand(path, rest)
        for entry in self._entries(path):
            below = Path(entry.path)
            if pattern != "**":
                if _matches(entry.name, pattern):
                    yield from self.expand(below, rest)
            elif os.path.isdir(entry.path):
                if not patterns or _matches(entry.name, "*"):
                    yield from self.expand(below, patterns)
            elif not rest and self._is_image(entry):
                yield below

    def _entries(self, folder: Path) -> Iterator[os.DirEntry[str]]:
        """Yields what is in a folder, links last, but for those out of the roots."""
        try:
            entries = [*os.scandir(folder)]
        except OSError:
            reason = "the folder cannot be read; check its permissions"
            self._found.problems.append(Problem(folder, reason))
            return
        for entry in sorted(entries, key=lambda one: (one.is_symlink(), one.name)):
            if entry.is_symlink() and os.path.exists(entry.path):
                real = _real(Path(entry.path))
                if not any(real.is_relative_to(root) for root in self._roots):
                    if os.path.isdir(entry.path) or self._is_image(entry):
                        reason = "a link out of what is searched; name its target, too"
                        self._found.problems.append(Problem(Path(entry.path), reason))
                    continue
            yield entry

    def _is_image(self, entry: os.DirEntry[str]) -> bool:
        """Returns True if a file is to be scored; counts what is no image."""
        suffix = Path(entry.name).suffix.lower()
        if entry.name.startswith(".") or entry.name == "DICOMDIR":
            return False
        # A link to a file that is gone is read, and so reported.
        if suffix in _NAMES:
            return True
        if not os.path.exists(entry.path):
            return False
        if not (is_image := _has_mark(Path(entry.path))):
            # An ending may be part of a name.
            kind = suffix if suffix[1:].isalnum() and len(suffix) < 6 else "others"
            self._found.left_out[kind] += 1
        return is_image


def _matches(name: str, pattern: str) -> bool:
    is_hidden = name.startswith(".") and not pattern.startswith(".")
    return fnmatch.fnmatchcase(name, pattern) and not is_hidden


def _has_mark(path: Path) -> bool:
    if not path.is_file():  # Opening a pipe would wait for a writer.
        return False
    try:
        with path.open("rb") as file:
            file.seek(_MARK_AT)
            return file.read(len(_MARK)) == _MARK
    except OSError:
        return True  # It is read again, and so reported.


def _nothing(argument: str) -> str:
    if Path(argument).expanduser().is_dir():
        return "the folder holds no DICOM file and no PNG, TIFF, JPEG or PGM picture"
    if glob.has_magic(argument):
        return "matches no file; check the pattern"
    return "no such file or folder; check the path"
