"""Ctrl-C and SIGTERM end a run at the next safe point, after a checkpoint."""

import signal
from types import FrameType

from mammo_jax.errors import RunStoppedError


class StopRequest:
    """Remembers that a signal asked the run to stop.

    A second Ctrl-C does not wait for the safe point.
    """

    _SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        for number in self._SIGNALS:
            self._previous[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _remember(self, number: int, _: FrameType | None) -> None:
        if self.signal_number is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal_number = number

    def __bool__(self) -> bool:
        return self.signal_number is not None

    def raise_if_set(self, message: str) -> None:
        """Raises `RunStoppedError` if a signal has arrived."""
        if self.signal_number is not None:
            raise RunStoppedError(self.signal_number, message)
