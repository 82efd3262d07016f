import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from script_runs import run_script

SCRIPT = Path(__file__).parents[2] / "scripts" / "build_dataset.py"
NAME = "cbis_ddsm/official_whole_h288"


@pytest.fixture
def raw(raw_phantoms):
    return raw_phantoms


def run(*arguments):
    return run_script("build_dataset.py", *arguments)


def test_help_names_every_option():
    done = run("--help")

    assert done.returncode == 0
    for option in (
        "--manual_dir",
        "--data_dir",
        "--num_workers",
        "--dry_run",
        "--beam",
    ):
        assert option in done.stdout


def test_it_builds_and_then_leaves_alone(raw, tmp_path):
    arguments = (NAME, f"--manual_dir={raw}", f"--data_dir={tmp_path}")

    first = subprocess.run(
        [sys.executable, SCRIPT, *arguments, "--num_workers=2"],
        capture_output=True,
        text=True,
        check=False,
    )
    second = run(*arguments)

    assert first.returncode == second.returncode == 0
    assert "train: " in first.stdout
    assert "already" not in first.stdout
    assert "was already built" in second.stdout
    assert (tmp_path / NAME / "1.0.0" / "dataset_info.json").exists()


def test_dry_run_prints_json_and_writes_nothing(raw, tmp_path):
    done = run(NAME, f"--manual_dir={raw}", f"--data_dir={tmp_path}", "--dry_run")

    assert done.returncode == 0
    assert set(json.loads(done.stdout)) == {
        "protocol",
        "seed",
        "rows_left_out",
        "tables",
        "release",
        "leaking",
        "splits",
    }
    assert list(tmp_path.iterdir()) == []


def test_problems_end_with_an_error_unless_allowed(raw, tmp_path):
    folders = sorted(raw.rglob("*-Training_*_CC"))
    views = [folder.name.partition("_")[2] for folder in folders]
    once = next(
        f for f, view in zip(folders, views, strict=True) if views.count(view) == 1
    )
    (path,) = once.rglob("*.dcm")
    content = path.read_bytes()
    arguments = (NAME, f"--manual_dir={raw}", f"--data_dir={tmp_path}")
    path.write_bytes(content[: len(content) // 2])
    try:
        done = run(*arguments, "--num_workers=1")
    finally:
        path.write_bytes(content)

    assert done.returncode == 1
    (line,) = [text for text in done.stderr.splitlines() if "error: " in text]
    assert "problems.csv" in line
    assert "--allow_problems" in line
    assert "Traceback" not in done.stderr
    assert run(*arguments, "--allow_problems").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cbis_ddsm/nonsense", "--manual_dir=."], "has no config 'nonsense'"),
        ([NAME, "--manual_dir=/nowhere"], "/nowhere: no such folder"),
    ],
)
def test_mistakes_are_one_line(tmp_path, arguments, message):
    done = run(*arguments, f"--data_dir={tmp_path}")

    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_empty_folder_is_one_line(tmp_path):
    done = run(NAME, f"--manual_dir={tmp_path}", f"--data_dir={tmp_path / 'data'}")
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {tmp_path}: no such folder, or empty")
    assert done.stderr.count("\n") == 1


def test_a_disk_without_room_ends_in_one_line_and_the_build_goes_on(raw, tmp_path):
    """Room for the finished images, which are files of their own, but not for all."""
    arguments = (NAME, f"--manual_dir={raw}", f"--data_dir={tmp_path}")
    limited = "import resource, runpy, sys; sys.argv = sys.argv[1:];"
    limited += "resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000));"
    limited += "runpy.run_path(sys.argv[0], run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", limited, SCRIPT, *arguments, "--num_workers=1"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    (line,) = [text for text in done.stderr.splitlines() if "error: " in text]
    assert "cannot be written (File too large); free space" in line
    assert list((tmp_path / NAME / "unfinished").glob("*.examples"))

    again = run(*arguments, "--num_workers=1")

    assert again.returncode == 0, again.stderr
    assert [path.name for path in (tmp_path / NAME).iterdir() if path.is_dir()] == [
        "1.0.0"
    ]


def test_killed_at_any_time_it_goes_on(raw, tmp_path):
    arguments = (NAME, f"--manual_dir={raw}", f"--data_dir={tmp_path}")
    unfinished = tmp_path / NAME / "unfinished"
    with subprocess.Popen(
        [sys.executable, str(SCRIPT), *arguments, "--num_workers=1"],
        stderr=subprocess.DEVNULL,
    ) as process:
        deadline = time.monotonic() + 60
        while not list(unfinished.glob("*.examples")):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)

    done = run(*arguments, "--num_workers=1")

    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / NAME).iterdir()) == [
        "1.0.0",
        "build.lock",
    ]
