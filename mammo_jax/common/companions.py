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

from mammo_jax.common.errors import RunStoppedError, UserError, first_line

# In JAX's store of keys, which process 0 keeps.
_FAILED, _ALIVE = "mammo_jax/failed/", "mammo_jax/alive/"
_SECONDS_BETWEEN_LOOKS, _SECONDS_TO_TELL = 1.0, 3.0
# Compiling takes longer, but in other threads than the one that says so.
_SECONDS_TO_GIVE_UP = 40.0
_AGAIN = "start all processes again, and the run goes on from its last checkpoint"


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Watches the other processes, and tells them when this one fails.

    What fails here is raised; the caller then leaves by `leave`. Where another process
    fails, or is not heard of for 40 seconds, this one prints the reason and ends,
    with exit code 1. Where process 0 vanishes JAX ends the others at once, with a
    message of its own. Does nothing where the process is alone.
    """
    if jax.process_count() == 1:
        yield
        return
    client = multihost.get_jax_distributed_client()
    done, ending = threading.Event(), threading.Event()
    watch = threading.Thread(target=_watch, args=(client, done, ending), daemon=True)
    watch.start()
    try:
        yield
    except RunStoppedError:  # All stop at the same step.
        raise
    except BaseException as error:
        if isinstance(error, jax.errors.JaxRuntimeError) or "Gloo" in str(error):
            # What all do together failed, and the other process may have said why.
            time.sleep(_SECONDS_TO_TELL)
            if ending.is_set():
                watch.join()
            error = UserError(
                f"the processes cannot go on together ({first_line(error)}); {_AGAIN}"
            )
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            client.key_value_set(f"{_FAILED}{jax.process_index()}", first_line(error))
        raise error
    finally:
        done.set()


def leave(code: int) -> None:
    """Ends a process that failed, without waiting for the others as JAX would.

    They have time to read the reason first: a connection that closes is none. Returns
    where the process is alone.
    """
    if jax.process_count() == 1:
        return
    time.sleep(_SECONDS_TO_TELL)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _watch(client: Any, done: threading.Event, ending: threading.Event) -> None:
    """Looks once a second for what the others say, and says that this one is alive.

    Args:
      client: JAX's store of keys.
      done: set where this process needs no watch any more.
      ending: is set where another one is the reason for which this one ends.
    """
    mine, beat, start = jax.process_index(), 0, time.monotonic()
    others = range(jax.process_count())
    heard = {f"{_ALIVE}{number}": ("", start) for number in others}
    while not done.wait(_SECONDS_BETWEEN_LOOKS):
        beat += 1
        try:
            client.key_value_set(f"{_ALIVE}{mine}", str(beat), allow_overwrite=True)
            failed = dict(client.key_value_dir_get(_FAILED))
            alive = dict(client.key_value_dir_get(_ALIVE))
        except jax.errors.JaxRuntimeError:
            return  # Process 0 is gone, at which JAX ends the others by itself.
        now = time.monotonic()
        for key, said in alive.items():
            before, since = heard[key]
            heard[key] = (said, now if said != before else since)
        reasons = [
            *(
                f"process {key.removeprefix(_FAILED)} failed: {reason}"
                for key, reason in failed.items()
                if key != f"{_FAILED}{mine}"
            ),
            *(
                f"process {key.removeprefix(_ALIVE)} has not been heard of lately; "
                f"{_AGAIN}"
                for key, (_, since) in heard.items()
                if now - since > _SECONDS_TO_GIVE_UP
            ),
        ]
        if reasons and not done.is_set():
            ending.set()
            # A line of progress may be open.
            print(f"\nerror: {reasons[0]}", file=sys.stderr, flush=True)
            if mine == 0:  # Its end is the end of all, at once.
                time.sleep(2 * _SECONDS_TO_TELL)
            os._exit(1)
