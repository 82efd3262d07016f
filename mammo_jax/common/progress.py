"""Progress line, with the time left, for everything that takes long."""

import contextlib
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

import tqdm

T = TypeVar("T")

# On a terminal the line is redrawn often; in a log file it is printed rarely.
_REFRESH_SECONDS = {True: 0.2, False: 20.0}


# Work that ends sooner is not spoken of.
_SILENT_SECONDS = 3.0


@contextlib.contextmanager
def waiting(what: str) -> Iterator[None]:
    """Shows what is waited for and the time passed, where it takes more than 3 s."""
    done = threading.Event()

    def show() -> None:
        if done.wait(_SILENT_SECONDS):
            return
        with tqdm.tqdm(desc=what, bar_format="{desc}: {elapsed}") as line:
            if not line.disable:  # As TQDM_DISABLE has it.
                line.start_t -= _SILENT_SECONDS
            while not done.wait(_REFRESH_SECONDS[sys.stderr.isatty()]):
                line.refresh()

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


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
