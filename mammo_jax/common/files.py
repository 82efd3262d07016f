"""Files that are whole or not there, whenever the program is killed."""

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

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
