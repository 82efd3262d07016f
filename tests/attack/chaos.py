"""Kills commands, and fills their disk, at every moment at which they touch a file.

    python tests/attack/chaos.py --command=build,predict,evaluate,train --out=chaos

Every command runs undisturbed once; then once for each moment and harm (see
`disturb`), and then again undisturbed in the same folder. That must end well and with
the same bytes as if nothing had happened. A disturbed command must end by itself, with
one line for a disk without room.
"""

import argparse
import collections
import hashlib
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

from array_record.python.array_record_module import ArrayRecordReader
from tensorflow_datasets.proto import tf_example_pb2
from tiny_runs import write_run
from whole_runs import REPOSITORY, cached_environment, tiny_run

from mammo_jax.evaluation.predictions import COLUMNS
from mammo_jax.phantom import write_cbis_ddsm

_SECONDS = 240
HARMS = ("kill", "full")


class Command(NamedTuple):
    """A command under attack.

    Attributes:
      arguments: makes its program and arguments from the folder that it writes into.
      results: patterns of the files that must come out the same.
    """

    arguments: Callable[[Path], Sequence[object]]
    results: tuple[str, ...]


class Finding(NamedTuple):
    """A disturbance that a command did not stand.

    Attributes:
      command: its name.
      harm: of `HARMS`.
      moment: its number, what was touched and where.
      reason: what came of it.
    """

    command: str
    harm: str
    moment: str
    reason: str


def make_commands(folder: Path) -> dict[str, Command]:
    """Makes raw phantoms, data and a model for the commands to work on."""
    raw, data, model = folder / "raw", folder / "data", folder / "model"
    if not raw.exists():
        write_cbis_ddsm(raw, cases=24, seed=0, height=288, num_workers=1)
        write_run(model)
        for name in ("paper_whole_h288", "paper_s1_h288"):
            _run(folder, *_build(raw, name)(data)).check_returncode()
    images = sorted(raw.rglob("*.dcm"), key=lambda path: -path.stat().st_size)[:3]
    predict = ("-m", "mammo_jax.predict", f"--model={model}")
    table = folder / "predictions.csv"
    rows = [f"im{n},{n / 40:.3f},{n % 3 == 0:d},p{n // 2},LEFT,CC\n" for n in range(40)]
    header = ",".join(COLUMNS) + "\n"
    table.write_text(header + "".join(rows))
    return {
        "build": Command(
            _build(raw, "paper_whole_h288"), ("**/*.array_record*", "**/problems.csv")
        ),
        "predict": Command(
            lambda out: (*predict, f"--out={out}", *images), ("**/*.csv", "**/*.png")
        ),
        "evaluate": Command(
            lambda out: (
                *("-m", "mammo_jax.evaluate"),
                *(f"--predictions={table}", f"--out={out}"),
            ),
            ("**/*.json", "**/*.csv"),
        ),
        "train": Command(
            lambda out: ("-m", "mammo_jax.main", *tiny_run(data, out)),
            ("**/metrics.json", "**/model.safetensors", "**/predictions/*.csv"),
        ),
    }


def _build(raw: Path, name: str) -> Callable[[Path], Sequence[object]]:
    return lambda out: (
        REPOSITORY / "scripts" / "build_dataset.py",
        f"cbis_ddsm/{name}",
        f"--manual_dir={raw}",
        f"--data_dir={out}",
        "--num_workers=1",
    )


