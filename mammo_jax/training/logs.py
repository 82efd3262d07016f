"""TensorBoard files of a run."""

import functools
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tensorboardX
from jaxtyping import Float
from ml_collections import ConfigDict
from tensorboardX.summary import hparams

from mammo_jax.common.run_directory import as_json

_FINAL = ("auc", "accuracy", "loss")


class Logs:
    """Writes scalars and images, by optimiser step.

    Args:
      directory: directory of the run.
      resumed_at: step from which the run goes on; anything that a killed run wrote
        after its last checkpoint is purged.
      enabled: False in all processes of a run but one.
    """

    def __init__(self, directory: Path, resumed_at: int, *, enabled: bool = True):
        self._painters = ThreadPoolExecutor(1)
        self._pictures: list[Future[None]] = []
        self.writer = tensorboardX.SummaryWriter(
            str(directory),
            purge_step=resumed_at + 1,
            flush_secs=10,
            write_to_disk=enabled,
        )

    def __enter__(self) -> "Logs":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self._painters.shutdown()
        finally:
            self.writer.close()
        if kind is None:  # A picture hides no other error.
            self._raise_if_failed()

    def _raise_if_failed(self) -> None:
        """Raises the error of a picture that should be written by now."""
        done = [picture for picture in self._pictures if picture.done()]
        self._pictures = [x for x in self._pictures if x not in done]
        for picture in done:
            picture.result()

    def scalars(self, step: int, values: Mapping[str, float | None]) -> None:
        """Writes the values that are defined."""
        for name, value in values.items():
            if value is not None:
                self.writer.add_scalar(name, value, step)

    def images(
        self, step: int, name: str, images: Float[np.ndarray, "batch height width 3"]
    ) -> None:
        """Writes images with values 0..1; they are packed while training goes on."""
        self._raise_if_failed()
        write = functools.partial(self.writer.add_images, dataformats="NHWC")
        self._pictures.append(self._painters.submit(write, name, images, step))


class Throughput:
    """Images per second, and share of the time spent waiting for data.

    Attributes:
      images: number of images in the present window.
    """

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Begins a new window."""
        self._start = time.perf_counter()
        self.images = 0
        self._waited = 0.0

    def add(self, images: int, waited: float) -> None:
        """Counts a batch that took `waited` seconds to arrive."""
        self.images += images
        self._waited += waited

    def scalars(self) -> dict[str, float | None]:
        """Returns the window's figures."""
        elapsed = max(time.perf_counter() - self._start, 1e-9)
        return {
            "train/images_per_second": self.images / elapsed,
            "train/data_wait_share": self._waited / elapsed,
        }


def log_hyperparameters(
    logs: Logs, config: ConfigDict, metrics: Mapping[str, Any]
) -> None:
    """Writes the configuration with the final figures, for TensorBoard's HParams.

    They go into the run's own files: tensorboardX would make a run of its own, named
    after the time, in a directory below.

    Args:
      logs: logs of the run.
      config: configuration of the run; its patch stage, a run of its own, is left out.
      metrics: content of `metrics.json`.
    """
    values = dict(_flat(as_json(config)))
    final = {
        f"final/{role}_{key}": metrics[role][key]
        for role in ("validation", "test")
        for key in _FINAL
        if metrics[role][key] is not None
    }
    logs.scalars(metrics["steps"], final)
    for summary in hparams(values, final):
        logs.writer._get_file_writer().add_summary(summary)


def _flat(config: Mapping[str, Any], prefix: str = "") -> Any:
    """Lists fields by names with dots, with values of types that the plugin knows."""
    for key, value in config.items():
        if not prefix and key == "patch":
            continue
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, bool | int | float | str):
            yield f"{prefix}{key}", value
        else:
            yield f"{prefix}{key}", str(value)
