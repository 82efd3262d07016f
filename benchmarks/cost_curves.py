"""How the cost of training grows, as a table and curves in docs/.

  PYTHONPATH=FOLDER JAX_PLATFORMS=cpu python -m benchmarks.cost_curves

The whole train step of the paper's network, all layers, Adam, float32, in two figures:
its time on this machine's CPU, and the memory that it takes on a CUDA card, which
benchmarks/cuda_target.py plans without one (it says what FOLDER must hold). Against
the size of the image, from a quarter of the paper's to the original resolution, the
batch, the microbatches that it is cut into, the devices (a core each, with XLA's own
kernels), and the number of training images: for these, the time until the first batch
and the memory of the process.

One curve alone: --curves=size. The rows of the others stay as they are in the table.
"""

import argparse
import csv
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import psutil
from ml_collections import ConfigDict

from benchmarks import cuda_target
from benchmarks.model_costs import HYBRID, model_config
from benchmarks.train_steps import STEPS_PER_EPOCH, abstract_step
from mammo_jax.common import devices
from mammo_jax.common.devices import start_devices
from mammo_jax.cpu import onednn
from mammo_jax.datasets import pipeline
from mammo_jax.datasets.augment import Augmentation
from mammo_jax.models import build_model, read_model_config
from mammo_jax.models.compiling import peak_bytes
from mammo_jax.training.stage_step import make_train_step
from mammo_jax.training.state import TrainState

RUN = (sys.executable, "-m", "benchmarks.cost_curves")
DOCS = Path(__file__).parents[1] / "docs"
COLUMNS = ("curve", "line", "x", "seconds", "gigabytes")
PAPER_HEIGHT = 1152
BASE_HEIGHT = 288
# Time is measured for as many as there are cores, memory planned for all.
DEVICES = (1, 2, 4)
STAGE = "stage2"
CUT_BATCH = 4

Row = tuple[str, str, int, float | None, float | None]


