"""The other processes of a run: one that fails or vanishes ends all, with the reason.

Without this they would wait for one another in the next collective operation, for
minutes, and end in JAX's core dump.
"""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
from orbax.checkpoint import multihost

from mammo_jax.common.errors import (
    EXIT_ERROR,
    RunStoppedError,
    UserError,
    end_now,
    first_line,
    is_failure,
)

# In JAX's store of keys, which process 0 keeps.
_FAILED, _ALIVE = "mammo_jax/failed/", "mammo_jax/alive/"
_SECONDS_BETWEEN_LOOKS, _SECONDS_TO_TELL = 1.0, 3.0
# Compiling takes longer, but in other threads than the one that says so.
_SECONDS_TO_GIVE_UP = 40.0
# Parts of the errors of operations that all processes do together.
_SIGNS_OF_LOSS = ("Gloo", "NCCL", "UNAVAILABLE", "DEADLINE_EXCEEDED")
_AGAIN = "start all processes again, and the run goes on from its last checkpoint"


@contextlib.contextmanager
def watched(process: int, processes: int) -> Iterator[None]:
    """Watches the other processes, and tells them when this one fails.

    An error inside is raised; the caller then leaves by `leave`. Where another process
    fails, or is not heard of for 40 seconds, this one prints the reason and ends,
    with exit code 1. Where process 0 vanishes JAX ends the others at once, with a
    message of its own. Does nothing where the process is alone.

    Args:
      process: number of this one.
      processes: number of all.

    Raises:
      UserError: an operation of all processes failed because one of them is gone.
    """
    if processes == 1:
        yield
        return
    client = multihost.get_jax_distributed_client()
    watch = _Watch(client, process, processes)
    thread = threading.Thread(target=watch.run, daemon=True)
    thread.start()
    try:
        yield
    except RunStoppedError:  # All stop at the same step.
        raise
    except BaseException as error:
        told = error
        if any(sign in str(error) for sign in _SIGNS_OF_LOSS):
            # The other process may have said why: then the watch ends this one.
            time.sleep(_SECONDS_TO_TELL)
            told = UserError(
                f"the processes cannot go on together ({first_line(error)}); {_AGAIN}"
            )
        with watch.lock, contextlib.suppress(jax.errors.JaxRuntimeError):
            client.key_value_set(f"{_FAILED}{process}", first_line(told))
        raise told from error
    finally:
        with watch.lock:  # Not while it is ending the process.
            watch.done.set()
        thread.join(_SECONDS_TO_TELL)


def leave(error: BaseException) -> None:
    """Ends a process that failed, without waiting for the others as JAX would.

    They have time to read the reason first: a connection that closes is none. Returns
    where the process has joined no others, was stopped, or did not fail.
    """
    if is_failure(error) and jax.distributed.is_initialized():
        end_now(error, _SECONDS_TO_TELL)


class _Watch:
    """Look at what the others say, once a second.

    Attributes:
      lock: held while the watch decides on the end of the process.
      done: set where the process needs no watch any more.
    """

    def __init__(self, client: Any, process: int, processes: int):
        self.lock, self.done = threading.Lock(), threading.Event()
        self._client, self._process = client, process
        start = time.monotonic()
        self._heard = {f"{_ALIVE}{one}": ("", start) for one in range(processes)}

    def run(self) -> None:
        """Says that this process is alive, and ends it for a reason of another."""
        beat = 0
        while not self.done.wait(_SECONDS_BETWEEN_LOOKS):
            beat += 1
            try:
                reasons = list(self._look(str(beat)))
            except jax.errors.JaxRuntimeError:
                return  # Process 0 is gone, at which JAX ends the others by itself.
            with self.lock:
                if reasons and not self.done.is_set():
                    self._end(reasons[0])

    def _look(self, beat: str) -> Iterator[str]:
        own = f"{_ALIVE}{self._process}"
        self._client.key_value_set(own, beat, allow_overwrite=True)
        for key, reason in self._client.key_value_dir_get(_FAILED):
            if (number := key.removeprefix(_FAILED)) != str(self._process):
                yield f"process {number} failed: {reason}"
        now = time.monotonic()
        for key, said in self._client.key_value_dir_get(_ALIVE):
            before, since = self._heard[key]
            self._heard[key] = (said, now if said != before else since)
        for key, (_, since) in self._heard.items():
            if now - since > _SECONDS_TO_GIVE_UP:
                number = key.removeprefix(_ALIVE)
                yield f"process {number} has not been heard of lately; {_AGAIN}"

    def _end(self, reason: str) -> None:
        # A line of progress may be open.
        print(f"\nerror: {reason}", file=sys.stderr, flush=True)
        if self._process == 0:  # Its end is the end of all, at once.
            time.sleep(2 * _SECONDS_TO_TELL)
        os._exit(EXIT_ERROR)
