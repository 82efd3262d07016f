"""The writing of a set: a folder that is there whole or not at all, images, tables."""

import contextlib
import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from mammo_jax.common.errors import UserError
from mammo_jax.common.files import whole_folder
from mammo_jax.common.parallel import parallel_map
from mammo_jax.common.progress import progress
from mammo_jax.common.run_directory import PHANTOM_NOTE, write_json

Task = TypeVar("Task")
Result = TypeVar("Result")
HEIGHTS = (128, 2**14)
_CONTRASTS = (0.01, 10)


def check_ranges(
    height: int, contrast: float, **ranges: tuple[float, float, float]
) -> None:
    """Refuses arguments out of their ranges: value, lowest and highest by name."""
    ranges |= {"height": (height, *HEIGHTS), "contrast": (contrast, *_CONTRASTS)}
    for name, (value, lowest, highest) in ranges.items():
        if not lowest <= value <= highest:
            raise UserError(
                f"{name} is {value}; it must lie within {lowest} and {highest}"
            )


@contextlib.contextmanager
def phantom_folder(path: str | Path) -> Iterator[Path]:
    """Gives a folder to write into, as `whole_folder`, noted as one of phantoms."""
    with whole_folder(path) as partial:
        yield partial
        # The builders copy it, and reports call the images phantoms.
        write_json(partial / PHANTOM_NOTE, {"phantoms": True})


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
