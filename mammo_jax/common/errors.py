"""Errors that a user can mend, and the one place where commands end.

Everything that can go wrong from the outside (files, tables, options) raises
`UserError` with a message that says what is wrong, where, and how to mend it.
"""

import contextlib
import functools
import gc
import io
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from traceback import clear_frames, print_exception
from types import FrameType
from typing import Any, NoReturn

# Exit code of every command that fails; signals follow the shell's 128 + number.
EXIT_ERROR = 1
_SECONDS_TO_CLEAN_UP, _SECONDS_TO_SEND_AGAIN = 10.0, 0.1
_AGAIN = "give the same command again"
_ENDS = (signal.SIGTERM, signal.SIGHUP)


class UserError(Exception):
    """Something outside the program is wrong; the message says how to mend it."""


def refuse(reasons: Mapping[str, object]) -> None:
    """Raises a `UserError` with the first reason whose value is true, if there is one.

    Args:
      reasons: messages, and whether each of them holds.
    """
    for message, holds in reasons.items():
        if holds:
            raise UserError(message)


@contextlib.contextmanager
def of_field(name: str) -> Iterator[None]:
    """Puts a field's name before what a `UserError` from inside says."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{name}: {error}") from error


class RunStoppedError(BaseException):
    """A signal asked the run to stop; as `KeyboardInterrupt`, no error of anything."""

    def __init__(self, signal_number: int, message: str):
        super().__init__(message)
        self.exit_code = 128 + signal_number


def is_failure(error: BaseException) -> bool:
    """Tells whether a command that ends by `error` has failed, and was not stopped."""
    if isinstance(error, SystemExit):
        return error.code == EXIT_ERROR
    return not isinstance(error, (KeyboardInterrupt, RunStoppedError))


def end_now(error: BaseException, seconds: float = 0) -> NoReturn:
    """Ends a process that failed, without waiting for its threads.

    Args:
      error: the reason, which is printed; that of a `SystemExit` has been.
      seconds: between what is printed and the end.
    """
    closed = (OSError, ValueError, AttributeError)
    try:
        with contextlib.suppress(*closed):
            sys.stdout.flush()
        with contextlib.suppress(*closed):
            if not isinstance(error, SystemExit):
                print_exception(error)
            sys.stderr.flush()
        time.sleep(seconds)
        # Pools of processes that its frames hold are closed.
        clear_frames(error.__traceback__)
        gc.collect()
    finally:
        os._exit(EXIT_ERROR)


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's text, shortened."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]


def _in_one_line(text: str) -> str:
    """Returns a text without marks that a terminal obeys, as strangers' names have."""
    return "".join(mark if mark.isprintable() else repr(mark)[1:-1] for mark in text)


def _say(line: str) -> None:
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            # A closed terminal takes nothing. What is left for it would make Python's
            # own end fail, and replace the exit code.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def run_command(command: Callable[[], int | None], *, traceback: bool = False) -> None:
    """Runs `command` and exits: one clear line for a `UserError`, no traceback.

    What it has half written is removed after SIGTERM as well, and when the terminal is
    closed (SIGHUP), unless `nohup` has the command go on.

    Args:
      command: does the work; returns an exit code, None meaning 0.
      traceback: re-raise instead, so that Python shows where it happened.
    """
    # Names of files may hold bytes that are no UTF-8.
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")
    arrived: list[float] = []
    try:
        with _ending_signals(arrived):
            code = command() or 0
    except Exception as error:
        if arrived:  # A library in another language told it as an error of its own.
            _say(f"stopped: {_AGAIN}")
            sys.exit(128 + signal.SIGTERM)
        if traceback or not isinstance(error, (UserError, OSError)):
            raise
        text = str(error)
        if isinstance(error, OSError):
            text = f"{error.filename or 'the disk'}: {error.strerror or error}"
        _say(f"error: {_in_one_line(text)}")
        code = EXIT_ERROR
    except RunStoppedError as interruption:
        _say(f"stopped: {interruption}")
        code = interruption.exit_code
    except KeyboardInterrupt:
        _say("stopped: interrupted from the keyboard")
        code = 128 + signal.SIGINT
    sys.exit(code)


@contextlib.contextmanager
def _ending_signals(arrived: list[float]) -> Iterator[None]:
    """Has SIGTERM, and a closed terminal, end what is inside by `RunStoppedError`."""
    before = {n: signal.getsignal(n) or signal.SIG_DFL for n in _ENDS}
    hook = sys.unraisablehook

    def send_again() -> None:
        if sys.unraisablehook is look_for_lost:
            os.kill(os.getpid(), signal.SIGTERM)

    def look_for_lost(lost: Any) -> None:
        # In a finalizer, or a callback of another library, Python drops the error.
        if not isinstance(lost.exc_value, RunStoppedError):
            hook(lost)
            return
        arrived.clear()
        timer = threading.Timer(_SECONDS_TO_SEND_AGAIN, send_again)
        timer.daemon = True
        timer.start()

    signal.signal(signal.SIGTERM, functools.partial(_stop, arrived))
    if before[signal.SIGHUP] != signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))
    sys.unraisablehook = look_for_lost
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(arrived: list[float], number: int, _: FrameType | None) -> None:
    now = time.monotonic()
    # A second one would end the cleaning up.
    if not arrived or now - arrived[-1] > _SECONDS_TO_CLEAN_UP:
        arrived.append(now)
        raise RunStoppedError(number, _AGAIN)
