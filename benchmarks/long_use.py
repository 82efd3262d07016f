"""Does memory stay flat in long use: scoring of thousands of images, many epochs.

  python -m benchmarks.long_use --model=runs/demo --out=runs/long_use

Scores copies of one small mammogram, each with pixels of its own, and trains a tiny
network on a few phantoms. Both run as commands; the resident memory of the command and
of its workers is read every second. Prints a table.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import psutil

from mammo_jax.common.errors import UserError, run_command

# The first part of a run fills caches; memory is flat if the rest needs no more.
_START = 0.3
_MOST_GROWTH = 1.05
_TRAINING = {
    "phantom.cases": 24,
    "phantom.height": 288,
    "data.dataset": "cbis_ddsm/paper_whole_h288",
    "patch.data.dataset": "cbis_ddsm/paper_s1_h288",
    "model.image_size": "(288,224)",
    "model.width": 0.0625,
    "steps_per_epoch": 10,
    "patch.steps_per_epoch": 10,
    "patch.stages.stage1.epochs": 1,
    "stages.stage2.epochs": 0,
    "early_stopping_patience": 0,
}


def write_images(folder: Path, count: int) -> None:
    """Writes PNGs of 640x512 pixels, no two of them alike."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, columns = np.mgrid[:640, :512]
    breast = np.clip(1 - np.hypot((rows - 320) / 300, columns / 400), 0, 1)
    image = (20_000 + 40_000 * breast).astype(np.uint16) * (breast > 0)
    for number in range(count):
        path = folder / f"{number:05d}.png"
        if not path.exists():
            image[0, 0] = number
            cv2.imwrite(str(path), image)


def resident_megabytes(command: Sequence[str]) -> list[float]:
    """Runs a command and reads its memory, workers included, every second.

    Raises:
      UserError: it failed.
    """
    found = []
    with subprocess.Popen(command, stdout=sys.stderr) as process:
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            total = 0
            for one in (watched, *watched.children(recursive=True)):
                try:
                    total += one.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            found.append(total / 2**20)
            time.sleep(1)
    if process.returncode:
        raise UserError(f"{command[2]} ended with exit code {process.returncode}")
    return found


def main(options: argparse.Namespace) -> int:
    """Runs both and prints the table; the exit code is 1 where memory grew."""
    images = options.out / "images"
    write_images(images, options.images)
    fields = _TRAINING | {
        "stages.stage1.epochs": options.epochs,
        "data.data_dir": options.out / "data",
    }
    commands = {
        f"`predict` on {options.images} images": (
            *("mammo_jax.predict", f"--model={options.model}"),
            *(f"--out={options.out / 'scores'}", str(images)),
        ),
        f"training of {options.epochs} epochs": (
            *("mammo_jax.main", "--config=configs/whole_res.py:phantom"),
            f"--workdir={options.out / 'run'}",
            *(f"--config.{name}={value}" for name, value in fields.items()),
        ),
    }
    print("| what | seconds | MB after 30 % | MB at the end | largest |")
    print("| --- | ---: | ---: | ---: | ---: |")
    grew = False
    for name, command in commands.items():
        found = resident_megabytes([sys.executable, "-m", *command])
        start = int(len(found) * _START)
        early, late = (np.median(part) for part in (found[start:][:20], found[-20:]))
        grew |= bool(late > _MOST_GROWTH * early)
        print(
            f"| {name} | {len(found)} | {early:.0f} | {late:.0f} | {max(found):.0f} |",
            flush=True,
        )
    return int(grew)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="a finished run's directory")
    parser.add_argument("--out", type=Path, required=True, help="a folder of its own")
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--epochs", type=int, default=30)
    parsed = parser.parse_args()
    run_command(lambda: main(parsed))
