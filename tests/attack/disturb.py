"""Runs programs and harms each at one of the moments at which it touches its files.

    python disturb.py

Reads a `Job` in JSON from each line of its input, runs it, and answers with the exit
code; the code is null if it took too long. What programs import is imported once: a
program runs in a fork of this process, and otherwise as by `python PROGRAM`.
"""

import errno
import importlib
import itertools
import json
import os
import runpy
import shutil
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
# They take longer than a tiny training, and start neither threads nor devices.
_IMPORTED_BEFORE = (
    "mammo_jax.evaluation.report",
    "mammo_jax.training.run",
    "orbax.checkpoint",
    "scipy.optimize",
    "scipy.stats",
    "sklearn.metrics",
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_svg",
    "tensorflow_datasets",
)
_SECONDS_BETWEEN_LOOKS = 0.02
REMOVALS = ("os.remove", "os.rmdir")


class Job(NamedTuple):
    """A program and its harm.

    Attributes:
      arguments: a script, or "-m" and a module, and its arguments.
      output: the file of what it prints.
      seconds: that it may take.
      harm: "none", "copy" (before each moment all of the process stands still while
        its folder is copied: that is what a kill would leave), or "full" (from a moment
        on the disk has no room).
      number: the moment. Moments are openings for writing, renamings and removals
        below `folder`, from 0.
      folder: see `number`.
      log: the file whose lines are the moment or, for "copy", all of them.
      copies: the folder of the copies, which are called by their numbers.
    """

    arguments: Sequence[str]
    output: str
    seconds: float
    harm: str = "none"
    number: int = -1
    folder: str = ""
    log: str = ""
    copies: str = ""


def _touched(event: str, arguments: tuple[Any, ...]) -> str:
    """Returns the path that an event is about to change, or nothing."""
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITES:
        return str(arguments[0])
    if event in ("os.rename", "os.link"):
        # They are told by where they lead: that is what is seen afterwards.
        return str(arguments[1])
    if event in ("os.remove", "os.mkdir", "os.rmdir"):
        path, parent = arguments[0], arguments[-1]
        # Whole trees are removed by names within an open folder.
        return str(path) if parent == -1 else f"{_folder_of(parent)}/{path}"
    return ""


def _folder_of(descriptor: int) -> str:
    return os.readlink(f"/proc/self/fd/{descriptor}")


def _watch(job: Job) -> None:
    """Harms this process at the job's moment."""
    descriptor = os.open(job.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    moments = itertools.count()
    one_by_one = threading.RLock()  # A finalizer may come in between.

    def watch(event: str, details: tuple[Any, ...]) -> None:
        path = _touched(event, details)
        if not path.startswith(job.folder):
            return
        with one_by_one:
            moment = next(moments)
            if moment == job.number or job.harm == "copy":
                os.write(descriptor, f"{event} {path[len(job.folder) :]}\n".encode())
            if job.harm == "copy":
                os.kill(os.getpid(), signal.SIGSTOP)
                # Another thread may take the signal; this one stands still, too.
                while not os.path.isdir(_copy(job, moment)):
                    time.sleep(_SECONDS_BETWEEN_LOOKS)
        if job.harm == "full" and moment >= job.number and event not in REMOVALS:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    sys.addaudithook(watch)


def _copy(job: Job, moment: int) -> str:
    return os.path.join(job.copies, str(moment))


def _become(job: Job) -> None:
    """Runs the job's program in this process."""
    output = os.open(job.output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for old, new in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(old, new)
    if job.harm != "none":
        _watch(job)
    program, *arguments = job.arguments
    if program == "-m":
        program, *arguments = arguments
        sys.argv = [program, *arguments]
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, str(Path(program).parent))
        sys.argv = [program, *arguments]
        runpy.run_path(program, run_name="__main__")


def _exit_code(process: int, job: Job) -> int | None:
    """Returns a child's exit code, or nothing after killing it when time was over.

    Copies the folder each time the child stands still.
    """
    end = time.monotonic() + job.seconds
    copies = 0
    while time.monotonic() < end:
        changed, status = os.waitpid(process, os.WNOHANG | os.WUNTRACED)
        if changed and os.WIFSTOPPED(status):
            copy = _copy(job, copies)
            if os.path.isdir(job.folder):
                shutil.copytree(job.folder, copy, symlinks=True)
            else:
                os.makedirs(copy)
            copies += 1
            os.kill(process, signal.SIGCONT)
        elif changed:
            return os.waitstatus_to_exitcode(status)
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return None


def main() -> None:
    """Runs what its input says; in a child, the program."""
    for module in _IMPORTED_BEFORE:
        importlib.import_module(module)
    assert len(os.listdir("/proc/self/task")) == 1, "a fork would lack threads"
    for line in sys.stdin:
        job = Job(**json.loads(line))
        if not (process := os.fork()):
            # It ends as any program does: by what is left to do at an exit.
            return _become(job)
        print(json.dumps(_exit_code(process, job)), flush=True)
    return None


if __name__ == "__main__":
    main()
