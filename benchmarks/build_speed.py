"""How fast data sets are built, beside a plain loop of pydicom and OpenCV.

  make bench     # this and the others, in an environment of their own
  python benchmarks/build_speed.py

Writes films of real size, some 27 MB each uncompressed, then packages them: once in the
plainest loop that gives the same pixels (read, stretch, resize, PNG), once as a user
does, with one worker and with one for each core. Prints a table.
"""

import argparse
import csv
import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import psutil
import pydicom
from pydicom.uid import ExplicitVRLittleEndian, RLELossless

ROWS, COLUMNS = 4600, 2900
HEIGHT, WIDTH = 1152, 896
SYNTAXES = {"uncompressed": ExplicitVRLittleEndian, "RLE Lossless": RLELossless}


def draw_film(seed: int) -> np.ndarray:
    """A bright half disc with structure and grain on dark film, 16 bits."""
    random = np.random.default_rng(seed)
    tissue = cv2.resize(random.normal(0, 1, (46, 29)), (COLUMNS, ROWS))
    breast = np.zeros((ROWS, COLUMNS), np.uint8)
    cv2.ellipse(breast, (0, ROWS // 2), (2300, 1900), 0, 0, 360, 1, cv2.FILLED)
    grain = random.integers(0, 800, (ROWS, COLUMNS))
    return (breast * (30000 + 7000 * tissue) + grain).clip(0, 65535).astype(np.uint16)


def write_films(folder: Path, count: int, syntax: str) -> None:
    """`count` DICOM files of four different films, and a manifest of them."""
    films = [draw_film(seed) for seed in range(4)]
    header = ["path", "patient_id", "laterality", "view", "label"]
    rows = []
    for number in range(count):
        dataset = pydicom.Dataset()
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
        dataset.SOPInstanceUID = pydicom.uid.generate_uid()
        dataset.Modality = "MG"
        dataset.PhotometricInterpretation = "MONOCHROME2"
        dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
        dataset.Rows, dataset.Columns = ROWS, COLUMNS
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
        film = films[number % 4].copy()
        film[:8] = number  # no two are the same
        dataset.PixelData = film.tobytes()
        dataset["PixelData"].VR = "OW"
        if syntax == RLELossless:
            dataset.compress(RLELossless, encoding_plugin="pylibjpeg")
        name = f"{number}.dcm"
        pydicom.dcmwrite(folder / name, dataset, enforce_file_format=True)
        rows.append([name, f"p{number}", "LEFT", "CC", number // 2 % 2])
    with (folder / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def run_plain_loop(folder: Path, out: Path) -> float:
    """Reads, stretches, resizes, writes; returns the seconds of CPU that it took."""
    cv2.setNumThreads(1)  # one core each
    start = time.process_time()
    out.mkdir()
    for path in sorted(folder.glob("*.dcm")):
        pixels = pydicom.dcmread(path).pixel_array
        pixels = cv2.normalize(pixels, None, 0, 65535, cv2.NORM_MINMAX, cv2.CV_16U)
        small = cv2.resize(pixels, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(out / f"{path.stem}.png"), small)
    return time.process_time() - start


class Meter:
    """What the work done while it is open costs.

    Attributes:
      seconds: that passed.
      cpu_seconds: of this process and of those below it that have ended.
      peak: the most memory that any process below this one held, in bytes.
    """

    def __enter__(self):
        self.peak = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        self._start = os.times()
        return self

    def __exit__(self, *error):
        end = os.times()
        self.seconds = end.elapsed - self._start.elapsed
        self.cpu_seconds = sum(end[:4]) - sum(self._start[:4])
        self._ended.set()
        self._thread.join()

    def _watch(self):
        while not self._ended.wait(0.1):
            for process in psutil.Process().children(recursive=True):
                try:
                    self.peak = max(self.peak, process.memory_info().rss)
                except psutil.NoSuchProcess:
                    continue


def measure(folder: Path, scratch: Path, count: int) -> list[Sequence[object]]:
    """A row of the table for each way to package the films in `folder`."""
    from tfds_builders.building import build

    cv2.setNumThreads(1)  # one core each
    rows = []
    # In a process of its own: a build changes how its process keeps memory.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn) as pool:
        pool.submit(abs, 0).result()  # it has started
        with Meter() as meter:
            seconds = pool.submit(run_plain_loop, folder, scratch / "plain").result()
    meter.cpu_seconds = seconds
    plain = meter.seconds
    rows.append(_row("plain loop", 1, count, meter, plain))
    for workers in dict.fromkeys([1, len(os.sched_getaffinity(0))]):
        with Meter() as meter:
            build("manifest/whole", folder, scratch / str(workers), workers)
        rows.append(_row("build_dataset", workers, count, meter, plain))
    return rows


def _row(
    name: str, workers: int, count: int, meter: Meter, plain: float
) -> Sequence[object]:
    rate = count / meter.seconds
    return (
        name,
        workers,
        f"{meter.seconds:.1f}",
        f"{rate:.2f}",
        f"{plain / meter.seconds:.2f} x",
        f"{rate / workers:.2f}",
        f"{1000 * meter.cpu_seconds / count:.0f}",
        f"{meter.peak / 2**20:.0f}" if workers > 1 else "-",
    )


def warm_up() -> None:
    """Builds once, so that what is imported on the first occasion does not count."""
    from tfds_builders.building import build

    with tempfile.TemporaryDirectory() as name:
        write_films(Path(name), 2, ExplicitVRLittleEndian)
        build("manifest/whole", name, Path(name, "out"), 1)


def main() -> None:
    """Writes films, measures, prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=96, help="films of each kind")
    count = parser.parse_args().images
    print(f"{count} films of {ROWS}x{COLUMNS} pixels, 16 bits, to {HEIGHT}x{WIDTH}\n")
    columns = (
        *("s", "images/s", "plain loop", "images/s/core"),
        *("CPU ms/image", "MiB/worker"),
    )
    header = ("films", "way", "workers", *columns)
    print("| " + " | ".join(header) + " |")
    print("|" + " --- |" * len(header))
    warm_up()
    for kind, syntax in SYNTAXES.items():
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name, "films")
            folder.mkdir()
            write_films(folder, count, syntax)
            for row in measure(folder, Path(name), count):
                print("| " + " | ".join(map(str, (kind, *row))) + " |", flush=True)


if __name__ == "__main__":
    main()
