"""Progress line, with the time left, for everything that takes long."""

import sys
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import tqdm

T = TypeVar("T")

# On a terminal the line is redrawn often; in a log file it is printed rarely.
_REFRESH_SECONDS = {True: 0.2, False: 20.0}


def progress(
    iterable: Iterable[T], description: str, *, total: int | None = None, unit: str
) -> Iterator[T]:
    """Yields from `iterable` and shows how far it is and the time left."""
    return iter(progress_bar(description, iterable=iterable, total=total, unit=unit))


def progress_bar(
    description: str,
    *,
    iterable: Iterable[Any] | None = None,
    total: int | None = None,
    initial: int = 0,
    unit: str,
) -> tqdm.tqdm:
    """Returns a progress line that the caller advances with `update()` and closes."""
    return tqdm.tqdm(
        iterable,
        desc=description,
        total=total,
        initial=initial,
        unit=unit,
        mininterval=_REFRESH_SECONDS[sys.stderr.isatty()],
        dynamic_ncols=True,
        leave=True,
    )
