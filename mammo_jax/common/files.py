"""Files that are whole or not there, whenever the program is killed."""

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from mammo_jax.common.errors import UserError

_PARTIAL = ".part"


def remove_leftovers(folder: Path, names: Iterable[str]) -> None:
    """Removes what a killed program left of files that it was writing there."""
    for name in names:
        (folder / f"{name}{_PARTIAL}").unlink(missing_ok=True)


@contextlib.contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Gives the path of a file beside `path`, which takes its place at the end.

    What is at `path` stays as it is until then, and for good if the writing fails.

    Raises:
      OSError: the file cannot be written.
    """
    partial = path.with_name(f"{path.name}{_PARTIAL}")
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):  # The first error is the one to tell.
            partial.unlink()
        raise


@contextlib.contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """Gives a folder to write into, which becomes `path` when all went well.

    If not, nothing is left of it, nor of the folders that were made above it.

    Raises:
      UserError: `path` is a link, or there and no empty folder; or it cannot be made.
    """
    path = Path(path).expanduser().absolute()
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    made = [folder for folder in path.parents if not folder.exists()]
    try:
        if path.is_symlink() or (path.exists() and not path.is_dir()):
            raise UserError(f"{path}: a file or a link; name a new folder")
        if path.exists() and any(path.iterdir()):
            raise UserError(f"{path}: not empty; name a new folder")
        # A killed process of the same number, as containers have, may have left it.
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        if path.exists():
            path.rmdir()
        partial.rename(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        with contextlib.suppress(OSError):  # One that is not empty stays.
            for folder in made:
                folder.rmdir()
