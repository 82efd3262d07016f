"""The writing of a set: a folder that is there whole or not at all, images, tables."""

import contextlib
import csv
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from mammo_jax.common.errors import UserError
from mammo_jax.common.parallel import parallel_map
from mammo_jax.common.progress import progress
from mammo_jax.common.run_directory import PHANTOM_NOTE, write_json

Task = TypeVar("Task")
Result = TypeVar("Result")
_HEIGHTS = (128, 2**14)
_CONTRASTS = (0.01, 10)


def check_ranges(
    height: int, contrast: float, **ranges: tuple[float, float, float]
) -> None:
    """Refuses arguments out of their ranges: value, lowest and highest by name."""
    ranges |= {"height": (height, *_HEIGHTS), "contrast": (contrast, *_CONTRASTS)}
    for name, (value, lowest, highest) in ranges.items():
        if not lowest <= value <= highest:
            raise UserError(
                f"{name} is {value}; it must lie within {lowest} and {highest}"
            )


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
        yield partial
        # The builders copy it, and reports call the images phantoms.
        write_json(partial / PHANTOM_NOTE, {"phantoms": True})
        if path.exists():
            path.rmdir()
        partial.rename(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def draw_all(
    write: Callable[[Task], Result], tasks: Sequence[Task], num_workers: int | None
) -> list[Result]:
    """Draws and writes the mammograms of all tasks; see `parallel_map`."""
    written = parallel_map(write, tasks, num_workers)
    return list(progress(written, "drawing mammograms", total=len(tasks), unit="view"))


def write_csv(
    path: Path, rows: Iterable[Iterable[Any]], *, delimiter: str = ","
) -> None:
    """Writes a table as the real sets have them: ASCII, with CR LF behind the rows."""
    with path.open("w", newline="", encoding="ascii") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
