"""Ordered map over processes, with bounded memory, that survives their deaths."""

import collections
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

import cv2

from mammo_jax.common.errors import UserError
from mammo_jax.common.memory import keep_freed_blocks

Task = TypeVar("Task")
Result = TypeVar("Result")

# Tasks handed out ahead of the one awaited, for each worker.
_TASKS_AHEAD = 4


def parallel_map(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    num_workers: int | None,
    on_death: Callable[[Task], Result] | None = None,
) -> Iterator[Result]:
    """Yields `function(task)` in the order of `tasks`.

    At most a few results wait at any time, however many tasks there are. With one
    worker everything runs in this process.

    A damaged file can make a codec abort, and memory can run out: either kills the
    worker. The tasks that were under way are then repeated one at a time, and
    `on_death` stands in for one that kills its worker even alone.

    Args:
      function: must be picklable, as must tasks and results.
      tasks: what to work on.
      num_workers: processes, None for one each core.
      on_death: makes the result of a task that cannot be run.

    Raises:
      UserError: a task cannot be run and there is no `on_death`.
      Exception: whatever `function` raises.
    """
    num_workers = min(num_workers or _cores(), len(tasks))
    if num_workers <= 1:
        keep_freed_blocks()
        yield from map(function, tasks)
        return
    todo = collections.deque(tasks)
    while todo:
        suspects = yield from _run_until_death(function, todo, num_workers, ahead=True)
        while suspects:
            killers = yield from _run_until_death(function, suspects, 1, ahead=False)
            for killer in killers:
                if on_death is None:
                    raise UserError(
                        "a worker process was killed, most likely for lack of memory;"
                        " start again with more memory"
                    )
                yield on_death(killer)


def _cores() -> int:
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
    pool = _make_pool(num_workers)
    try:
        while todo or waiting:
            while todo and len(waiting) < most:
                waiting.append((todo[0], pool.submit(function, todo[0])))
                todo.popleft()
            result = waiting[0][1].result()
            waiting.popleft()
            yield result
    except BrokenProcessPool:
        pass
    finally:
        pool.shutdown(cancel_futures=True)
    return collections.deque(task for task, _ in waiting)


def _make_pool(num_workers: int) -> ProcessPoolExecutor:
    # Forking a process that has JAX or TFDS threads can hang.
    return ProcessPoolExecutor(
        num_workers, multiprocessing.get_context("spawn"), initializer=_start_worker
    )


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    cv2.setNumThreads(1)  # the processes are the parallelism
    keep_freed_blocks()


def _end_with_parent() -> None:
    """Ends this worker when its parent was killed, which cannot end it any more."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)
