"""What XLA plans for a train step, and what it takes on the GPU of this machine.

  python -m benchmarks.card_memory --page=docs/performance.md

The largest models of each kind in `benchmarks.model_costs` train two steps of all
layers, with a batch of 2 as their configuration cuts it and in one microbatch, each in
a process of its own whose allocator has 6.44 GB of the card, what JAX takes of one of 8
by default. A model for which that is not enough is an error. The plan is that of the
program as it was compiled for this card; what was taken is the most that JAX's
allocator had given out, cuDNN's scratch space in it. A process before that one
compiles, since what the compiler tries out would count. GB are 10^9 bytes.
"""

import argparse
import concurrent.futures
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp

from benchmarks import cuda_target
from benchmarks.model_costs import HYBRID, model_config
from benchmarks.pages import split_at_markers, write_between_markers
from benchmarks.side_by_side import gpu_environment, gpu_name
from benchmarks.train_steps import abstract_step
from mammo_jax.common import devices
from mammo_jax.common.errors import UserError, run_command
from mammo_jax.common.progress import progress

_COMMAND = (sys.executable, "-m", "benchmarks.card_memory")
_MARKERS = "card memory"
_COLUMNS = (
    *("trunk", "top", "image"),
    *("planned, GB", "taken, GB"),
    *("in one microbatch: planned, GB", "taken, GB"),
)
_FAILED = ("failed", "failed")
# Trunk, top, preset and stem, as in `model_costs.MODELS`.
_LARGEST = (
    ("resnet50", HYBRID, "paper", "standard"),
    ("resnet50", "heatmap_1x1", "paper", "standard"),
    ("vgg16", "vgg_512x3", "paper", "standard"),
    ("vgg16", HYBRID, "paper", "standard"),
    ("vgg16", "heatmap_1x1", "paper", "standard"),
    ("vgg19", "vgg_512x1", "paper", "standard"),
    ("resnet50", HYBRID, "paper", "gentle"),
    ("resnet50", HYBRID, "full_resolution", "standard"),
    ("vgg16", HYBRID, "full_resolution", "standard"),
)


class Visit(NamedTuple):
    """A model, and into how many microbatches its batch of 2 is cut."""

    trunk: str
    top: str
    preset: str
    stem: str
    accum_steps: int


def visits_of(model: tuple[str, str, str, str]) -> list[Visit]:
    """With one image a microbatch, and in one where that is meant to fit."""
    config = model_config(*model)
    is_heatmap = config.model.top.kind == "heatmap"
    cuts = [config.accum_steps if is_heatmap else config.batch_size]
    if model[2] == "paper" and not is_heatmap:
        cuts.append(1)
    return [Visit(*model, cut) for cut in cuts]


def visit(chosen: Visit) -> tuple[int, int]:
    """Trains two steps in this process.

    Returns:
      The bytes that were planned and those that were taken.
    """
    config = model_config(*chosen[:4])
    config.accum_steps = chosen.accum_steps
    step = abstract_step(config, "stage2")
    compiled = step.function.lower(step.state, step.batch).compile()
    batch = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), step.batch)
    state = devices.lay_out(
        [jnp.zeros(x.shape, x.dtype) for x in step.state],
        [x.format for x in step.state],
    )
    for _ in range(2):
        state, loss = compiled(state, batch)
        jax.block_until_ready((state, loss))
    taken = jax.local_devices()[0].memory_stats()["peak_bytes_in_use"]
    return cuda_target.peak_bytes(compiled), taken


def _visit_in_process(chosen: Visit) -> tuple[str, str]:
    with tempfile.TemporaryDirectory() as cache:
        for _ in range(2):  # The first one compiles.
            done = subprocess.run(
                [*_COMMAND, "--as_visit", json.dumps(chosen)],
                env={**os.environ, **gpu_environment(cache)},
                capture_output=True,
                text=True,
            )
    if done.returncode:
        print(f"{chosen}:\n{done.stderr[-2000:]}", file=sys.stderr)
        return _FAILED
    planned, taken = json.loads(done.stdout.splitlines()[-1])
    return f"{planned / 1e9:.2f}", f"{taken / 1e9:.2f}"


def measure(processes: int) -> Iterator[tuple[str, ...]]:
    """The rows of the table; a few visits at a time."""
    with concurrent.futures.ThreadPoolExecutor(processes) as pool:
        waiting = [
            [pool.submit(_visit_in_process, chosen) for chosen in visits_of(model)]
            for model in _LARGEST
        ]
        for model, futures in zip(_LARGEST, waiting, strict=True):
            trunk, top, _, stem = model
            cells = [cell for future in futures for cell in future.result()]
            yield (
                trunk if stem == "standard" else f"{trunk}, {stem} stem",
                top.replace("_", " "),
                "x".join(map(str, model_config(*model).model.image_size)),
                *[*cells, "-", "-"][:4],
            )


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table, and writes it into a file if asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, default=1, help="at a time")
    parser.add_argument(
        "--page", type=Path, help="write the table between the markers of this file"
    )
    parser.add_argument("--as_visit", help=argparse.SUPPRESS)
    flags = parser.parse_args(arguments)
    if flags.as_visit:
        print(json.dumps(visit(Visit(*json.loads(flags.as_visit)))))
        return
    if flags.page:
        split_at_markers(flags.page, _MARKERS)  # Before the minutes of compiling.
    lines = [f"On {gpu_name()}.\n\n"]
    rows = progress(
        measure(flags.processes), "models", total=len(_LARGEST), unit="model"
    )
    for row in itertools.chain((_COLUMNS, ("---",) * 3 + ("---:",) * 4), rows):
        lines.append(f"| {' | '.join(row)} |\n")
        print(lines[-1], end="", flush=True)
    if flags.page:
        write_between_markers(flags.page, _MARKERS, "".join(lines))
    if any(_FAILED[0] in line for line in lines):
        raise UserError("models failed, see above")


if __name__ == "__main__":
    run_command(main)
