"""Tiny runs of the whole command, patch stage and all."""

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
# VGG16 with few channels: compiles in seconds and has everything that a run has.
_TINY = (
    "--config.model.trunk=vgg16",
    "--config.model.width=0.0625",
    "--config.model.top.blocks=('4-4-8x1',)",
    "--config.batch_size=4",
    "--config.accum_steps=2",
    "--config.patch.batch_size=8",
    "--config.patch.pretrained=",
    "--config.data.dataset=cbis_ddsm/paper_whole_h288",
    "--config.patch.data.dataset=cbis_ddsm/paper_s1_h288",
    "--config.stages.stage1.epochs=2",
    "--config.stages.stage2.epochs=1",
    "--config.patch.stages.stage1.epochs=1",
    "--config.patch.stages.stage2.epochs=1",
    "--config.patch.stages.stage3.epochs=0",
    "--config.steps_per_epoch=6",
    "--config.patch.steps_per_epoch=4",
    "--config.checkpoint_every_steps=2",
    "--config.patch.checkpoint_every_steps=2",
    "--config.log_every_steps=1",
)


def command(*arguments: object) -> list[str]:
    """The command line of a run."""
    return [sys.executable, "-m", "mammo_jax.main", *map(str, arguments)]


def cached_environment(cache: Path) -> dict[str, str]:
    """The environment of runs that keep what they compile in the folder `cache`."""
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


def tiny_run(data: Path, workdir: Path, *more: object) -> tuple[object, ...]:
    """Arguments of a run of a few steps on the phantoms below `data`."""
    return (
        "--config=configs/whole_res.py",
        f"--workdir={workdir}",
        f"--config.data.data_dir={data}",
        *_TINY,
        *more,
    )


def results(workdir: Path) -> dict[str, str]:
    """What a run must give bit for bit again."""
    names = ("metrics.json", "predictions/test.csv", "predictions/validation.csv")
    return {
        f"{part}{name}": (workdir / part / name).read_text()
        for part in ("", "patch/")
        for name in names
    }
