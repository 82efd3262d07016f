"""Finding the files that the arguments of `predict` name."""

import collections
import dataclasses
import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from mammo_jax.common.errors import UserError
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
    """Finds the files that the arguments name.

    A link to a folder is not followed: one within the folder that is searched leads to
    files that are found anyway, any other one is a problem.

    Args:
      arguments: files, folders (searched to the bottom for DICOM files and pictures)
        or globs, in which ** stands for any folders.
      out: a folder whose contents, an earlier prediction's, are left out.

    Raises:
      UserError: an argument names nothing, or all lies in `out`.
    """
    found, written = Found(), out.resolve()
    files: dict[Path, Path] = {}
    for argument in arguments:
        before = len(found.problems)
        named = list(_files_of(argument, found))
        if not named and len(found.problems) == before:
            raise UserError(f"{argument}: {_nothing(argument)}")
        for path in named:
            files.setdefault(path.resolve(), path)
    found.files = [p for real, p in files.items() if written not in real.parents]
    if files and not found.files:
        raise UserError(f"there is nothing to score but what is in {out} already")
    return found


def _files_of(argument: str, found: Found) -> Iterator[Path]:
    path = Path(argument).expanduser()
    names = [path] if path.exists() else map(Path, sorted(_matches(path)))
    for name in names:
        if name.is_dir():
            yield from _images_below(name, found)
        else:
            yield name


def _matches(pattern: Path) -> list[str]:
    return glob.glob(str(pattern), recursive=True)


def _images_below(root: Path, found: Found) -> Iterator[Path]:
    for path in sorted(_everything_below(root, found)):
        # A link to a file that is gone is read, and so reported.
        is_gone = path.is_symlink() and not path.exists()
        suffix = path.suffix.lower()
        if suffix in _NAMES or (not is_gone and _has_mark(path)):
            yield path
        elif not is_gone:
            # An ending may be part of a name.
            kind = suffix if suffix[1:].isalnum() and len(suffix) < 6 else "others"
            found.left_out[kind] += 1


def _everything_below(root: Path, found: Found) -> Iterator[Path]:
    def note(error: OSError) -> None:
        reason = "the folder cannot be read; check its permissions"
        found.problems.append(Problem(Path(error.filename), reason))

    for folder, folders, names in os.walk(root, onerror=note):
        for name in folders:
            link = Path(folder, name)
            if link.is_symlink() and not link.resolve().is_relative_to(root.resolve()):
                reason = "a link to a folder outside of the one that is searched; name"
                found.problems.append(Problem(link, f"{reason} that folder, too"))
        for name in names:
            if not name.startswith(".") and name != "DICOMDIR":
                yield Path(folder, name)


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
