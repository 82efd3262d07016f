"""Tiny runs, patch stage and all, as commands or within the test's process."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from ml_collections import ConfigDict

from mammo_jax.config import whole_config

REPOSITORY = Path(__file__).parents[2]
# VGG16 with few channels: compiles in seconds and has everything that a run has.
_TINY = {
    "model.trunk": "vgg16",
    "model.width": 0.0625,
    "model.top.blocks": ("4-4-8x1",),
    "batch_size": 4,
    "accum_steps": 2,
    "patch.batch_size": 8,
    "patch.pretrained": "",
    "data.dataset": "cbis_ddsm/paper_whole_h288",
    "patch.data.dataset": "cbis_ddsm/paper_s1_h288",
    "stages.stage1.epochs": 2,
    "stages.stage2.epochs": 1,
    "patch.stages.stage1.epochs": 1,
    "patch.stages.stage2.epochs": 1,
    "patch.stages.stage3.epochs": 0,
    "steps_per_epoch": 6,
    "patch.steps_per_epoch": 4,
    "checkpoint_minutes": 0.0,
    "patch.checkpoint_minutes": 0.0,
    "log_every_steps": 1,
}


def tiny_config(data: Path, **fields: object) -> ConfigDict:
    """Returns the configuration of a run of a few steps on the phantoms below `data`.

    Args:
      data: folder of the packaged phantoms.
      **fields: further fields, their dots written as two underscores.
    """
    config = whole_config()
    changes = {name.replace("__", "."): value for name, value in fields.items()}
    config.update_from_flattened_dict({**_TINY, "data.data_dir": str(data), **changes})
    return config


def tiny_run(data: Path, workdir: Path, *more: object) -> tuple[object, ...]:
    """Returns the arguments of the command for the same."""
    return (
        "--config=configs/whole_res.py",
        f"--workdir={workdir}",
        f"--config.data.data_dir={data}",
        *(f"--config.{name}={value}" for name, value in _TINY.items()),
        *more,
    )


def command(*arguments: object) -> list[str]:
    """Returns the command line of a run."""
    return [sys.executable, "-m", "mammo_jax.main", *map(str, arguments)]


def cached_environment(cache: Path) -> dict[str, str]:
    """Returns the environment of runs that keep what they compile in `cache`.

    It is not that of all tests: a run that is killed may leave half a program there.
    """
    return {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


def run(
    environment: dict[str, str], *arguments: object
) -> subprocess.CompletedProcess[str]:
    """Runs the command to its end."""
    return subprocess.run(
        command(*arguments),
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def results(workdir: Path) -> dict[str, str]:
    """Returns the contents that a run must give bit for bit again."""
    names = ("metrics.json", "predictions/test.csv", "predictions/validation.csv")
    return {
        f"{part}{name}": (workdir / part / name).read_text()
        for part in ("", "patch/")
        for name in names
    }


def free_port() -> int:
    """Returns a port of this machine that nobody listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def start_two(
    head: list[str], arguments: Iterable[object], environment: dict[str, str], out: Path
) -> list[subprocess.Popen[str]]:
    """Starts both processes of a run; what they say is in `out`/N.out and N.err."""
    coordinator = f"--coordinator=127.0.0.1:{free_port()}"
    started = []
    for number in range(2):
        files = [(out / f"{number}.{end}").open("w") for end in ("out", "err")]
        line = [*head, *arguments, coordinator, "--processes=2", f"--process={number}"]
        started.append(
            subprocess.Popen(
                [*map(str, line)],
                cwd=REPOSITORY,
                env=environment,
                stdout=files[0],
                stderr=files[1],
                text=True,
            )
        )
        for file in files:
            file.close()
    return started
