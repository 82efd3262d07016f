"""Train steps and scoring beside PyTorch and Keras, on this machine.

  make bench                    # everything, and the other benchmarks
  python -m benchmarks.side_by_side --workloads=resnet50_patch --rounds=3
  python -m benchmarks.side_by_side --gpu --steps=20

Every visit is a process of its own, so that its memory is its own; the peers take turns
within a round. Each visit runs one step that is not counted, then times `--steps` of
them, then scoring. The table has the median over all, the memory is the largest
resident size after training; a ratio above 1 says that this project was faster, or
needed less. On a GPU each may take 6.44 GB, and its memory is the most that the
framework's allocator had given out.
"""

import argparse
import collections
import importlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.cuda_target import MOST_BYTES
from benchmarks.pages import split_at_markers, write_between_markers
from benchmarks.peers.workload import GPU_SHARE, Workload
from mammo_jax.common.errors import run_command

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
_HIDE_GPU = {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
# Of x86-64, as Linux calls them; the best first.
_VECTOR_UNITS = {"amx_bf16": "with AMX", "avx512f": "with AVX-512", "avx2": "with AVX2"}


def visit(peer: str, name: str, steps: int) -> Results:
    """Times one peer in this process; seconds, and memory in GB."""
    workload, _ = WORKLOADS[name]
    prepared = importlib.import_module(f"benchmarks.peers.{peer}_steps").prepare(
        workload
    )
    results: Results = {}
    prepared.train()
    prepared.reset_peak()
    results["train"] = _times(prepared.train, steps)
    results["memory"] = [prepared.peak_bytes() / 1e9]
    prepared.score()
    results["score"] = _times(prepared.score, steps)
    return results


def _times(function, steps: int) -> list[float]:
    seconds = []
    for _ in range(steps):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return seconds


def gpu_environment(cache: str) -> dict[str, str]:
    """Variables that give a program as much of the first GPU as a card of 8 GB has.

    Args:
      cache: folder in which JAX keeps what it compiled.
    """
    share = MOST_BYTES / (int(ask_gpu("memory.total")) << 20)
    return {
        GPU_SHARE: f"{share:.5f}",
        "JAX_PLATFORMS": "cuda",
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


def ask_gpu(field: str) -> str:
    """A field of NVIDIA's driver."""
    query = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader,nounits"]
    done = subprocess.run(query, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[0].strip()


def _visit_in_process(
    peer: str, name: str, steps: int, environment: Mapping[str, str]
) -> Results:
    arguments = ["--as_visit", peer, name, str(steps)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.side_by_side", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"error: {peer} on {name}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(
    name: str, peers: Sequence[str], rounds: int, steps: int, gpu: bool
) -> dict[str, Results]:
    """Every peer's times and memory for one workload."""
    found: dict[str, Results] = {p: collections.defaultdict(list) for p in peers}
    with tempfile.TemporaryDirectory() as cache:
        environment = gpu_environment(cache) if gpu else _HIDE_GPU
        if gpu:  # What its compiler tries out there counts as its peak.
            _visit_in_process(OURS, name, 0, environment)
        for _ in range(rounds):
            for peer, results in found.items():
                visited = _visit_in_process(peer, name, steps, environment)
                for key, values in visited.items():
                    results[key] += values
    return found


def _row(name: str, key: str, found: dict[str, Results]) -> str:
    medians = {peer: statistics.median(results[key]) for peer, results in found.items()}
    best = min(value for peer, value in medians.items() if peer != OURS)
    cells = [_cell(key, medians[p]) if p in medians else "-" for p in _ALL]
    return f"| {name} | {key} | {' | '.join(cells)} | {best / medians[OURS]:.2f} |"


def _cell(key: str, value: float) -> str:
    if key == "memory":
        return f"{value:.2f} GB"
    return f"{value:.2f} s" if value >= 1 else f"{1000 * value:.0f} ms"


def gpu_name() -> str:
    """As its maker calls it."""
    return ask_gpu("name")


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
    parser.add_argument("--peers", default=",".join(_ALL))
    parser.add_argument("--gpu", action="store_true", help="not the CPU")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument(
        "--page", type=Path, help="write the table between the markers of this file"
    )
    parser.add_argument("--as_visit", nargs=3, help=argparse.SUPPRESS)
    flags = parser.parse_args(arguments)
    if flags.as_visit:
        peer, name, steps = flags.as_visit
        print(json.dumps(visit(peer, name, int(steps))))
        return
    names, chosen = flags.workloads.split(","), flags.peers.split(",")
    if not {OURS} < {*chosen} <= {*_ALL}:
        parser.error(f"--peers takes {OURS} and others of {', '.join(_ALL)}")
    unknown = {*names} - {*WORKLOADS}
    if unknown:
        parser.error(f"there is no {', '.join(unknown)}; choose from {[*WORKLOADS]}")
    # On a GPU Keras is not held to its share.
    there = {name: _NO_KERAS if flags.gpu else WORKLOADS[name][1] for name in names}
    peers = {name: [p for p in there[name] if p in chosen] for name in names}
    alone = [name for name in names if len(peers[name]) == 1]
    if alone:
        parser.error(f"none of {flags.peers} is measured beside {OURS} on {alone}")
    table = "speed table, GPU" if flags.gpu else "speed table"
    if flags.page:
        split_at_markers(flags.page, table)  # Before the hour of measuring.
    lines: list[str] = []

    def add(line: str) -> None:
        lines.append(f"{line}\n")
        print(line, flush=True)

    where = gpu_name() if flags.gpu else machine()
    add(f"On {where}; medians of {flags.rounds} x {flags.steps}.\n")
    add("| network | what | mammo_jax | PyTorch | Keras | best peer / mammo_jax |")
    add("|---|---|---|---|---|---|")
    for name in names:
        found = measure(name, peers[name], flags.rounds, flags.steps, flags.gpu)
        for key in ("train", "score", "memory"):
            add(_row(name, key, found))
    if flags.page:
        write_between_markers(flags.page, table, "".join(lines))


if __name__ == "__main__":
    run_command(main)
