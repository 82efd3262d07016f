"""A folder that is there whole or not at all."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from mammo_jax.common.errors import UserError


@contextlib.contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """Gives a folder to write into, which becomes `path` when all went well.

    Raises:
      UserError: `path` is there and not an empty folder, or cannot be made.
    """
    path = Path(path).expanduser().absolute()
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise UserError(f"{path}: not empty; name a new folder")
        partial.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from error
    try:
        yield partial
        if path.exists():
            path.rmdir()
        partial.rename(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
