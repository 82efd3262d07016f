"""Kills commands, and fills their disk, at every moment at which they touch a file.

    python tests/attack/chaos.py --command=build,predict,evaluate,train --out=chaos

Every command runs undisturbed, and runs once more while its folder is copied at each
moment (see `disturb`): these are the files that a kill would leave. It runs again for
each moment from which on its disk has no room, and must end by itself with one line.
After each harm the command is given again in the same folder. That must end well and
with the same bytes as if nothing had happened.
"""

import argparse
import collections
import hashlib
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

from array_record.python.array_record_module import ArrayRecordReader
from disturb import REMOVALS, Job
from tensorflow_datasets.proto import tf_example_pb2
from tiny_runs import write_run
from whole_runs import REPOSITORY, cached_environment, tiny_run

from mammo_jax.evaluation.predictions import COLUMNS
from mammo_jax.phantom import write_cbis_ddsm

_SECONDS = 240
HARMS = ("kill", "full")
# Threads take their turns, so that a run may not reach a moment.
OUTCOMES = ("stood", "not reached", "finding")
# A checkpoint within an epoch, after epochs, and at the end of each kind of stage.
_TRAINING = {
    "accum_steps": 1,
    "model.stride": 8,
    "patch.steps_per_epoch": 1,
    "patch.stages.stage2.epochs": 0,
    "steps_per_epoch": 2,
    "stages.stage1.epochs": 1,
}


class Command(NamedTuple):
    """A command under attack.

    Attributes:
      arguments: makes its program and arguments from the folder that it writes into.
      results: patterns of the files that must come out the same.
    """

    arguments: Callable[[Path], Sequence[object]]
    results: tuple[str, ...]


class Outcome(NamedTuple):
    """What came of a disturbance.

    Attributes:
      command: its name.
      harm: of `HARMS`.
      moment: its number, what was touched and where.
      kind: of `OUTCOMES`.
      reason: of a finding.
    """

    command: str
    harm: str
    moment: str
    kind: str
    reason: str


class Ended(NamedTuple):
    """How a command ended.

    Attributes:
      code: its exit code, negative after a signal; None where it took too long.
      said: what it printed.
    """

    code: int | None
    said: str


class Runner:
    """A process in whose forks commands run.

    Args:
      folder: for what they compile and print.
    """

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self._output = folder / "output.txt"
        self._environment = {
            **cached_environment(folder / "xla"),
            "JAX_PLATFORMS": "cpu",
            "OPENBLAS_NUM_THREADS": "1",
        }
        self._server = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("disturb.py")],
            cwd=REPOSITORY,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> "Runner":
        return self

    def __exit__(self, *_: object) -> None:
        self._server.communicate()

    def run_alone(self, arguments: Sequence[object]) -> Ended:
        """Runs a command in a process of its own, with hashes and addresses of its own.

        Args:
          arguments: see `Job`.
        """
        ended = subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=REPOSITORY,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return Ended(ended.returncode, ended.stdout)

    def run(self, arguments: Sequence[object], **harm: Any) -> Ended:
        """Runs a command to its end, or to the end of its time.

        Args:
          arguments: see `Job`.
          **harm: fields of `Job`.
        """
        job = Job([*map(str, arguments)], str(self._output), _SECONDS, **harm)
        assert self._server.stdin
        assert self._server.stdout
        self._server.stdin.write(json.dumps(job._asdict()) + "\n")
        self._server.stdin.flush()
        code = json.loads(self._server.stdout.readline())
        return Ended(code, self._output.read_text(errors="replace"))


def make_commands(folder: Path, runner: Runner) -> dict[str, Command]:
    """Makes raw phantoms, data and a model for the commands to work on."""
    raw, data, model = folder / "raw", folder / "data", folder / "model"
    if not raw.exists():
        write_cbis_ddsm(raw, cases=24, seed=0, height=288, num_workers=1)
        write_run(model)
        for name in ("paper_whole_h288", "paper_s1_h288"):
            _expect_success(runner.run(_build(raw, name)(data)))
    images = sorted(raw.rglob("*.dcm"), key=lambda path: -path.stat().st_size)[:3]
    predict = ("-m", "mammo_jax.predict", f"--model={model}")
    table = folder / "predictions.csv"
    rows = [f"im{n},{n / 40:.3f},{n % 3 == 0:d},p{n // 2},LEFT,CC\n" for n in range(40)]
    header = ",".join(COLUMNS) + "\n"
    table.write_text(header + "".join(rows))
    training = [f"--config.{name}={value}" for name, value in _TRAINING.items()]
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
            lambda out: ("-m", "mammo_jax.main", *tiny_run(data, out), *training),
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
) -> Iterator[Outcome]:
    """Disturbs the commands; yields what comes of it.

    Args:
      names: of the commands.
      folder: for what they read and write; what is there is taken as it is.
      most: moments a command and harm, drawn by chance where it has more.
      seed: of the draw.
    """
    with Runner(folder) as runner:
        commands = make_commands(folder, runner)
        for name in names:
            yield from _attack_one(name, commands[name], folder, runner, most, seed)


