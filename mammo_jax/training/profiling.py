"""A trace of a few steps, for TensorBoard's profile page."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import jax

# The first steps compile and fill the pipeline.
_SKIPPED_STEPS, _TRACED_STEPS = 3, 5


class StepTrace:
    """Trace of some of the steps that this process runs.

    Args:
      directory: folder of the TensorBoard files; None traces nothing.
    """

    def __init__(self, directory: Path | None):
        self._directory = directory
        self._steps = 0
        self._running = False

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Surrounds a step; the trace begins and ends with one."""
        if self._directory is not None and self._steps == _SKIPPED_STEPS:
            jax.profiler.start_trace(self._directory)
            self._running = True
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            yield
        self._steps += 1
        if self._running and self._steps == _SKIPPED_STEPS + _TRACED_STEPS:
            self.close()

    def close(self) -> None:
        """Ends a trace that is running."""
        if self._running:
            jax.profiler.stop_trace()
            self._running = False
