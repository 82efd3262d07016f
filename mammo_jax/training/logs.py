"""TensorBoard files of a run."""

import dataclasses
import functools
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import flax
import numpy as np
import tensorboardX
from jaxtyping import Float
from ml_collections import ConfigDict
from tensorboardX.summary import hparams

from mammo_jax.common.run_directory import as_json


class Logs:
    """Writes scalars and images, by optimiser step.

    Args:
      directory: directory of the run.
      resumed_at: step from which the run goes on; anything that a killed run wrote
        after its last checkpoint is purged.
      enabled: False in all processes of a run but one.
    """

    def __init__(self, directory: Path, resumed_at: int, *, enabled: bool = True):
        self._painter = ThreadPoolExecutor(1)
        self._picture: Future[None] | None = None
        self.writer = tensorboardX.SummaryWriter(
            str(directory),
            purge_step=resumed_at + 1,
            flush_secs=10,
            write_to_disk=enabled,
        )

    def __enter__(self) -> "Logs":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._painter.shutdown()
        self.writer.close()
        if kind is None and self._picture:  # A picture hides no other error.
            self._picture.result()

    def scalars(self, step: int, values: Mapping[str, float | None]) -> None:
        """Writes the values that are defined."""
        for name, value in values.items():
            if value is not None:
                self.writer.add_scalar(name, value, step)

    def images(
        self, step: int, name: str, images: Float[np.ndarray, "batch height width 3"]
    ) -> None:
        """Writes images with values 0..1; they are packed while training goes on."""
        if self._picture:  # The one before is done, or ends the run.
            self._picture.result()
        write = functools.partial(self.writer.add_images, dataformats="NHWC")
        self._picture = self._painter.submit(write, name, images, step)


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
            "train/images_per_second": self.images / elapsed,
            "train/data_wait_share": self.waited / elapsed,
        }


def log_hyperparameters(
    logs: Logs, config: ConfigDict, metrics: Mapping[str, Any]
) -> None:
    """Writes the final figures, and for HParams the configuration but its patch stage.

    They go into the run's own files: tensorboardX would make a run of its own, named
    after the time, in a directory below.
    """
    flatten: Any = flax.traverse_util.flatten_dict
    fields = flatten(as_json(config), sep=".")
    values = {
        name: value if isinstance(value, bool | int | float | str) else str(value)
        for name, value in fields.items()
        if not name.startswith("patch.")
    }
    test = {f"test/{key}": metrics["test"][key] for key in ("auc", "accuracy")}
    final = {
        f"final/{role}_{key}": metrics[role][key]
        for role in ("validation", "test")
        for key in ("auc", "accuracy", "loss")
        if metrics[role][key] is not None
    }
    logs.scalars(metrics["steps"], {**test, **final})
    for summary in hparams(values, final):
        logs.writer._get_file_writer().add_summary(summary)