def _attack_one(
    name: str, command: Command, folder: Path, runner: Runner, most: int, seed: int
) -> Iterator[Outcome]:
    alone, copied = folder / f"{name}-undisturbed", folder / f"{name}-copied"
    copies, log = folder / f"{name}-copies", folder / f"{name}.log"
    _forget(alone, copied, copies, log)
    _expect_success(runner.run_alone(command.arguments(alone)))
    expected = _digests(alone, command.results)
    assert expected, f"{name} has no results"
    job = {"harm": "copy", "folder": str(copied), "log": str(log)}
    _expect_success(runner.run(command.arguments(copied), copies=str(copies), **job))
    moments = log.read_text().splitlines()
    assert len(moments) == len([*copies.iterdir()])
    # Without room a removal goes on, until the next moment.
    writes = [n for n, text in enumerate(moments) if not text.startswith(REMOVALS)]
    for harm, numbers in zip(HARMS, (range(len(moments)), writes), strict=True):
        out, log = folder / f"{name}-{harm}", folder / f"{name}-{harm}.log"
        for number in sorted(
            random.Random(seed).sample(numbers, min(most, len(numbers)))
        ):
            _forget(out, log)
            if harm == "kill":
                shutil.copytree(copies / str(number), out, symlinks=True)
                outcome = "stood", ""
            else:
                outcome = _fill(runner, command, expected, out, log, number)
            if outcome[0] == "stood":
                outcome = _give_again(runner, command, expected, out)
            if outcome[0] == "finding":  # Kept, to be looked at.
                shutil.copytree(out, f"{out}-{number}", dirs_exist_ok=True)
            moment = f"{number} of {len(moments)}: {moments[number]}"
            yield Outcome(name, harm, moment, *outcome)


def _fill(
    runner: Runner,
    command: Command,
    expected: dict[str, str],
    out: Path,
    log: Path,
    number: int,
) -> tuple[str, str]:
    """Returns what comes of a disk without room, and the reason of a finding."""
    job = {"harm": "full", "number": number, "folder": str(out), "log": str(log)}
    ended = runner.run(command.arguments(out), **job)
    if ended.code is None:
        return "finding", f"no end within {_SECONDS} s"
    if not log.exists() or not log.read_text():
        return "not reached", ""
    if ended.code == 0 and _digests(out, command.results) != expected:
        return "finding", "exit code 0 with other results"
    if ended.code != 0 and "Traceback" in ended.said:
        return "finding", "a traceback: " + ended.said[-2000:]
    return "stood", ""


def _give_again(
    runner: Runner, command: Command, expected: dict[str, str], out: Path
) -> tuple[str, str]:
    """Returns what comes of giving the command again, and the reason of a finding."""
    again = runner.run(command.arguments(out))
    if again.code != 0:
        said = again.said[-1000:]
        return "finding", f"given again it ends with {again.code}: {said}"
    found = _digests(out, command.results)
    differing = {
        key for key in found.keys() | expected if found.get(key) != expected.get(key)
    }
    if differing:
        return "finding", f"other results: {', '.join(sorted(differing))}"
    return "stood", ""


def _expect_success(ended: Ended) -> None:
    if ended.code != 0:
        raise RuntimeError(f"undisturbed it ends with {ended.code}: {ended.said}")


def _forget(*paths: Path) -> None:
    for path in paths:
        if path.is_file():
            path.unlink()
        shutil.rmtree(path, ignore_errors=True)


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
    names = arguments.command.split(",")
    for outcome in attack(names, folder, arguments.most, arguments.seed):
        counts[f"{outcome.command} {outcome.harm}: {outcome.kind}"] += 1
        print(*filter(None, outcome), sep="  ", flush=True)
    print(*(f"{key} {count}" for key, count in sorted(counts.items())), sep="\n")
    return int(any(key.endswith("finding") for key in counts))


if __name__ == "__main__":
    sys.exit(main())
