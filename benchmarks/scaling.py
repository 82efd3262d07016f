"""What more devices add to a step: what they exchange, and the host's work.

  PYTHONPATH=FOLDER JAX_PLATFORMS=cpu \
    python -m benchmarks.scaling --page=docs/performance.md

The train step of the paper's network, all layers, is compiled for 1 to 8 H100s without
one (benchmarks/cuda_target.py says what FOLDER must hold) for a batch of 8 in all
(strong scaling) and of 2 for each device (weak), with batch normalisation over all
images and over each device's own: all-reduces of a step, what each device gives into
them, and its memory as planned. The host's work is the time that the main thread of a
process computes for a step, with as many simulated CPU devices: it places a batch of
full size and calls a program that only adds to as many arrays as the state has. The
time of the arithmetic and of the exchange itself is not measured. MB and GB are 10^6
and 10^9 bytes.
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from benchmarks import cuda_target
from benchmarks.gpu_programs import list_exchanges
from benchmarks.model_costs import HYBRID, model_config
from benchmarks.pages import write_between_markers
from benchmarks.train_steps import abstract_step
from mammo_jax.common import devices
from mammo_jax.common.errors import run_command
from mammo_jax.common.progress import progress
from mammo_jax.models.compiling import peak_bytes

MARKER = "scaling"
_DEVICES = (1, 2, 4, 8)
_STRONG, _WEAK = 8, 2
_COLUMNS = (
    *("scaling", "devices", "batch"),
    *("all-reduces", "MB a device gives", "planned, GB"),
    *("all-reduces, own statistics", "MB, own statistics", "host, ms"),
)
_WARM, _TIMED = 5, 40


def make_config(batch: int, *, per_device: bool) -> ConfigDict:
    """The paper's best model with another batch."""
    config = model_config("resnet50", HYBRID)
    config.batch_size = batch
    config.model.batch_norm_per_device = per_device
    return config


def exchanged(number: int, batch: int, *, per_device: bool) -> tuple[int, int, int]:
    """All-reduces of a step, bytes that a device gives into them, bytes of memory."""
    config = make_config(batch, per_device=per_device)
    mesh = cuda_target.mesh(cuda_target.HOPPER, number)
    step = abstract_step(config, "stage2", mesh)
    shapes = devices.abstract_batch(mesh, step.batch, leading=1)
    compiled = cuda_target.compile_for_cuda(
        step.function, step.state, shapes, card=cuda_target.HOPPER, number=number
    )
    sizes = list_exchanges(compiled.as_text())
    return len(sizes), sum(sizes), peak_bytes(compiled)


def host_milliseconds(batch: int) -> float:
    """Time that this process's main thread computes for a step, in milliseconds."""
    config = make_config(batch, per_device=False)
    mesh = devices.make_mesh(jax.device_count(), 1)
    step = abstract_step(config, "stage2", mesh)
    images = {key: np.zeros(x.shape, x.dtype) for key, x in step.batch.items()}
    state = [np.zeros((1,) * len(x.shape), x.dtype) for x in step.state]
    arrays = devices.put_replicated(mesh, state)
    call = jax.jit(
        lambda arrays, batch: ([x + 1 for x in arrays], batch["label"].sum()),
        donate_argnums=0,
        out_shardings=devices.replicated(mesh),
    )
    took = []
    for _ in range(_WARM + _TIMED):
        start = time.thread_time()
        placed = devices.put_batch(mesh, images, leading=1)
        arrays, done = call(arrays, placed)
        took.append(time.thread_time() - start)
        jax.block_until_ready((arrays, done))
    return float(1000 * np.median(took[_WARM:]))


def _host_in_process(number: int, batch: int) -> float:
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": str(number)}
    script = f"from benchmarks import scaling as s; print(s.host_milliseconds({batch}))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment | {"JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return float(done.stdout.splitlines()[-1])


def measure(scaling: str, number: int) -> tuple[str, ...]:
    """A row of the table."""
    batch = _STRONG if scaling == "strong" else _WEAK * number
    (reduces, given, planned), (fewer, less, _) = (
        exchanged(number, batch, per_device=each) for each in (False, True)
    )
    return (
        *(scaling, str(number), str(batch)),
        *(str(reduces), f"{given / 1e6:.1f}", f"{planned / 1e9:.2f}"),
        *(str(fewer), f"{less / 1e6:.1f}"),
        f"{_host_in_process(number, batch):.1f}",
    )


def table(rows: Sequence[Sequence[str]]) -> str:
    """The rows as Markdown."""
    head = [_COLUMNS, ("---",) + ("---:",) * (len(_COLUMNS) - 1)]
    return "".join(f"| {' | '.join(row)} |\n" for row in [*head, *rows])


def main() -> None:
    """Prints the table, and writes it into a file if asked to."""
    page = cuda_target.parse_page(__doc__, MARKER)
    todo = [(scaling, number) for scaling in ("strong", "weak") for number in _DEVICES]
    rows = [measure(*each) for each in progress(todo, "rows", unit="row")]
    print(table(rows), end="")
    if page:
        write_between_markers(page, MARKER, table(rows))


if __name__ == "__main__":
    run_command(main)
