"""A short run of each attack; `make fuzz` and `make chaos` are the long ones."""

import subprocess
import sys
from pathlib import Path

import pytest


def _attack(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, Path(__file__).with_name(script), *map(str, arguments)],
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_a_thousand_damaged_files_do_no_harm(tmp_path):
    ended = _attack("fuzz.py", "--files=1000", "--seed=11", f"--out={tmp_path}")

    assert ended.returncode == 0, ended.stdout + ended.stderr
    # Damage that always ends in a refusal would attack nothing but the first check.
    assert '"read"' in ended.stdout


@pytest.mark.slow
@pytest.mark.parametrize("command", ["build", "predict", "evaluate", "train"])
def test_a_command_that_was_killed_or_had_no_room_goes_on(tmp_path, command):
    ended = _attack("chaos.py", f"--command={command}", "--most=2", f"--out={tmp_path}")

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert f"{command} kill: stood 2" in ended.stdout
    # Threads of a training take their turns, so that it may not reach a moment.
    assert f"{command} full: stood" in ended.stdout or command == "train"
