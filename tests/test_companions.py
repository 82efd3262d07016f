"""Several processes: one that fails or vanishes ends the others, with the reason."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from whole_runs import REPOSITORY, cached_environment, free_port, tiny_run

# A process that breaks where it writes its report, or its first checkpoint.
_BROKEN_RUN = """
import os, signal, sys
from pathlib import Path
from absl import app
from mammo_jax import main
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
    if place == "report":
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
        f"--coordinator=127.0.0.1:{free_port()}",
        "--processes=2",
    )
    head = [sys.executable, "-c", _BROKEN_RUN, way, place, str(broken), str(marker)]
    environment = cached_environment(Path(os.environ["JAX_COMPILATION_CACHE_DIR"]))
    processes = [
        subprocess.Popen(
            [*head, *map(str, arguments), f"--process={number}"],
            cwd=REPOSITORY,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    try:
        while not marker.exists():
            assert processes[broken].poll() is None, processes[broken].communicate()
            time.sleep(0.2)
        survivor, gone = processes[1 - broken], processes[broken]
        _, said = survivor.communicate(timeout=_SECONDS)
        assert reason in said, said[-1500:]
        if (way, broken) == ("SIGKILL", 0):  # JAX cannot be kept from ending it.
            assert survivor.returncode == -signal.SIGABRT
            return
        assert survivor.returncode == 1, said
        errors = [line for line in said.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        assert reason in errors[0]
        assert "Traceback" not in said
        if way == "fails":
            _, said = gone.communicate(timeout=_SECONDS)
            assert gone.returncode == 1
            assert "error: the disk is full" in said
    finally:
        for process in processes:
            process.kill()
            process.communicate()
