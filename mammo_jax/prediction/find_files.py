"""Finding the files that the arguments of `predict` name."""

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path

from mammo_jax.common.errors import UserError
from mammo_jax.images.pictures import PICTURE_NAMES

_NAMES = (*PICTURE_NAMES, ".dcm", ".dicom")
_MARK, _MARK_AT = b"DICM", 128


def find_files(arguments: Sequence[str], out: Path) -> list[Path]:
    """Finds the files that the arguments name, each once, in a stable order.

    Args:
      arguments: files, folders (searched to the bottom for DICOM files and pictures)
        or globs, in which ** stands for any folders.
      out: a folder whose contents, an earlier prediction's, are left out.

    Raises:
      UserError: an argument names nothing, or all lies in `out`.
    """
    found: dict[Path, None] = {}
    for argument in arguments:
        files = list(_files_of(argument))
        if not files:
            raise UserError(f"{argument}: {_nothing(argument)}")
        found |= dict.fromkeys(files)
    written = out.resolve()
    files = [path for path in found if written not in path.resolve().parents]
    if found and not files:
        raise UserError(f"there is nothing to score but what is in {out} already")
    return files


def _files_of(argument: str) -> Iterator[Path]:
    path = Path(argument).expanduser()
    names = [path] if path.exists() else map(Path, sorted(_matches(path)))
    for name in names:
        if name.is_dir():
            yield from _images_below(name)
        else:
            yield name


def _matches(pattern: Path) -> list[str]:
    return glob.glob(str(pattern), recursive=True)


def _images_below(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.name.startswith(".") or path.name == "DICOMDIR":
            continue
        # A link to a file that is gone is read, and so reported.
        if not path.is_file() and not (path.is_symlink() and not path.exists()):
            continue
        if path.suffix.lower() in _NAMES or _has_mark(path):
            yield path


def _has_mark(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            file.seek(_MARK_AT)
            return file.read(len(_MARK)) == _MARK
    except OSError:
        return False


def _nothing(argument: str) -> str:
    if Path(argument).expanduser().is_dir():
        return "the folder holds no DICOM file and no PNG, TIFF, JPEG or PGM picture"
    if glob.has_magic(argument):
        return "matches no file; check the pattern"
    return "no such file or folder; check the path"
