"""TensorBoard files of a run."""

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorboardX
from jaxtyping import Float


class Logs:
    """Writes scalars and images, by optimiser step.

    Args:
      directory: of the run.
      resumed_at: the step it goes on from; anything that a killed run wrote after
        its last checkpoint is purged.
      enabled: False in all processes of a run but one.
    """

    def __init__(self, directory: Path, resumed_at: int, *, enabled: bool = True):
        self.writer = tensorboardX.SummaryWriter(
            str(directory),
            purge_step=resumed_at + 1,
            flush_secs=10,
            write_to_disk=enabled,
        )

    def __enter__(self) -> "Logs":
        return self

    def __exit__(self, *_: object) -> None:
        self.writer.close()

    def scalars(self, step: int, values: Mapping[str, float | None]) -> None:
        """Writes the values that are defined."""
        for name, value in values.items():
            if value is not None:
                self.writer.add_scalar(name, value, step)

    def images(
        self, step: int, name: str, images: Float[np.ndarray, "batch height width 3"]
    ) -> None:
        """Writes images with values 0..1."""
        self.writer.add_images(name, images, step, dataformats="NHWC")


class Throughput:
    """Images per second, and the share of the time spent waiting for data.

    Attributes:
      images: counted in the window in hand.
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
        """The window's figures."""
        elapsed = max(time.perf_counter() - self._start, 1e-9)
        return {
            "train/images_per_second": self.images / elapsed,
            "train/data_wait_share": self._waited / elapsed,
        }
