"""Feeds damaged files of every kind to the readers of the commands.

    python tests/attack/fuzz.py --files=20000 --seed=0 --out=fuzz_findings

Each file is read in a process with limits on memory and time. A file may be read or
refused by a `UserError`; anything else, a name from its header in a message included,
is a finding: the file is kept in `--out`, named by what happened.
"""

import argparse
import collections
import json
import os
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

import numpy as np
from mutations import mutate
from seeds import CANARY, make_seeds
from targets import TARGETS

from mammo_jax.common.errors import UserError
from mammo_jax.common.parallel import parallel_map

_SECONDS = 20
_BYTES = 3 << 30
_BATCH = 50
_HARMLESS = {"read", "refused"}


class Batch(NamedTuple):
    """Files to make and to read.

    Attributes:
      kind: of the files, see `targets.TARGETS`.
      seeds: whole files.
      numbers: seeds of the mutations, one a file.
      findings: folder that gets the files which do harm.
    """

    kind: str
    seeds: tuple[bytes, ...]
    numbers: tuple[int, ...]
    findings: Path


def attack(files: int, seed: int, findings: Path) -> dict[str, dict[str, int]]:
    """Reads damaged files and counts what comes of it.

    Args:
      files: how many, shared out over the kinds by the number of their whole files.
      seed: of the mutations.
      findings: folder that gets the files which do harm; made if there are any.

    Returns:
      Kind to outcome to number of files. Outcomes are "read", "refused", and findings:
      "raised ...", "leaked", "killed" (no memory, no time, or a crash).
    """
    with tempfile.TemporaryDirectory() as folder:
        seeds = make_seeds(Path(folder))
    whole = sum(map(len, seeds.values()))
    batches = []
    for kind, contents in seeds.items():
        numbers = [seed << 32 | n for n in range(files * len(contents) // whole)]
        batches += [
            Batch(kind, tuple(contents), tuple(numbers[at : at + _BATCH]), findings)
            for at in range(0, len(numbers), _BATCH)
        ]
    counts: dict[str, collections.Counter[str]] = {
        kind: collections.Counter() for kind in seeds
    }
    outcomes = parallel_map(_read_batch, batches, max(os.cpu_count() or 1, 2), _alone)
    for batch, found in zip(batches, outcomes, strict=True):
        counts[batch.kind].update(found)
    return {kind: dict(sorted(found.items())) for kind, found in counts.items()}


def _read_batch(batch: Batch) -> dict[str, int]:
    """Reads a batch in this process, which a bad file may take with it."""
    resource.setrlimit(resource.RLIMIT_AS, (_BYTES, _BYTES))
    counts: collections.Counter[str] = collections.Counter()
    for number in batch.numbers:
        content = mutate(batch.seeds, np.random.default_rng(number))
        signal.alarm(_SECONDS)  # ends the process, inside a codec as well
        outcome = _outcome(batch.kind, content)
        signal.alarm(0)
        counts[outcome] += 1
        if outcome not in _HARMLESS:
            _keep(batch, content, number, outcome)
    return dict(counts)


def _alone(batch: Batch) -> dict[str, int]:
    """Reads one file a process where a batch killed its process."""
    singles = [batch._replace(numbers=(number,)) for number in batch.numbers]
    counts: collections.Counter[str] = collections.Counter()
    # Two: with one worker the files would be read in this process.
    for found in parallel_map(_read_batch, singles, 2, _killed):
        counts.update(found)
    return dict(counts)


def _killed(batch: Batch) -> dict[str, int]:
    (number,) = batch.numbers
    content = mutate(batch.seeds, np.random.default_rng(number))
    _keep(batch, content, number, "killed")
    return {"killed": 1}


def _outcome(kind: str, content: bytes) -> str:
    with tempfile.TemporaryDirectory() as folder:
        try:
            TARGETS[kind](content, Path(folder))
        except UserError as error:
            return "leaked" if CANARY in str(error) else "refused"
        except BaseException as error:
            return f"raised {type(error).__name__}"
    return "read"


def _keep(batch: Batch, content: bytes, number: int, outcome: str) -> None:
    batch.findings.mkdir(parents=True, exist_ok=True)
    name = f"{batch.kind}-{number}-{outcome}".replace(" ", "_")
    (batch.findings / name).write_bytes(content)


def main() -> int:
    """Runs the attack and prints its table; 1 if there are findings."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("fuzz_findings"))
    arguments = parser.parse_args()
    start = time.monotonic()
    table = attack(arguments.files, arguments.seed, arguments.out)
    print(json.dumps(table, indent=2))
    total = sum(sum(found.values()) for found in table.values())
    print(f"{total} files in {time.monotonic() - start:.0f} s")
    harm = [
        o for found in table.values() for o in found if o not in ("read", "refused")
    ]
    if harm:
        print(f"error: files that did harm are in {arguments.out}", file=sys.stderr)
    return int(bool(harm))


if __name__ == "__main__":
    sys.exit(main())
