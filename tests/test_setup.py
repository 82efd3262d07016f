"""What `make` says where it cannot set up its environment."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]


def program(path: Path, text: str) -> Path:
    """Writes a shell script that can be run."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def make_setup(folder: Path, python: object) -> tuple[str, bool]:
    """Runs `make setup-run` with `folder/bin` first in PATH.

    Returns:
      The errors, and True if there is an installer afterwards.
    """
    paths = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    names = (f"VENV={folder / 'venv'}", f"PYTHON={python}")
    done = subprocess.run(
        ["make", *names, "setup-run"],
        cwd=CHECKOUT,
        env={**os.environ, "PATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode
    return done.stderr, (folder / "venv" / "bin" / "uv").exists()


@pytest.mark.parametrize("python", ["false", "", "/no/such/python3"])
def test_a_python_that_does_not_serve_is_refused(tmp_path, python):
    errors, _ = make_setup(tmp_path, python)
    assert "error: Python 3.11, 3.12 or 3.13 is needed" in errors
    assert not (tmp_path / "venv").exists()


def test_too_little_space_is_refused_before_anything_is_installed(tmp_path):
    program(tmp_path / "bin" / "df", "echo 'Mounted on'; echo 'disk 9 9 61440 9% /'")
    errors, _ = make_setup(tmp_path, sys.executable)
    assert f"{tmp_path}/venv needs 2000 MB and 60 are free" in errors
    assert not (tmp_path / "venv").exists()


def test_an_installer_that_was_cut_off_is_not_taken_for_whole(tmp_path):
    python = program(
        tmp_path / "bin" / "cut_off",
        '[ "$2" = venv ] && mkdir -p "$3/bin" && cp "$0" "$3/bin/python"\n'
        '[ "$2" = pip ] && touch "$(dirname "$0")/uv" && exit 1\n'
        "exit 0",
    )
    program(tmp_path / "bin" / "df", "echo 'disk 9 9 9999999 9% /'")
    _, is_there = make_setup(tmp_path, python)
    assert (tmp_path / "venv" / "bin" / "python").exists()
    assert not is_there


@pytest.mark.parametrize(
    ("minors", "found"),
    [((), "3.12"), (("11", "12", "13"), "3.11"), (("13",), None)],
)
def test_a_python_that_works_is_found(tmp_path, minors, found):
    works = 'case "$2" in *"(3, ${0##*.})"*) exit 0;; esac; exit 1'
    for name, text in (("3.13", "exit 127"), ("3.12", works), ("3.11", works)):
        program(tmp_path / "bin" / f"python{name}", text)
    done = subprocess.run(
        ["/bin/sh", CHECKOUT / "scripts" / "find_python.sh", *minors],
        env={"PATH": str(tmp_path / "bin"), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    expected = f"{tmp_path}/bin/python{found}\n" if found else ""
    assert done.stdout == expected
