"""Runs a plan: what is finished is left alone, what was interrupted goes on.

Several processes may share a folder: each takes runs that no other has in hand, and
waits where everything that is left is in another's hands or starts from that.
"""

import contextlib
import dataclasses
import fcntl
import logging
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from mammo_jax.common import run_directory as workdirs
from mammo_jax.common.errors import UserError
from paper.plan import PlannedRun, check_finished

_log = logging.getLogger(__name__)

Train = Callable[[ConfigDict, Path], dict[str, Any]]
_PATIENCE_SECONDS = 5.0
# Of one run: wrong data, a full disk, no memory left on the device or the host.
_FAILURES = (UserError, OSError, RuntimeError, MemoryError)


@dataclasses.dataclass(frozen=True)
class Record:
    """What is known of a run besides its own files.

    Attributes:
      seconds: of all calls together, stopped ones included.
      commits: of the program, in the order of the calls.
    """

    seconds: float = 0.0
    commits: tuple[str, ...] = ()


def run_all(
    plan: Sequence[PlannedRun], train: Train, wait_seconds: float = _PATIENCE_SECONDS
) -> dict[str, str]:
    """Runs what is not finished, each after the one that it starts from.

    A run that fails does not stop the others, but for those that start from it.

    Args:
      plan: in an order in which every run stands after its start.
      train: `mammo_jax.training.run.train_and_evaluate`.
      wait_seconds: before looking again at runs in other processes' hands.

    Returns:
      Why runs failed, by their names.

    Raises:
      UserError: a finished run has another configuration.
      RunStoppedError: a signal arrived; the same command goes on.
    """
    failures: dict[Path, str] = {}
    left = [run for run in plan if not run.finished]
    while left:
        before = len(left)
        for run in left:
            start = run.config.get("init_from", "")
            if start and Path(start) in failures:
                failures[run.directory] = f"{start} has failed, which it starts from"
            elif _is_ready(run):
                _try(run, train, failures)
        left = [
            run for run in left if not run.finished and run.directory not in failures
        ]
        if len(left) == before:
            _log.info("waiting for %d runs of other processes", len(left))
            time.sleep(wait_seconds)
    check_finished(plan)  # Other processes finished some.
    names = {run.directory: run.name for run in plan}
    return {names[path]: message for path, message in failures.items()}


def _is_ready(run: PlannedRun) -> bool:
    start = run.config.get("init_from", "")
    return not start or (Path(start) / workdirs.METRICS_FILE).exists()


def _try(run: PlannedRun, train: Train, failures: dict[Path, str]) -> None:
    """Runs it, unless another process does; notes why it failed if it did."""
    run.directory.parent.mkdir(parents=True, exist_ok=True)
    with _in_hand(run) as mine:
        if not mine or run.finished:
            return
        _log.info("%s", run.name)
        try:
            _timed(run, train)
        except _FAILURES as error:
            why = str(error) or type(error).__name__
            _log.error("%s: %s", run.name, why)
            failures[run.directory] = why


@contextlib.contextmanager
def _in_hand(run: PlannedRun) -> Iterator[bool]:
    """Whether no other process has the run in hand; it is ours then."""
    with open(run.directory.with_suffix(".lock"), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def _timed(run: PlannedRun, train: Train) -> None:
    before, start = read_record(run), time.perf_counter()
    commits = dict.fromkeys((*before.commits, commit_of_program()))
    try:
        train(run.config, run.directory)
    finally:
        # Or a hundred runs' compiled steps would stay in memory.
        jax.clear_caches()
        seconds = before.seconds + time.perf_counter() - start
        after = Record(seconds=round(seconds, 1), commits=tuple(commits))
        workdirs.write_json(_record_file(run), dataclasses.asdict(after))


def read_record(run: PlannedRun) -> Record:
    """What earlier calls noted of the run."""
    path = _record_file(run)
    if not path.exists():
        return Record()
    values = workdirs.read_json(path)
    return Record(float(values["seconds"]), tuple(values["commits"]))


def _record_file(run: PlannedRun) -> Path:
    return run.directory.with_suffix(".json")


def commit_of_program() -> str:
    """The commit, with a + where files were changed since; "unknown" without git."""
    try:
        changed = _git("status", "--porcelain", "--untracked-files=no")
        return _git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def last_change(part: str, commit: str | None = None) -> str:
    """The commit that last changed a part of the program.

    Args:
      part: a path from the repository's root, such as `mammo_jax/phantom`.
      commit: to look back from, as `commit_of_program` gives it; its + is passed on,
        because what was changed then is not known. None looks at the files as they
        are, and puts a + where those of the part were changed since.

    Returns:
      The commit; "" where git cannot tell.
    """
    at = "HEAD" if commit is None else commit.removesuffix("+")
    try:
        found = _git(
            *("log", "-1", "--format=%h", "--abbrev=12"),
            *("--end-of-options", at, "--", part),
        )
        if commit is None:
            dirty = bool(_git("status", "--porcelain", "--", part))
        else:
            dirty = commit.endswith("+")
    except (OSError, subprocess.SubprocessError):
        return ""
    return found + ("+" if dirty and found else "")


def _git(*words: str) -> str:
    return subprocess.run(
        ["git", "-C", str(Path(__file__).parents[1]), *words],
        capture_output=True,
        text=True,
        check=True,
        timeout=10,
    ).stdout.strip()