def attack(
    names: Sequence[str], folder: Path, most: int, seed: int
) -> Iterator[tuple[str, str, Finding | None]]:
    """Disturbs the commands; yields name, harm and what went wrong, if anything did.

    Args:
      names: of the commands.
      folder: for what they read and write; what is there is taken as it is.
      most: moments a command and harm, drawn by chance where it has more.
      seed: of the draw.
    """
    commands = make_commands(folder)
    for name in names:
        command = commands[name]
        whole, log = folder / f"{name}-undisturbed", folder / f"{name}.log"
        _forget(whole, log)
        _disturbed(folder, whole, log, "count", -1, command).check_returncode()
        moments = log.read_text().splitlines()
        expected = _digests(whole, command.results)
        assert expected, f"{name} has no results"
        drawn = random.Random(seed).sample(range(len(moments)), min(most, len(moments)))
        for harm in HARMS:
            for number in sorted(drawn):
                reason = _disturb(folder, name, command, harm, number, expected)
                moment = f"{number} of {len(moments)}: {moments[number]}"
                finding = Finding(name, harm, moment, reason) if reason else None
                yield name, harm, finding


def _disturb(
    folder: Path,
    name: str,
    command: Command,
    harm: str,
    number: int,
    expected: dict[str, str],
) -> str:
    """Says what is wrong after a disturbance, or nothing."""
    out, log = folder / f"{name}-{harm}", folder / f"{name}-{harm}.log"
    _forget(out, log)
    try:
        ended = _disturbed(folder, out, log, harm, number, command)
        if not log.exists() or not log.read_text():
            return ""  # Threads take their turns: it had fewer moments this time.
        if ended.returncode == 0 and _digests(out, command.results) != expected:
            return "exit code 0 with other results"
        if harm == "full" and ended.returncode != 0 and "Traceback" in ended.stderr:
            return "a traceback: " + ended.stderr[-2000:]
        again = _run(folder, *command.arguments(out))
    except subprocess.TimeoutExpired:
        return f"no end within {_SECONDS} s"
    if again.returncode != 0:
        return "given again it fails: " + again.stderr[-1000:]
    found = _digests(out, command.results)
    differing = {
        key for key in found.keys() | expected if found.get(key) != expected.get(key)
    }
    return f"other results: {', '.join(sorted(differing))}" if differing else ""


def _disturbed(
    folder: Path, out: Path, log: Path, harm: str, number: int, command: Command
) -> subprocess.CompletedProcess[str]:
    disturb = Path(__file__).with_name("disturb.py")
    return _run(folder, disturb, harm, number, out, log, *command.arguments(out))


def _run(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=REPOSITORY,
        env={**cached_environment(folder / "xla"), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=_SECONDS,
    )


def _forget(out: Path, log: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
    log.unlink(missing_ok=True)


def _digests(out: Path, patterns: Sequence[str]) -> dict[str, str]:
    files = {path for pattern in patterns for path in out.glob(pattern)}
    return {
        str(path.relative_to(out)): hashlib.sha256(_content(path)).hexdigest()
        for path in files
    }


def _content(path: Path) -> bytes:
    """Returns a file's bytes; for records, those of their fields in a fixed order.

    Protocol buffers write the fields of an example in another order in each process.
    """
    if ".array_record" not in path.name:
        return path.read_bytes()
    reader = ArrayRecordReader(str(path))
    examples = map(tf_example_pb2.Example.FromString, reader.read_all())
    return b"".join(e.SerializeToString(deterministic=True) for e in examples)


def main() -> int:
    """Runs the attack and prints its table; 1 if there are findings."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--command", default="build,predict,evaluate,train")
    parser.add_argument("--most", type=int, default=1 << 30, help="moments a command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("chaos"))
    arguments = parser.parse_args()
    folder = arguments.out.absolute()
    counts: collections.Counter[str] = collections.Counter()
    findings = []
    names = arguments.command.split(",")
    for name, harm, finding in attack(names, folder, arguments.most, arguments.seed):
        counts[f"{name} {harm}"] += 1
        if finding:
            findings.append(finding)
            print(*finding, sep="\n  ", flush=True)
    for key, count in counts.items():
        harmed = sum(f"{f.command} {f.harm}" == key for f in findings)
        print(f"{key}: {count} moments, {harmed} findings")
    return int(bool(findings))


if __name__ == "__main__":
    sys.exit(main())
