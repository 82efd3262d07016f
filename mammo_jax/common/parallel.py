"""Ordered map over processes, with bounded memory, that survives their deaths."""

import collections
import contextlib
import functools
import math
import multiprocessing
import multiprocessing.connection
import os
import platform
import resource
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import NamedTuple, TypeVar

import cv2

from mammo_jax.common.errors import UserError
from mammo_jax.common.memory import keep_freed_blocks

Task = TypeVar("Task")
Result = TypeVar("Result")

# Tasks handed out ahead of the one awaited, for each worker.
_TASKS_AHEAD = 4
_OF_A_TERMINAL = (signal.SIGINT, signal.SIGHUP)
_TO_ALL = (*_OF_A_TERMINAL, signal.SIGTERM)
# Seconds that a worker which is ended has to hand its result over.
_LAST_SECONDS = 2.0


class Limits(NamedTuple):
    """Most that a task may take, whatever the file that it reads claims.

    Attributes:
      memory: bytes besides those of an idle worker; allocations beyond them fail.
      seconds: processor time in seconds; the worker is killed after them.
    """

    memory: int
    seconds: int


def parallel_map(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    num_workers: int | None,
    on_death: Callable[[Task], Result] | None = None,
    limits: Limits | None = None,
) -> Generator[Result, None, None]:
    """Yields `function(task)` in the order of `tasks`.

    At most a few results wait at any time, however many tasks there are. With one
    worker and no limits everything runs in this process.

    A damaged file can make a codec abort or take more than its limits, and memory can
    run out: either kills the worker. The tasks that were under way are then repeated
    one at a time, and `on_death` stands in for one that kills its worker even alone.

    Args:
      function: must be picklable, as must tasks and results.
      tasks: arguments of the calls.
      num_workers: processes, None for one each core.
      on_death: makes the result of a task that cannot be run.
      limits: the limits of each task.

    Raises:
      UserError: a task cannot be run and there is no `on_death`.
      Exception: whatever `function` raises.
    """
    num_workers = min(num_workers or available_cores(), len(tasks))
    if num_workers <= 1 and limits is None:
        keep_freed_blocks()
        yield from map(function, tasks)
        return
    limited = functools.partial(_run_limited, function, limits) if limits else function
    in_turn: Callable[[Task], Result] = functools.partial(_run_in_turn, limited)
    todo = collections.deque(tasks)
    while todo:
        suspects = yield from _run_until_death(in_turn, todo, num_workers, ahead=True)
        while suspects:
            killers = yield from _run_until_death(in_turn, suspects, 1, ahead=False)
            for killer in killers:
                if on_death is None:
                    raise UserError(
                        "a worker process was killed, most likely for lack of memory;"
                        " start again with more memory (a script of your own needs"
                        ' `if __name__ == "__main__":` around what it does)'
                    )
                yield on_death(killer)


def available_cores() -> int:
    """Returns the number of cores that this process may use; on macOS, of all."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _run_until_death(
    function: Callable[[Task], Result],
    todo: collections.deque[Task],
    num_workers: int,
    *,
    ahead: bool,
) -> Generator[Result, None, collections.deque[Task]]:
    """Takes tasks from `todo`; returns those under way when a worker died.

    Unless some are handed out `ahead`, each worker has only the one that it runs.
    """
    most = (1 + _TASKS_AHEAD * ahead) * num_workers
    waiting: collections.deque[tuple[Task, Future[Result]]] = collections.deque()
    # Forking this process, which may have JAX's threads, can hang; on macOS forking
    # anything that has loaded its frameworks.
    context: BaseContext = multiprocessing.get_context("spawn")
    if platform.system() != "Darwin":
        context = _start_fork_server(function)
    pool = ProcessPoolExecutor(num_workers, context, initializer=_begin_pool_worker)
    try:
        while todo or waiting:
            while todo and len(waiting) < most:
                # A worker that is being started would not find its queue any more.
                with _signals_deferred(), interrupts_blocked():
                    future = pool.submit(function, todo[0])
                waiting.append((todo[0], future))
                todo.popleft()
            result = waiting[0][1].result()
            waiting.popleft()
            yield result
    except BrokenProcessPool:
        pass
    finally:
        pool.shutdown(cancel_futures=True)
    return collections.deque(task for task, _ in waiting)


def _start_fork_server(function: Callable[..., object]) -> BaseContext:
    """Starts the server that forks the workers of all pools, if it does not run yet."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", _module_of(function)])
    with interrupts_blocked():
        forkserver.ensure_running()
    return context