def make_config(height: int, batch: int, microbatches: int, **model: Any) -> ConfigDict:
    """The paper's best model at another size."""
    config = model_config("resnet50", HYBRID)
    config.model.image_size = (height, height * 7 // 9)
    config.model.update(model)
    config.batch_size, config.accum_steps = batch, microbatches
    return config


def make_step(
    config: ConfigDict, mesh: jax.sharding.Mesh | None = None
) -> tuple[Callable, TrainState]:
    """The step as a run on the CPU has it, and a state with random values."""
    return make_train_step(
        build_model(read_model_config(config.model), 0),
        stages=config.stages,
        stage=STAGE,
        steps_per_epoch=STEPS_PER_EPOCH,
        mesh=mesh,
    )


def make_batch(config: ConfigDict) -> dict[str, np.ndarray]:
    """One batch of noise."""
    batch = {
        key: np.zeros(value.shape, value.dtype)
        for key, value in abstract_step(config, STAGE).batch.items()
    }
    batch["image"] = np.random.default_rng(0).integers(
        0, 65536, batch["image"].shape, dtype=np.uint16
    )
    return batch


def time_step(
    config: ConfigDict, steps: int = 3, mesh: jax.sharding.Mesh | None = None
) -> float:
    """Seconds of a step on the CPU; the fastest of a few."""
    function, state = make_step(config, mesh)
    batch: Mapping[str, Any] = make_batch(config)
    if mesh is not None:
        batch = devices.put_batch(mesh, batch, leading=1)
        state = devices.put_replicated(mesh, state)
    seconds = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        state, loss = function(state, batch)
        loss.block_until_ready()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def plan_memory(config: ConfigDict) -> float | None:
    """Gigabytes of the step on a CUDA card; None without its compiler."""
    if not cuda_target.is_available():
        return None
    step = abstract_step(config, STAGE, cuda_target.mesh())
    compiled = cuda_target.compile_for_cuda(*step)
    return peak_bytes(compiled) / 1e9


def size_rows() -> Iterator[Row]:
    """Against the height of an image; one image a step."""
    for height in (288, 576, 1152, 2304, 4608):
        steps = 3 if height <= PAPER_HEIGHT else 1
        config = make_config(height, 1, 1)
        # Without recomputing, the largest needs more memory than most machines have.
        seconds = time_step(config, steps) if height < 4 * PAPER_HEIGHT else None
        yield "size", "float32", height, seconds, plan_memory(config)
        if height >= PAPER_HEIGHT:
            config = make_config(height, 1, 1, remat=True)
            seconds = time_step(config, steps)
            yield "size", "float32, recomputed", height, seconds, plan_memory(config)
            small = make_config(height, 1, 1, compute_dtype="bfloat16", remat=True)
            yield "size", "bfloat16, recomputed", height, None, plan_memory(small)


def batch_rows() -> Iterator[Row]:
    """Against the batch, which goes through the network as a whole."""
    for batch in (1, 2, 4, 8):
        config = make_config(BASE_HEIGHT, batch, 1)
        yield "batch", "float32", batch, time_step(config), plan_memory(config)


def accumulation_rows() -> Iterator[Row]:
    """Against the microbatches that a batch is cut into."""
    for parts in (1, 2, 4):
        config = make_config(BASE_HEIGHT, CUT_BATCH, parts)
        line = f"batch of {CUT_BATCH}"
        yield "accumulation", line, parts, time_step(config), plan_memory(config)


def time_on_devices(data: int, spatial: int) -> float | None:
    """Seconds of a step on CPU devices, a core for each; None without the cores."""
    if len(os.sched_getaffinity(0)) < data * spatial:
        return None
    command = [*RUN, "--as_devices", str(data), str(spatial)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout)


def print_time_on_devices(data: int, spatial: int) -> None:
    """What `time_on_devices` reads; XLA's kernels on one device, too."""
    onednn.is_faster = lambda: False  # type: ignore[assignment]
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: data * spatial])
    jax.config.update("jax_num_cpu_devices", data * spatial)
    config = make_config(BASE_HEIGHT, CUT_BATCH, 1)
    print(time_step(config, mesh=devices.make_mesh(data, spatial)))


def device_rows() -> Iterator[Row]:
    """Against the devices: time, and the memory of each, planned for CPU devices."""
    for number in DEVICES:
        for line, (data, spatial) in {
            "images spread": (number, 1),
            "rows of the images spread": (1, number),
        }.items():
            config = make_config(BASE_HEIGHT, CUT_BATCH, 1)
            mesh = devices.make_mesh(data, spatial)
            function, state = make_step(config, mesh)
            batch = devices.put_batch(mesh, make_batch(config), leading=1)
            state = devices.put_replicated(mesh, state)
            compiled = function.lower(state, batch).compile()
            gigabytes = peak_bytes(compiled) / 1e9
            yield "devices", line, number, time_on_devices(data, spatial), gigabytes


class Repeated:
    """One example as often as is asked for."""

    def __init__(self, example: Mapping[str, Any], length: int):
        self._example, self._length = example, length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: Any) -> Mapping[str, Any]:
        return self._example


def dataset_rows() -> Iterator[Row]:
    """Against the number of training images: until the first batch, and memory."""
    example = {
        "image": np.zeros((BASE_HEIGHT, 224, 1), np.uint16),
        "label": 0,
        **dict.fromkeys(("image_id", "patient_id", "laterality", "view"), ""),
    }
    for images in (10**3, 10**4, 10**5, 10**6, 10**7):
        start = time.perf_counter()
        batches = pipeline.training_batches(
            Repeated(example, images), 2, Augmentation(), seed=0, start=7, threads=1
        )
        next(batches)
        seconds = time.perf_counter() - start
        memory = psutil.Process().memory_info().rss / 1e9
        yield "dataset", "until the first batch", images, seconds, memory


