"""Everything about a card that compiling without one cannot tell, in ten minutes.

  python -m benchmarks.card --minutes=9 --out=DIR

Each visit is a process of its own; this project and PyTorch (eager and `torch.compile`,
channels_last, autocast for bfloat16) take turns. A visit compiles, then times train
steps that are waited for one by one, train steps as a loop runs them, and scoring, and
reads the memory that was planned and the most that the allocator had given out. The
first case is visited three times more: without autotuning, without the layout that
`mammo_jax.models.compiling.BY_CAPABILITY` asks for, and with the state's kernels as JAX
lays them out. Then the whole program trains on phantoms under an allocator of 6.44 GB,
what JAX takes of a card of 8, with nothing compiled before: twice to its end, and once
killed and started again, with `config.deterministic`, which says whether the three end
in the same bits; and once more for every number of workers that read, for images a
second and the share of time that the steps wait. The most telling visits come first;
after `--minutes` no other begins.

DIR gets `card.json`, a record for each visit that was made, and `card.md`, the tables.
GB are 10^9 bytes.
"""

import argparse
import hashlib
import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.cuda_target import MOST_BYTES
from benchmarks.peers.workload import GPU_SHARE, Workload
from benchmarks.side_by_side import ask_gpu, machine
from mammo_jax.common import devices
from mammo_jax.common.errors import UserError, run_command
from mammo_jax.models import compiling

_COMMAND = (sys.executable, "-m", "benchmarks.card")
_OURS, _EAGER, _COMPILED = "mammo_jax", "pytorch", "pytorch, compiled"
_NOT_TUNED = "mammo_jax, not tuned"
_ANY_LAYOUT = "mammo_jax, layouts left to XLA"
_PLAIN_KERNELS = "mammo_jax, kernels as JAX lays them out"
_PEERS = (_OURS, _EAGER, _COMPILED)
# Step, batch and its cuts; the most telling first.
_CASES = {
    f"{trunk}_{task}_{dtype}_{batch // cuts}x{cuts}": Workload(
        trunk, task, batch, cuts, dtype
    )
    for trunk, task, batch, cuts, dtype in (
        ("resnet50", "whole", 2, 1, "float32"),
        ("resnet50", "whole", 2, 1, "bfloat16"),
        ("resnet50", "patch", 32, 1, "float32"),
        ("resnet50", "patch", 32, 1, "bfloat16"),
        ("vgg16", "whole", 2, 1, "float32"),
        ("vgg16", "whole", 2, 1, "bfloat16"),
        ("resnet50", "whole", 2, 2, "float32"),
        ("resnet50", "whole", 2, 2, "bfloat16"),
        ("vgg16", "patch", 32, 1, "float32"),
        ("vgg16", "whole", 2, 2, "float32"),
    )
}
# Folders of what is compiled.
_CACHE, _NOT_TUNED_CACHE, _PROGRAM_CACHE = "cache", "cache_not_tuned", "cache_program"
_WORKERS = (0, 2, 4, 8)
_COLUMNS = {
    "compile_s": "compiling, s",
    "step_ms": "step, waited for, ms",
    "loop_ms": "step, in a loop, ms",
    "score_ms": "scoring, ms",
    "planned_gb": "planned, GB",
    "taken_gb": "taken, GB",
}


def visit(peer: str, case: str, steps: int) -> dict[str, float]:
    """Measures one peer on one case, in this process."""
    module = "mammo_jax_steps" if peer.startswith(_OURS) else "pytorch_steps"
    if peer == _ANY_LAYOUT:
        compiling.BY_CAPABILITY.clear()
        devices.KERNELS_OF_A_GPU = (3, 2, 0, 1)  # If that is channels first.
    if peer == _PLAIN_KERNELS:
        devices._is_of_gpus = lambda sharding: False
    peers: Any = importlib.import_module(f"benchmarks.peers.{module}")
    options = {"compiled": True} if peer == _COMPILED else {}
    if module == "mammo_jax_steps":
        prepared, step = peers.prepare_with_program(_CASES[case])
    else:
        prepared, step = peers.prepare(_CASES[case], **options), None
    start = time.perf_counter()
    prepared.train()
    found = {"compile_s": time.perf_counter() - start}
    prepared.reset_peak()
    found["step_ms"] = 1000 * statistics.median(_times(prepared.train, steps))
    start = time.perf_counter()
    prepared.loop(steps)
    found["loop_ms"] = 1000 * (time.perf_counter() - start) / steps
    found["taken_gb"] = prepared.peak_bytes() / 1e9
    prepared.score()
    found["score_ms"] = 1000 * statistics.median(_times(prepared.score, steps))
    if step is not None:  # Compiled already, and kept.
        compiled = step.function.lower(step.state, step.batch).compile()
        found["planned_gb"] = compiling.peak_bytes(compiled) / 1e9
    return found


