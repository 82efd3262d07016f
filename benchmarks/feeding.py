"""Measures how far the reading of training images scales with worker processes.

  python -m benchmarks.feeding --out=DIR

Processor time an image, with the paper's augmentation, of the training's process and
of the workers (`config.data.workers`). Without workers all of it is the training's,
most of it under Python's lock, which bounds what threads can do. With workers what is
left to the training's process bounds the rate, however many cores there are; the
workers' share says how many that takes. Processor time hardly depends on what else the
machine does. The images are phantoms, kept in DIR.
"""

import argparse
import contextlib
import os
import resource
from pathlib import Path

from benchmarks import input_pipeline
from benchmarks.input_pipeline import KINDS, Kind, Repeated

_WORKERS, _THREADS, _WARM_UP = (0, 1, 2), 2, 10
_TICKS = os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _children_seconds() -> float:
    """Returns the processor time of the living children (Linux)."""
    total = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # It has just ended.
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[1]) == os.getpid():
                total += int(fields[11]) + int(fields[12])
    return total / _TICKS


def measure(
    kind: Kind, folder: Path, workers: int, batches: int
) -> tuple[float, float]:
    """Returns milliseconds an image: of this process, and of its workers."""
    from mammo_jax.datasets import pipeline
    from mammo_jax.datasets.augment import Augmentation

    source = pipeline.open_dataset(kind.dataset, str(folder / "data")).sources["train"]
    reader = pipeline.training_batches(
        Repeated(source, kind.examples),
        kind.batch_size,
        Augmentation(),
        seed=0,
        start=0,
        threads=_THREADS,
        workers=workers,
    )
    with contextlib.closing(reader):
        for _ in range(_WARM_UP):
            next(reader)
        own, children = _own_seconds(), _children_seconds()
        for _ in range(batches):
            next(reader)
        own, children = _own_seconds() - own, _children_seconds() - children
    images = batches * kind.batch_size
    return 1e3 * own / images, 1e3 * children / images


def main() -> None:
    """Draws the phantoms if they are missing, measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--batches", type=int, default=200)
    parser.add_argument("--cases", type=int, default=30)
    arguments = parser.parse_args()
    if not (arguments.out / "data").exists():
        input_pipeline.prepare(arguments.out, arguments.cases)
    print("| images | workers | ms an image, training | workers | most a second |")
    print("|---|---:|---:|---:|---:|")
    for name, kind in KINDS.items():
        for workers in _WORKERS:
            own, theirs = measure(kind, arguments.out, workers, arguments.batches)
            most = f"{1e3 / own:.0f}" if workers else "-"
            print(f"| {name} | {workers} | {own:.3f} | {theirs:.3f} | {most} |")


if __name__ == "__main__":
    main()