# The curve, what makes it, and what is below it.
CURVES: dict[str, tuple[Callable[[], Iterator[Row]], str]] = {
    "size": (size_rows, "height of the image (width 7/9 of it), one image"),
    "batch": (batch_rows, f"images in a batch, {BASE_HEIGHT}x224"),
    "accumulation": (
        accumulation_rows,
        f"microbatches of a batch of {CUT_BATCH}, {BASE_HEIGHT}x224",
    ),
    "devices": (
        device_rows,
        f"devices, batch of {CUT_BATCH}, {BASE_HEIGHT}x224; memory of each",
    ),
    "dataset": (dataset_rows, "training images; memory of the process"),
}


def read_rows(path: Path) -> list[Row]:
    """The rows of an earlier run; none without one."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [
            (
                row["curve"],
                row["line"],
                int(row["x"]),
                *(float(row[name]) if row[name] else None for name in COLUMNS[3:]),
            )
            for row in csv.DictReader(file)
        ]


def write_rows(path: Path, rows: list[Row]) -> None:
    """Writes the table, its curves in their order."""
    order = {name: number for number, name in enumerate(CURVES)}
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for row in sorted(rows, key=lambda row: order[row[0]]):
            writer.writerow([f"{x:.4g}" if isinstance(x, float) else x for x in row])


def draw(path: Path, rows: list[Row]) -> None:
    """Draws every curve: time above, memory below."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator

    figure, axes = plt.subplots(2, len(CURVES), figsize=(4 * len(CURVES), 6.4))
    for column, (name, (_, below)) in enumerate(CURVES.items()):
        of_curve = [row for row in rows if row[0] == name]
        names = sorted({row[1] for row in of_curve})
        for axis, index, title in zip(
            axes[:, column], (3, 4), COLUMNS[3:], strict=True
        ):
            for line, points in itertools.groupby(
                sorted(of_curve, key=lambda row: row[1:3]), key=lambda row: row[1]
            ):
                known = [(row[2], row[index]) for row in points if row[index]]
                if known:
                    colour = f"C{names.index(line)}"
                    axis.plot(*zip(*known, strict=True), "o-", c=colour, label=line)
            if not axis.lines:
                axis.set_axis_off()
                continue
            axis.set_xscale("log", base=10 if name == "dataset" else 2)
            if name != "dataset":
                ticks = sorted({row[2] for row in of_curve})
                axis.set_xticks(ticks, [str(tick) for tick in ticks])
            if name == "size":
                axis.set_yscale("log")
                axis.yaxis.set_major_formatter("{x:g}")
                axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axis.yaxis.set_minor_formatter("")
            else:
                axis.set_ylim(0, 1.2 * axis.dataLim.y1)
            axis.set_title(f"{name}: {title}", fontsize=10)
            axis.set_xlabel(below, fontsize=8)
            axis.grid(alpha=0.3)
            axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=80)


def main() -> None:
    """Measures the curves asked for, and writes the table and the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--curves", nargs="+", choices=CURVES, default=list(CURVES))
    parser.add_argument("--as_devices", nargs=2, type=int, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    chosen = flags.curves
    if flags.as_devices:
        print_time_on_devices(*flags.as_devices)
        return
    if len(chosen) > 1:  # Each in a process of its own: JAX keeps memory and devices.
        for name in chosen:
            subprocess.run([*RUN, "--curves", name], check=True)
        return
    if chosen == ["devices"]:
        jax.config.update("jax_num_cpu_devices", DEVICES[-1])
    start_devices()
    table = DOCS / "cost_curves.csv"
    rows = [row for row in read_rows(table) if row[0] not in chosen]
    for name in chosen:
        for row in CURVES[name][0]():
            print(*row, flush=True)
            rows.append(row)
            write_rows(table, rows)
    draw(DOCS / "cost_curves.png", rows)


if __name__ == "__main__":
    main()
