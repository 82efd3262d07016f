"""Train steps and scoring beside PyTorch and Keras, on this machine.

  make bench                    # everything, and the other benchmarks
  python -m benchmarks.side_by_side --workloads=resnet50_patch --rounds=3

Every visit is a process of its own, so that its memory is its own; the peers take turns
within a round. Each visit runs one step that is not counted, then times `--steps` of
them, then scoring. The table has the median over all, the memory is the largest
resident size after training, and a ratio above 1 says that this project was faster, or
needed less.
"""

import argparse
import collections
import importlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.pages import split_at_markers, write_between_markers
from benchmarks.peers.workload import Workload
from mammo_jax.data.memory import start_without_thread_caches
from mammo_jax.errors import run_command

OURS, PYTORCH, KERAS = "mammo_jax", "pytorch", "keras"
_ALL = (OURS, PYTORCH, KERAS)
# Keras is measured as the paper had it: float32, the batch as a whole, all layers.
_NO_KERAS = (OURS, PYTORCH)
WORKLOADS = {
    "resnet50_patch": (Workload("resnet50", "patch", 8), _ALL),
    "resnet50_whole": (Workload("resnet50", "whole", 2), _ALL),
    "resnet50_whole_2x1": (Workload("resnet50", "whole", 2, 2), _NO_KERAS),
    "resnet50_whole_new_layers": (
        Workload("resnet50", "whole", 2, 2, stage="new"),
        _NO_KERAS,
    ),
    "vgg16_patch": (Workload("vgg16", "patch", 8), _ALL),
    "vgg16_whole": (Workload("vgg16", "whole", 2), _ALL),
    "resnet50_patch_bf16": (
        Workload("resnet50", "patch", 8, dtype="bfloat16"),
        _NO_KERAS,
    ),
    "resnet50_whole_bf16": (
        Workload("resnet50", "whole", 2, dtype="bfloat16"),
        _NO_KERAS,
    ),
    "vgg16_patch_bf16": (Workload("vgg16", "patch", 8, dtype="bfloat16"), _NO_KERAS),
    "vgg16_whole_bf16": (Workload("vgg16", "whole", 2, dtype="bfloat16"), _NO_KERAS),
}
Results = dict[str, list[float]]
# Of x86-64, as Linux calls them; the best first.
_VECTOR_UNITS = {"amx_bf16": "with AMX", "avx512f": "with AVX-512", "avx2": "with AVX2"}


def visit(peer: str, name: str, steps: int) -> Results:
    """Times one peer in this process; seconds, and memory in GB."""
    if peer == OURS:
        start_without_thread_caches()  # as mammo_jax.main does
    workload, _ = WORKLOADS[name]
    prepared = importlib.import_module(f"benchmarks.peers.{peer}_steps").prepare(
        workload
    )
    results: Results = {}
    results["train"] = _times(prepared.train, steps)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    results["memory"] = [peak]
    results["score"] = _times(prepared.score, steps)
    return results


def _times(function, steps: int) -> list[float]:
    seconds = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


def _visit_in_process(peer: str, name: str, steps: int) -> Results:
    arguments = ["--as_visit", peer, name, str(steps)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.side_by_side", *arguments],
        env=os.environ | {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"error: {peer} on {name}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(name: str, rounds: int, steps: int) -> dict[str, Results]:
    """Every peer's times and memory for one workload."""
    found: dict[str, Results] = {
        peer: collections.defaultdict(list) for peer in WORKLOADS[name][1]
    }
    for _ in range(rounds):
        for peer, results in found.items():
            for key, values in _visit_in_process(peer, name, steps).items():
                results[key] += values
    return found


def _row(name: str, key: str, found: dict[str, Results]) -> str:
    medians = {peer: statistics.median(results[key]) for peer, results in found.items()}
    best = min(value for peer, value in medians.items() if peer != OURS)
    unit = "GB" if key == "memory" else "s"
    cells = [f"{medians[p]:.2f} {unit}" if p in medians else "-" for p in _ALL]
    return f"| {name} | {key} | {' | '.join(cells)} | {best / medians[OURS]:.2f} |"


def machine() -> str:
    """Of the reader's comparison: cores, and the processor's name and vector units."""
    model = platform.processor()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as lines:
            pairs = (line.split(":", 1) for line in lines if ":" in line)
            facts = {name.strip(): value.strip() for name, value in pairs}
        flags = facts.get("flags", "").split()
        units = [name for flag, name in _VECTOR_UNITS.items() if flag in flags]
        model = " ".join([facts.get("model name", model), *units[:1]])
    return f"{len(os.sched_getaffinity(0))} cores, {model}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table, a row as soon as it is known."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workloads", default=",".join(WORKLOADS))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument(
        "--readme", type=Path, help="write the table between the markers of this file"
    )
    parser.add_argument("--as_visit", nargs=3, help=argparse.SUPPRESS)
    flags = parser.parse_args(arguments)
    if flags.as_visit:
        peer, name, steps = flags.as_visit
        print(json.dumps(visit(peer, name, int(steps))))
        return
    unknown = {*flags.workloads.split(",")} - {*WORKLOADS}
    if unknown:
        parser.error(f"there is no {', '.join(unknown)}; choose from {[*WORKLOADS]}")
    if flags.readme:
        split_at_markers(flags.readme, "speed table")  # Before the hour of measuring.
    lines: list[str] = []

    def add(line: str) -> None:
        lines.append(f"{line}\n")
        print(line, flush=True)

    add(f"On {machine()}; medians of {flags.rounds} x {flags.steps}.\n")
    add("| network | what | mammo_jax | PyTorch | Keras | best peer / mammo_jax |")
    add("|---|---|---|---|---|---|")
    for name in flags.workloads.split(","):
        found = measure(name, flags.rounds, flags.steps)
        for key in ("train", "score", "memory"):
            add(_row(name, key, found))
    if flags.readme:
        write_between_markers(flags.readme, "speed table", "".join(lines))


if __name__ == "__main__":
    run_command(main)