def _times(function: Any, steps: int) -> Iterator[float]:
    for _ in range(steps):
        start = time.perf_counter()
        function()
        yield time.perf_counter() - start


def _environment(out: Path, share: float | None, cache: str = _CACHE) -> dict[str, str]:
    """Returns variables for a visit: `share` of the card's memory, or a CPU's."""
    own = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(out / cache)}
    if share is None:
        return own | {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    if cache == _NOT_TUNED_CACHE:
        flags = os.environ.get("XLA_FLAGS", "")
        own["XLA_FLAGS"] = f"{flags} --xla_gpu_autotune_level=0"
    return own | {"JAX_PLATFORMS": "cuda", GPU_SHARE: f"{share:.5f}"}


def _visit_in_process(
    peer: str, case: str, steps: int, environment: dict[str, str], seconds: float
) -> dict[str, Any]:
    record: dict[str, Any] = {"peer": peer, "case": case}
    try:
        done = subprocess.run(
            [*_COMMAND, "--as_visit", peer, case, str(steps)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        return record | {"failed": f"not done after {seconds:.0f} s"}
    if done.returncode:
        return record | {"failed": done.stderr.strip()[-300:]}
    return record | json.loads(done.stdout.splitlines()[-1])


def _program(
    out: Path,
    name: str,
    environment: dict[str, str],
    *,
    fields: Sequence[str] = (),
    kill_after: float | None = None,
) -> float:
    """Runs `mammo_jax.main` on phantoms; returns its seconds."""
    command = [
        *(sys.executable, "-m", "mammo_jax.main", "--config=configs/whole_res.py"),
        f"--workdir={out / name}",
        f"--config.data.data_dir={out / 'phantoms'}",
        *("--config.phantom.cases=24", "--config.patch.pretrained="),
        *("--config.steps_per_epoch=20", "--config.patch.steps_per_epoch=20"),
        *(f"--config.stages.stage{n}.epochs=1" for n in (1, 2)),
        *(f"--config.patch.stages.stage{n}.epochs={n == 3:d}" for n in (1, 2, 3)),
        *fields,
    ]
    start = time.perf_counter()
    with open(out / f"{name}.log", "ab") as log:
        running = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            running.wait(kill_after)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()
            return time.perf_counter() - start
    if running.returncode:
        raise UserError(f"a run failed, see {out / name}.log")
    return time.perf_counter() - start


def program_records(out: Path, environment: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Yields what the whole program does: bits of three runs, then speed by workers."""
    fields = ("--config.deterministic=True", "--config.checkpoint_minutes=0.02")
    bits, seconds = [], 0.0
    for name in ("first", "second", "killed"):
        if name == "killed":  # In the middle of what the others took.
            _program(out, name, environment, fields=fields, kill_after=0.6 * seconds)
        seconds = _program(out, name, environment, fields=fields)
        model = (out / name / "model.safetensors").read_bytes()
        bits.append(hashlib.sha256(model).hexdigest())
        same = bits[-1] == bits[0]
        yield {"run": name, "seconds": seconds, "same_bits_as_first": same}
    for workers in _WORKERS:
        name = f"workers_{workers}"
        more = (f"--config.data.workers={workers}", f"--config.init_from={out}/first")
        _program(out, name, environment, fields=(*more, "--config.steps_per_epoch=100"))
        yield {"workers": workers, **_speed(out / name / "whole")}


def _speed(events: Path) -> dict[str, float]:
    """Reads the last speed that a run wrote for TensorBoard."""
    from tensorboard.backend.event_processing.event_accumulator import (
        EventAccumulator,
    )

    found = EventAccumulator(str(events))
    found.Reload()
    return {
        name: found.Scalars(f"speed/{name}")[-1].value
        for name in ("images_per_second", "data_wait_share")
    }


def tables(records: Sequence[dict[str, Any]], where: str) -> str:
    """Returns the records as Markdown."""
    steps = [record for record in records if "case" in record]
    runs = [record for record in records if "case" not in record]
    lines = [f"On {where}.", ""]
    lines += [f"| case | peer | {' | '.join(_COLUMNS.values())} |"]
    lines += [f"|---|---|{'---:|' * len(_COLUMNS)}"]
    for record in steps:
        cells = [f"{record[x]:.4g}" if x in record else "-" for x in _COLUMNS]
        if "failed" in record:
            cells[0] = "failed: " + record["failed"].splitlines()[-1].replace("|", "/")
        lines.append(f"| {record['case']} | {record['peer']} | {' | '.join(cells)} |")
    lines += ["", "| whole program | figures |", "|---|---|"]
    for record in runs:
        (first, value), *rest = record.items()
        lines.append(f"| {first} {value} | {', '.join(f'{k} {v}' for k, v in rest)} |")
    return "\n".join(lines) + "\n"


def measure(flags: argparse.Namespace) -> list[dict[str, Any]]:
    """Makes the visits for which there is time, and keeps what each of them found."""
    end = time.monotonic() + 60 * flags.minutes
    total = None if flags.cpu else int(ask_gpu("memory.total")) << 20
    where = machine() if flags.cpu else ask_gpu("name")
    whole = None if total is None else 0.9
    small = None if total is None else min(MOST_BYTES / total, 0.9)
    records: list[dict[str, Any]] = []

    def keep(record: dict[str, Any]) -> None:
        records.append(record)
        print(json.dumps(record), flush=True)
        text = json.dumps({"card": where, "records": records}, indent=1)
        (flags.out / "card.json").write_text(text + "\n")
        (flags.out / "card.md").write_text(tables(records, where))

    for number, case in enumerate(flags.cases.split(",")):
        more = [_NOT_TUNED, _ANY_LAYOUT, _PLAIN_KERNELS] if number == 0 else []
        for peer in flags.peers.split(",") + more:
            left = end - time.monotonic()
            if left <= 0:
                return records
            cache = _NOT_TUNED_CACHE if peer == _NOT_TUNED else _CACHE
            environment = _environment(flags.out, whole, cache)
            keep(_visit_in_process(peer, case, flags.steps, environment, left))
        # The whole program after the first two cases: there is most to learn.
        if number == min(1, len(flags.cases.split(",")) - 1) and not flags.steps_only:
            environment = _environment(flags.out, small, _PROGRAM_CACHE)
            for record in program_records(flags.out, environment):
                keep(record)
                if time.monotonic() > end:
                    return records
    return records


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, and writes after every visit."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=9)
    parser.add_argument("--out", type=Path, default=Path("card"))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--cases", default=",".join(_CASES))
    parser.add_argument("--peers", default=",".join(_PEERS))
    parser.add_argument("--steps_only", action="store_true", help="no whole program")
    parser.add_argument("--cpu", action="store_true", help="to try this command out")
    parser.add_argument("--as_visit", nargs=3, help=argparse.SUPPRESS)
    flags = parser.parse_args(arguments)
    if flags.as_visit:
        peer, case, steps = flags.as_visit
        print(json.dumps(visit(peer, case, int(steps))))
        return
    if unknown := {*flags.cases.split(",")} - {*_CASES}:
        parser.error(f"there is no {', '.join(unknown)}; choose from {[*_CASES]}")
    flags.out = flags.out.absolute()
    flags.out.mkdir(parents=True, exist_ok=True)
    measure(flags)


if __name__ == "__main__":
    run_command(main)
