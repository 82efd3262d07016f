"""Several processes: one that fails or vanishes ends the others, with the reason."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from whole_runs import (
    REPOSITORY,
    cached_environment,
    command,
    free_port,
    start_two,
    tiny_run,
)

# A process that breaks where it writes its report, or its first checkpoint.
_BROKEN_RUN = """
import os, signal, sys
from pathlib import Path
from absl import app
from mammo_jax import main
from mammo_jax.common import devices
from mammo_jax.common.errors import UserError
from mammo_jax.training import checkpoint, run_report

way, place, broken, marker = sys.argv[1:5]
del sys.argv[1:5]

def breaks(*arguments, **options):
    Path(marker).touch()
    if way == "fails":
        raise UserError("the disk is full")
    os.kill(os.getpid(), getattr(signal, way))

if f"--process={broken}" in sys.argv:
    if place == "start":
        devices.start_devices = breaks
    elif place == "report":
        run_report.write_run_report = breaks
    else:
        checkpoint.Checkpoints.save = breaks
app.run(main.main, flags_parser=main.parse_or_exit)
"""
_SECONDS = 60


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "place", "broken", "reason"),
    [
        ("fails", "start", 1, "process 1 failed: the disk is full"),
        ("fails", "report", 0, "process 0 failed: the disk is full"),
        ("fails", "save", 1, "process 1 failed: the disk is full"),
        ("SIGKILL", "save", 0, "most likely indicates that another task died"),
        ("SIGKILL", "save", 1, "the processes cannot go on together"),
        ("SIGSTOP", "save", 1, "process 1 has not been heard of lately; start all"),
    ],
)
def test_all_processes_end_within_a_minute_with_the_reason(
    phantom_data, tmp_path, way, place, broken, reason
):
    marker = tmp_path / "broken"
    arguments = tiny_run(
        phantom_data,
        tmp_path / "run",
        "--config.eval_batch_size=4",
        "--config.devices.data=2",
        "--config.patch.devices.data=2",
    )
    head = [sys.executable, "-c", _BROKEN_RUN, way, place, str(broken), str(marker)]
    environment = cached_environment(Path(os.environ["JAX_COMPILATION_CACHE_DIR"]))
    processes = start_two(head, arguments, environment, tmp_path)
    survivor, gone = processes[1 - broken], processes[broken]
    said, last_said = (tmp_path / f"{n}.err" for n in (1 - broken, broken))
    try:
        deadline = time.monotonic() + 300
        while not marker.exists():
            assert gone.poll() is None, last_said.read_text()[-2000:]
            assert time.monotonic() < deadline
            time.sleep(0.2)
        code = survivor.wait(timeout=_SECONDS)
        assert reason in said.read_text(), said.read_text()[-1500:]
        if (way, broken) == ("SIGKILL", 0):  # JAX cannot be kept from ending it.
            assert code == -signal.SIGABRT
            return
        assert code == 1
        lines = said.read_text().splitlines()
        errors = [line for line in lines if line.startswith("error: ")]
        assert len(errors) == 1
        assert reason in errors[0]
        assert "Traceback" not in said.read_text()
        if way == "fails":
            assert gone.wait(timeout=_SECONDS) == 1
            assert "error: the disk is full" in last_said.read_text()
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.mark.parametrize("missing", ["--config=", "JAX_PLATFORMS"])
def test_what_is_wrong_before_all_have_joined_is_one_line(tmp_path, missing):
    arguments = {"--config=": "configs/whole_res.py", "--workdir=": tmp_path / "run"}
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    if missing in arguments:
        del arguments[missing]
    else:
        environment["JAX_PLATFORMS"] = "none_such"
    done = subprocess.run(
        command(
            *(f"{name}{value}" for name, value in arguments.items()),
            f"--coordinator=127.0.0.1:{free_port()}",
        ),
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    errors = [x for x in done.stderr.splitlines() if x.startswith("error: ")]
    assert len(errors) == 1
