"""Runs a script of `scripts/` in this process: most tests need no other."""

import contextlib
import io
import runpy
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "scripts"


def run_script(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs `scripts/NAME` with arguments; returns its exit code and what it printed."""
    command = [str(FOLDER / name), *map(str, arguments)]
    before, sys.argv = sys.argv, command
    out, err = io.StringIO(), io.StringIO()
    code: object = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            runpy.run_path(command[0], run_name="__main__")
    except SystemExit as end:
        code = end.code or 0
    finally:
        sys.argv = before
    return subprocess.CompletedProcess(
        command, int(str(code)), out.getvalue(), err.getvalue()
    )
