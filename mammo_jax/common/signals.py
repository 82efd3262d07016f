"""Ending a run on Ctrl-C and SIGTERM at its next safe point, after a checkpoint.

The end of a terminal, SIGHUP, arrives as SIGTERM; see `errors.run_command`.
"""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

from mammo_jax.common.devices import largest_of_processes
from mammo_jax.common.errors import RunStoppedError


class StopRequest:
    """Request to stop, which Ctrl-C and SIGTERM make.

    At once the run stops; while `deferred`, the signal is remembered and the loop
    stops at its next safe point. A second Ctrl-C does not wait for that.
    """

    _SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._deferred = False
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        for number in self._SIGNALS:
            self._previous[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Leaves it to the loop inside to look for a request to stop."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def _remember(self, number: int, _: FrameType | None) -> None:
        if not self._deferred:
            raise RunStoppedError(number, "give the same command again")
        if self.signal_number is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal_number = number

    def __bool__(self) -> bool:
        """Returns True if a signal has arrived in any process; all must ask."""
        # Only ever set: one that arrives in the meantime is not lost.
        anywhere = largest_of_processes(self.signal_number or 0)
        if anywhere:
            self.signal_number = anywhere
        return anywhere > 0

    def raise_if_set(self, message: str) -> None:
        """Raises `RunStoppedError` if a signal has arrived; all processes must ask."""
        if self:
            raise RunStoppedError(self.signal_number or 0, message)
