"""Keeping a device at work while the host deals with what came before."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from mammo_jax.common.errors import RunStoppedError

Begun = TypeVar("Begun")


def one_behind(begun: Iterable[Begun]) -> Iterator[Begun]:
    """Yields each item once the next one has been made: its work has then begun.

    If the next cannot be made, or a signal arrived, the one before comes first.
    """
    items = iter(begun)
    waiting: list[Begun] = []
    ended: Exception | RunStoppedError | None = None
    while True:
        try:
            item = next(items)
        except StopIteration:
            break
        except (Exception, RunStoppedError) as error:
            ended = error
            break
        yield from waiting
        waiting = [item]
    yield from waiting
    if ended is not None:
        raise ended
