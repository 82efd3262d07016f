import functools
import os
import re
import resource
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from mammo_jax.common import parallel
from mammo_jax.common.errors import UserError
from mammo_jax.common.parallel import Limits, parallel_map


def square(number: int) -> int:
    return number**2


def die_at_seven(number: int) -> int:
    if number == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return number**2


def die_once(number: int, *, folder: Path) -> int:
    """As when memory runs out while several work at once."""
    mark = folder / "died"
    if number == 3 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number**2


def fail_at_five(number: int) -> int:
    if number == 5:
        raise ValueError("five")
    return number


def leave_mark(number: int, *, folder: Path) -> None:
    (folder / str(number)).touch()


def is_running(pid: int) -> bool:
    """Whether there is such a process, ended ones not yet collected aside."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z"
    except FileNotFoundError:
        return False


def never(number: int) -> int:
    raise AssertionError(number)


@pytest.mark.parametrize("num_workers", [1, 3])
def test_results_come_in_order(num_workers):
    results = parallel_map(square, range(40), num_workers, never)

    assert list(results) == [number**2 for number in range(40)]


def test_nothing_to_do():
    assert list(parallel_map(square, [], None, never)) == []


def test_a_task_that_kills_its_worker_is_stood_in_for():
    results = parallel_map(die_at_seven, range(20), 2, lambda number: -number)

    assert list(results) == [n**2 if n != 7 else -7 for n in range(20)]


def test_a_worker_that_dies_of_its_neighbours_is_not_missed(tmp_path):
    function = functools.partial(die_once, folder=tmp_path)

    results = parallel_map(function, range(12), 2, never)

    assert list(results) == [number**2 for number in range(12)]


def _limits(_: int) -> tuple[int, int]:
    kinds = resource.RLIMIT_CPU, resource.RLIMIT_DATA
    return tuple(resource.getrlimit(kind)[0] for kind in kinds)


def _sees_ctrl_c_or_the_end(_: int) -> bool:
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    return not {signal.SIGINT, signal.SIGHUP} <= blocked


def _run_in_session(script: str) -> subprocess.CompletedProcess[str]:
    """Runs a script whose process group is its own."""
    return subprocess.run(
        [sys.executable, "-c", script, str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        check=True,
        start_new_session=True,
        timeout=60,
    )


def test_what_a_terminal_sends_reaches_no_worker():
    # Nor Python's own helper, whose end would leave tracebacks.
    script = (
        "import os, signal, sys; sys.path.insert(0, sys.argv[1])\n"
        "from test_parallel import _sees_ctrl_c_or_the_end, parallel_map\n"
        "print(*parallel_map(_sees_ctrl_c_or_the_end, [1] * 3, 2))\n"
        "signal.signal(signal.SIGHUP, lambda *_: None)\n"
        "os.killpg(0, signal.SIGHUP)\n"
        "print(*parallel_map(_sees_ctrl_c_or_the_end, [1] * 3, 2))"
    )
    done = _run_in_session(script)
    assert done.stdout.split() == ["False"] * 6
    assert not done.stderr


def _threads_that_sigterm_ends(_: int) -> int:
    masks = Path("/proc/self/task").glob("*/status")
    blocked = (re.search(r"SigBlk:\s+(\w+)", path.read_text()) for path in masks)
    bit = 1 << (signal.SIGTERM - 1)
    return sum(not int(found[1], 16) & bit for found in blocked if found)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_sigterm_ends_no_thread_of_a_worker():
    # But the one that waits for it: a signal that is waited for shows as open.
    assert max(parallel_map(_threads_that_sigterm_ends, range(4), 2)) <= 1


def large(number: int) -> bytes:
    """More than a pipe holds."""
    return bytes([number % 256]) * 6_000_000


def test_a_result_that_is_handed_over_is_handed_over_before_the_end():
    # A signal to all processes at once, as a scheduler sends it.
    script = (
        "import os, signal, sys; sys.path.insert(0, sys.argv[1])\n"
        "from test_parallel import large, parallel_map\n"
        "signal.signal(signal.SIGTERM, lambda *_: print('told'))\n"
        "for number, _ in enumerate(parallel_map(large, range(400), 2, bool)):\n"
        "    if number == 20: os.killpg(0, signal.SIGTERM)\n"
        "print(number)"
    )
    assert _run_in_session(script).stdout.split() == ["told", "399"]


def test_one_worker_with_limits_is_a_process_that_has_them():
    for seconds, memory in parallel_map(_limits, range(3), 1, None, Limits(1 << 30, 9)):
        assert 9 <= seconds < 60
        assert 1 << 30 < memory < 4 << 30
    assert resource.getrlimit(resource.RLIMIT_CPU)[0] == resource.RLIM_INFINITY


def test_cores_are_counted_where_a_system_does_not_tell_ours(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    results = parallel_map(square, range(3), None, never)
    assert list(results) == [0, 1, 4]


def test_errors_of_the_function_reach_the_caller():
    with pytest.raises(ValueError, match="five"):
        list(parallel_map(fail_at_five, range(9), 2, never))


def test_a_death_without_a_stand_in_is_a_clear_error():
    with pytest.raises(UserError, match="a worker process was killed"):
        list(parallel_map(die_at_seven, [7, 8], 2))


def test_only_a_few_results_wait(tmp_path):
    """However slowly they are fetched, only the next few are worked on."""
    results = parallel_map(functools.partial(leave_mark, folder=tmp_path), range(99), 2)
    next(results)
    time.sleep(0.5)

    assert len(list(tmp_path.iterdir())) <= 10 + 1
    results.close()


def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, signal, sys, time\n"
        "from mammo_jax.common.parallel import parallel_map\n"
        "if __name__ == '__main__':\n"
        "    results = parallel_map(abs, range(100), 2)\n"
        "    next(results)\n"
        "    children = open(f'/proc/self/task/{os.getpid()}/children').read()\n"
        "    print(children, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )

    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False
    )

    workers = [int(pid) for pid in done.stdout.split()]
    assert len(workers) >= 2
    deadline = time.monotonic() + 20
    while any(is_running(pid) for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_where_forking_is_not_safe_workers_are_spawned(monkeypatch):
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    monkeypatch.setattr(parallel, "_start_fork_server", _fail)
    assert [*parallel_map(abs, [-3, 2, -1], 2)] == [3, 2, 1]


def _fail(*arguments):
    raise AssertionError


def test_ctrl_c_waits_for_a_worker_that_is_being_started(monkeypatch):
    finished = []
    submit = ProcessPoolExecutor.submit

    def interrupted(*arguments):
        signal.raise_signal(signal.SIGINT)
        future = submit(*arguments)
        finished.append(future)
        return future

    monkeypatch.setattr(ProcessPoolExecutor, "submit", interrupted)
    # Another test may have left the signal ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            list(parallel_map(abs, [1, 2, 3], 2))
        assert len(finished) == 1
        # The next one acts at once again.
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
