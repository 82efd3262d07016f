"""Where the time of a train step on this machine's CPU goes, by kind of operation.

  python -m benchmarks.operation_profile --out=docs/cpu_profile.md

For each workload of `benchmarks.side_by_side` one step is traced, and the durations of
its operations are added up by kind. Beside them stand what the machine can do at best,
measured in the same call: the speed of a large matrix product, and of reading and
writing memory.
A convolution's share of the first and an element-wise operation's share of the second
say how near to the limit they are.
"""

import argparse
import collections
import gzip
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

# Before jax is imported: what a trace of the CPU's operations needs.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_cpu_enable_xprof_traceme=true"
)

import jax
import jax.numpy as jnp

from benchmarks import side_by_side
from benchmarks.peers import mammo_jax_steps
from benchmarks.train_steps import count_flops
from mammo_jax.common.progress import progress
from mammo_jax.cpu import onednn
from mammo_jax.models.compiling import jit_network

WORKLOADS = (
    "resnet50_patch",
    "resnet50_whole",
    "vgg16_whole",
    "resnet50_patch_bf16",
    "resnet50_whole_bf16",
)
# The beginning of an operation's name in the compiled program, and its kind; the first
# that fits.
KINDS = (
    ("ffi_call", "convolutions"),
    ("ynn_fusion", "sums and products"),
    ("dot", "sums and products"),
    ("copy", "copies"),
    ("transpose", "copies"),
    ("", "element by element"),
)
_SIDE, _FLOATS = 4096, 1 << 28
COLUMNS = (
    *("network", "step, s", "convolutions, s", "GFLOP/s", "of the best"),
    *("sums and products, s", "element by element, s", "GB/s", "of the best"),
    "copies, s",
)
_BYTES = {"f32": 4, "bf16": 2, "pred": 1, "u16": 2, "s32": 4, "u8": 1}


def best_seconds(function: Callable[[], object], rounds: int = 5) -> float:
    """The fastest call after one that is not counted."""
    seconds = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        jax.block_until_ready(function())
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def best_product(dtype: str) -> float:
    """GFLOP/s of a product of two square matrices, summed in float32."""
    matrix = jnp.ones((_SIDE, _SIDE), dtype)
    product = jit_network(
        lambda a, b: jnp.einsum("ij,jk", a, b, preferred_element_type=jnp.float32)
    )
    return 2 * _SIDE**3 / best_seconds(lambda: product(matrix, matrix)) / 1e9


def best_copy() -> float:
    """GB/s, read and written, of adding one to a gigabyte of float32."""
    values = jnp.zeros(_FLOATS, jnp.float32)
    add = jit_network(lambda x: x + 1)
    return 2 * 4 * _FLOATS / best_seconds(lambda: add(values)) / 1e9


def trace(function: Callable[[], object]) -> Mapping[str, float]:
    """Seconds of every operation of one call, by its name in the compiled program."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            function()
        (file,) = Path(folder).rglob("*.trace.json.gz")
        events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    seconds: collections.Counter[str] = collections.Counter()
    for event in events:
        if event.get("ph") == "X" and "hlo_op" in event.get("args", {}):
            # A loop's time is that of the operations in it.
            if event["name"].startswith(("while", "call", "conditional")):
                continue
            seconds[event["name"]] += event["dur"] / 1e6
    return seconds


def kind_of(name: str) -> str:
    """Of an operation."""
    return next(kind for start, kind in KINDS if name.startswith(start))


def bytes_of(program: str) -> Mapping[str, int]:
    """What every operation of a compiled program reads and writes at least."""
    sizes, lines = {}, []
    for line in program.splitlines():
        found = re.match(r"\s*(?:ROOT )?%?([\w.\-]+) = (\w+)\[([\d,]*)\]\S* (.*)", line)
        if found:
            name, dtype, shape, rest = found.groups()
            elements = 1
            for length in shape.split(","):
                elements *= int(length or 1)
            sizes[name] = elements * _BYTES.get(dtype, 4)
            lines.append((name, rest.split("calls=")[0]))
    return {
        name: sizes[name]
        + sum(sizes.get(operand, 0) for operand in re.findall(r"%([\w.\-]+)", rest))
        for name, rest in lines
    }


def profile(name: str, products: Mapping[str, float], copy: float) -> tuple[str, ...]:
    """The row of a workload."""
    workload, _ = side_by_side.WORKLOADS[name]
    steps, abstract = mammo_jax_steps.prepare_with_program(workload)
    step = best_seconds(steps.train, 2)
    times = trace(steps.train)
    by_kind: collections.Counter[str] = collections.Counter()
    for operation, seconds in times.items():
        by_kind[kind_of(operation)] += seconds
    compiled = abstract.function.lower(abstract.state, abstract.batch).compile()
    moved = bytes_of(compiled.as_text())
    elementwise = [op for op in times if kind_of(op) == "element by element"]
    gigabytes = sum(moved.get(operation, 0) for operation in elementwise) / 1e9
    speed = count_flops(*abstract) / by_kind["convolutions"] / 1e9
    rate = gigabytes / by_kind["element by element"]
    return (
        name,
        f"{step:.2f}",
        f"{by_kind['convolutions']:.2f}",
        f"{speed:.0f}",
        f"{speed / products[workload.dtype]:.0%}",
        f"{by_kind['sums and products']:.2f}",
        f"{by_kind['element by element']:.2f}",
        f"{rate:.0f}",
        f"{rate / copy:.0%}",
        f"{by_kind['copies']:.2f}",
    )


def main() -> None:
    """Measures, prints, and writes the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=WORKLOADS)
    parser.add_argument("--out", type=Path)
    flags = parser.parse_args()
    if not onednn.is_faster():
        parser.error("XLA convolves here, and does not tell convolutions from the rest")
    names = [
        name
        for name in flags.workloads
        if onednn.computes_in(side_by_side.WORKLOADS[name][0].dtype)
    ]
    products = {dtype: best_product(dtype) for dtype in ("float32", "bfloat16")}
    copy = best_copy()
    rows = [COLUMNS, ("---",) * len(COLUMNS)]
    for name in progress(names, "profiles", unit="workload"):
        rows.append(profile(name, products, copy))
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    page = (
        f"On {side_by_side.machine()}. A product of two {_SIDE}x{_SIDE} matrices runs "
        f"at {products['float32']:.0f} GFLOP/s in float32 and at "
        f"{products['bfloat16']:.0f} in bfloat16, memory is read and written at "
        f"{copy:.0f} GB/s.\n\n{table}\n"
    )
    print(page)
    if flags.out:
        flags.out.write_text(f"{_HEAD}\n{page}")


_HEAD = """# Where the time of a train step on a CPU goes

Written by `python -m benchmarks.operation_profile --out=docs/cpu_profile.md`. Forward
and backward pass of all layers and Adam, as in the table of performance.md. Durations
are added up over operations that run one after the other, each on all cores; what is
missing to the step is between operations. Convolutions' GFLOP are XLA's count of the
whole step, of which they are nearly all. The bytes are the sizes of what an operation
reads and writes.
"""

if __name__ == "__main__":
    main()