@contextlib.contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Blocks signals that go to all processes in those that are started inside.

    Ctrl-C and a terminal's end do, and a scheduler's SIGTERM; this one ends the others.
    """
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _TO_ALL)
    try:
        resource_tracker.ensure_running()  # Python's own; it lets some through again.
        signal.pthread_sigmask(signal.SIG_BLOCK, _TO_ALL)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@contextlib.contextmanager
def _signals_deferred() -> Iterator[None]:
    """Lets Ctrl-C and SIGTERM wait for the end of what is inside.

    Blocked in this thread, others would take them, and Python's main thread act.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {n: signal.getsignal(n) or signal.SIG_DFL for n in numbers}
    for number in numbers:
        signal.signal(number, lambda number, _: arrived.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for late in arrived:
            signal.raise_signal(late)


def _module_of(function: Callable[..., object]) -> str:
    while isinstance(function, functools.partial):
        is_ours = function.func in (_run_limited, _run_in_turn)
        function = function.args[0] if is_ours else function.func
    return function.__module__


def begin_worker() -> None:
    """Prepares a worker process: what is sent to all is its parent's to act on."""
    for number in _OF_A_TERMINAL:
        signal.signal(number, signal.SIG_IGN)
    # Inherited, unless a server that others started has forked it.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    threading.Thread(target=_end_with_parent, daemon=True).start()
    cv2.setNumThreads(1)  # the processes are the parallelism
    keep_freed_blocks()


def _end_with_parent() -> None:
    """Ends this worker when its parent was killed, which cannot end it any more."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


class _Turn:
    """State of a pool's worker: at work on a task, told to end.

    It must not end while it hands a result over: the parent would wait for the rest
    for ever, since it has the other end of the pipe open itself.
    """

    lock = threading.Lock()
    is_computing = is_over = False


def _begin_pool_worker() -> None:
    begin_worker()
    threading.Thread(target=_end_when_told, daemon=True).start()


def _end_when_told() -> None:
    signal.sigwait([signal.SIGTERM])
    with _Turn.lock:
        if _Turn.is_computing:
            os._exit(128 + signal.SIGTERM)
        _Turn.is_over = True
    time.sleep(_LAST_SECONDS)  # It may be handing over, or have nothing to do.
    os._exit(128 + signal.SIGTERM)


def _run_in_turn(function: Callable[[Task], Result], task: Task) -> Result:
    with _Turn.lock:
        if _Turn.is_over:
            os._exit(128 + signal.SIGTERM)
        _Turn.is_computing = True
    try:
        return function(task)
    finally:
        with _Turn.lock:
            _Turn.is_computing = False


def _run_limited(
    function: Callable[[Task], Result], limits: Limits, task: Task
) -> Result:
    _limit_memory(limits.memory)
    used = resource.getrusage(resource.RUSAGE_SELF)
    _limit(resource.RLIMIT_CPU, math.ceil(sum(used[:2])) + limits.seconds)
    return function(task)


@functools.cache
def _limit_memory(most: int) -> None:
    """Limits this worker once, after its imports: freed blocks stay its own."""
    _limit(resource.RLIMIT_CORE, 0)  # A codec that aborts leaves no gigabytes behind.
    sizes = Path("/proc/self/statm")
    if sizes.exists():  # Elsewhere than on Linux no such limit is kept.
        pages = int(sizes.read_text().split()[5])
        _limit(resource.RLIMIT_DATA, pages * resource.getpagesize() + most)


def _limit(kind: int, most: int) -> None:
    hard = resource.getrlimit(kind)[1]
    soft = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(kind, (soft, hard))
