"""What XLA plans for a train step, and what it takes on the GPU of this machine.

  python -m benchmarks.card_memory --readme=README.md

Every model of `benchmarks.model_costs` trains two steps of all layers, with a batch of
2 as its configuration cuts it and in one microbatch, in a process of its own whose
allocator has 7 GB of the card: what a card of 8 GB has left beside the CUDA context.
A model for which that is not enough is an error. The plan is that of the program as it
was compiled for this card; what was taken is the most that JAX's allocator had given
out, cuDNN's scratch space in it. GB are 10^9 bytes.
"""

import argparse
import concurrent.futures
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp

from benchmarks import cuda_target
from benchmarks.model_costs import MODELS, MOST_BYTES, model_config
from benchmarks.pages import split_at_markers, write_between_markers
from benchmarks.side_by_side import gpu_name
from benchmarks.train_steps import abstract_step
from mammo_jax.errors import UserError, run_command
from mammo_jax.progress import progress

_COMMAND = (sys.executable, "-m", "benchmarks.card_memory")
_MARKERS = "card memory"
_COLUMNS = (
    *("trunk", "top", "image"),
    *("planned, GB", "taken, GB"),
    *("in one microbatch: planned, GB", "taken, GB"),
)
_FAILED = "failed"
# Whether the batch is in one microbatch.
_AS_CONFIGURED, _WHOLE_BATCH = 0, 1


def visit(model: int, whole_batch: int) -> tuple[int, int]:
    """Trains two steps in this process.

    Args:
      model: its place in `MODELS`.
      whole_batch: `_AS_CONFIGURED` or `_WHOLE_BATCH`.

    Returns:
      The bytes that were planned and those that were taken.
    """
    config = model_config(*MODELS[model])
    if whole_batch:
        config.accum_steps = 1
    step = abstract_step(config, "stage2")
    compiled = step.function.lower(step.state, step.batch).compile()
    state, batch = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), (step.state, step.batch)
    )
    for _ in range(2):
        state, loss = compiled(state, batch)
        jax.block_until_ready((state, loss))
    taken = jax.local_devices()[0].memory_stats()["peak_bytes_in_use"]
    return cuda_target.peak_bytes(compiled), taken


def _visit_in_process(model: int, whole_batch: int, share: float) -> tuple[str, str]:
    done = subprocess.run(
        [*_COMMAND, "--as_visit", str(model), str(whole_batch)],
        env=os.environ
        | {
            "XLA_PYTHON_CLIENT_MEM_FRACTION": f"{share:.5f}",
            "JAX_PLATFORMS": "cuda",
        },
        capture_output=True,
        text=True,
    )
    if done.returncode:
        print(f"{MODELS[model]}:\n{done.stderr[-2000:]}", file=sys.stderr)
        return _FAILED, _FAILED
    planned, taken = json.loads(done.stdout.splitlines()[-1])
    return f"{planned / 1e9:.2f}", f"{taken / 1e9:.2f}"


def card_bytes() -> int:
    """The memory of this machine's first GPU."""
    query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    done = subprocess.run(query, capture_output=True, text=True, check=True)
    return int(done.stdout.splitlines()[0]) << 20


def measure(processes: int) -> list[tuple[str, ...]]:
    """The rows of the table; a few models at a time."""
    share = MOST_BYTES / card_bytes()
    visits = [
        (model, whole_batch)
        for model, (_, _, preset, _) in enumerate(MODELS)
        for whole_batch in (_AS_CONFIGURED, _WHOLE_BATCH)
        if preset == "paper" or not whole_batch
    ]
    found = {}
    with concurrent.futures.ThreadPoolExecutor(processes) as pool:
        waiting = {pool.submit(_visit_in_process, *v, share): v for v in visits}
        done = concurrent.futures.as_completed(waiting)
        for future in progress(done, "visits", unit="visit", total=len(visits)):
            found[waiting[future]] = future.result()
    rows = []
    for model, (trunk, top, preset, stem) in enumerate(MODELS):
        size = model_config(trunk, top, preset, stem).model.image_size
        rows.append(
            (
                trunk if stem == "standard" else f"{trunk}, {stem} stem",
                top.replace("_", " "),
                "x".join(map(str, size)),
                *found[model, _AS_CONFIGURED],
                *found.get((model, _WHOLE_BATCH), ("-", "-")),
            )
        )
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table, and writes it into a file if asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, default=1, help="at a time")
    parser.add_argument(
        "--readme", type=Path, help="write the table between the markers of this file"
    )
    parser.add_argument("--as_visit", nargs=2, type=int, help=argparse.SUPPRESS)
    flags = parser.parse_args(arguments)
    if flags.as_visit:
        print(json.dumps(visit(*flags.as_visit)))
        return
    if flags.readme:
        split_at_markers(flags.readme, _MARKERS)  # Before the minutes of compiling.
    rows = [_COLUMNS, ("---",) * 3 + ("---:",) * 4, *measure(flags.processes)]
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    print(f"On {gpu_name()}.\n\n{table}")
    if flags.readme:
        write_between_markers(flags.readme, _MARKERS, f"On {gpu_name()}.\n\n{table}")
    if _FAILED in table:
        raise UserError(
            f"models do not train within {MOST_BYTES / 1e9:g} GB, see above"
        )


if __name__ == "__main__":
    run_command(main)
