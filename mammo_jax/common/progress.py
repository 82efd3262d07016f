"""Progress line, with the time left, for everything that takes long."""

import sys
from collections.abc import Iterable
from typing import TypeVar

import tqdm

T = TypeVar("T")

# On a terminal the line is redrawn often; in a log file it is printed rarely.
_REFRESH_SECONDS = {True: 0.2, False: 20.0}


def progress(
    iterable: Iterable[T] | None,
    description: str,
    *,
    total: int | None = None,
    initial: int = 0,
    unit: str,
) -> tqdm.tqdm:
    """Yields from `iterable` and shows how far it is and the time left.

    Without one, the caller advances the line with `update()` and closes it.
    """
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
