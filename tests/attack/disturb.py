"""Runs a program and harms it at one of the moments at which it touches its files.

    python disturb.py HARM NUMBER FOLDER LOG PROGRAM ARGUMENTS...

Moments are openings for writing, renamings and removals below FOLDER, from 0. HARM is
"count" (none is harmed), "kill" (the process is killed), or "full" (from then on the
disk has no room). Each moment becomes a line of LOG. PROGRAM is a script, or a module
after "-m".
"""

import errno
import os
import runpy
import signal
import sys
from pathlib import Path

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def _touched(event: str, arguments: tuple[object, ...]) -> str:
    """Returns the path that an event is about to change, or nothing."""
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITES:
        return str(arguments[0])
    if event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link"):
        # A renaming is told by where it leads: that is what is seen afterwards.
        return str(arguments[1 if event in ("os.rename", "os.link") else 0])
    return ""


def main() -> None:
    """Runs the program under its disturbance."""
    harm, number, folder, log = sys.argv[1:5]
    program, *arguments = sys.argv[5:]
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    moments = 0

    def watch(event: str, details: tuple[object, ...]) -> None:
        nonlocal moments
        path = _touched(event, details)
        if not path.startswith(folder):
            return
        moments += 1
        if moments - 1 == int(number) or (harm == "count"):
            os.write(descriptor, f"{event} {path[len(folder) :]}\n".encode())
        if moments - 1 == int(number) and harm == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        is_room_needed = event not in ("os.remove", "os.rmdir")
        if moments > int(number) and harm == "full" and is_room_needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    sys.addaudithook(watch)
    if program == "-m":
        program, *arguments = arguments
        sys.argv = [program, *arguments]
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, str(Path(program).parent))
        sys.argv = [program, *arguments]
        runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
    main()
