"""TensorBoard files of a run."""

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import flax
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from mammo_jax.common.errors import UserError
from mammo_jax.common.run_directory import as_json
from mammo_jax.config import patch_config, whole_config

# Seconds until a value is seen in TensorBoard, at most.
_SECONDS_UNSEEN = 10


class Logs:
    """Writes scalars and images, by optimiser step.

    TensorBoard shows them in the order of their names: accuracy, AUC and loss first.
    Written without tensorboardX's thread: where that dies of a full disk, a run waits
    for it for good.

    Args:
      directory: a folder of the run's directory, which names the run in TensorBoard.
      resumed_at: step from which the run goes on; anything that a killed run wrote
        after its last checkpoint is purged.
      enabled: False in all processes of a run but one.
    """

    def __init__(self, directory: Path, resumed_at: int, *, enabled: bool = True):
        self.directory = directory
        self._painter = ThreadPoolExecutor(1)
        self._picture: Future[None] | None = None
        self._flushed = time.monotonic()
        self._events = None
        if enabled:
            with self._writing():
                directory.mkdir(parents=True, exist_ok=True)
                self._events = EventsWriter(str(directory / "events"))
            start = SessionLog(status=SessionLog.START)
            self._write(Event(session_log=start, step=resumed_at + 1))

    def __enter__(self) -> "Logs":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # Neither a picture nor a disk that is still full hides another error.
        hidden = () if kind is None else (OSError, UserError)
        with contextlib.suppress(*hidden):
            self.close()
            if kind is None and self._picture:
                self._picture.result()

    def close(self) -> None:
        """Writes what is left and closes the file.

        Raises:
          UserError: the disk has no room.
        """
        self._painter.shutdown()
        if self._events:
            with self._writing():
                self._events.close()

    def write(self, step: int, content: Summary) -> None:
        """Writes a summary of tensorboardX's.

        Raises:
          UserError: the disk has no room.
        """
        self._write(Event(summary=content, step=step))

    def scalars(self, step: int, values: Mapping[str, float | None]) -> None:
        """Writes the values that are defined."""
        for name, value in values.items():
            if value is not None:
                self.write(step, summary.scalar(name, value))

    def images(
        self, step: int, name: str, images: Float[np.ndarray, "batch height width 3"]
    ) -> None:
        """Writes images with values 0..1; they are packed while training goes on."""
        if self._picture:  # The one before is done, or ends the run.
            self._picture.result()
        self._picture = self._painter.submit(self._paint, step, name, images)

    def _paint(self, step: int, name: str, images: np.ndarray) -> None:
        self.write(step, summary.image(name, images, dataformats="NHWC"))

    def _write(self, event: Event) -> None:
        if self._events is None:
            return
        event.wall_time = time.time()
        with self._writing():
            self._events.write_event(event)
            if time.monotonic() > self._flushed + _SECONDS_UNSEEN:
                self._events.flush()
                self._flushed = time.monotonic()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{self.directory}: TensorBoard's file cannot be written "
                f"({error.strerror or error}); make room, and give the same command "
                "again: it goes on from the last checkpoint"
            ) from error


@dataclasses.dataclass
class Throughput:
    """Images of a window of time, and the seconds spent waiting for them."""

    images: int = 0
    waited: float = 0.0
    start: float = dataclasses.field(default_factory=time.perf_counter)

    def scalars(self) -> dict[str, float | None]:
        """Returns images per second, and the share of the time spent waiting."""
        elapsed = max(time.perf_counter() - self.start, 1e-9)
        return {
            "speed/images_per_second": self.images / elapsed,
            "speed/data_wait_share": self.waited / elapsed,
        }


def log_hyperparameters(
    logs: Logs, config: ConfigDict, metrics: Mapping[str, Any]
) -> None:
    """Writes the final figures, and for HParams the fields other than the paper's."""
    flatten: Any = flax.traverse_util.flatten_dict
    paper = {"whole": whole_config, "patch": patch_config}[config.task]()
    fields, usual = (flatten(as_json(x), sep=".") for x in (config, paper))
    values = {
        name: value if isinstance(value, bool | int | float | str) else str(value)
        for name, value in fields.items()
        if not name.startswith("patch.") and value != usual.get(name)
    }
    final = {
        f"result/{role}_{key}": metrics[role][key]
        for role in ("validation", "test")
        for key in ("auc", "accuracy", "loss")
        if metrics[role][key] is not None
    }
    logs.scalars(metrics["steps"], final)
    for part in summary.hparams(values, final):
        logs.write(0, part)
