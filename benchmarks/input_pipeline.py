"""How fast training images are read and transformed, beside other pipelines.

  make bench     # this and the others, in an environment of their own
  python benchmarks/input_pipeline.py

Every pipeline gives the same: batches as the networks see them, (batch, height, width,
3) float32 on the scale 0..255 less the mean, of 16-bit PNGs with the paper's random
transformations (section 2.1): rotation, shear, zoom, flips, channel shift. Ours reads
the packaged data set; the others read it with TFDS's own decoders, or the same PNGs as
plain files with OpenCV, which spares them the records. Each runs in a process of its
own on one and the same core, with one thread, in turn. "To the device" is ours without
its last part, which a GPU does. The images are phantoms.
"""

import argparse
import functools
import itertools
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROTATION, SHEAR, ZOOM, CHANNEL_SHIFT = 25.0, 0.2, (0.8, 1.2), 20.0
# Degrees: the paper's Keras took radians, today's libraries do not.
SHEAR_DEGREES = float(np.rad2deg(SHEAR))
GREY_SCALE = 255 / 65535
PIXEL_MEAN = 52.18


class Kind(NamedTuple):
    """What is read.

    Attributes:
      dataset: its name.
      batch_size: the paper's.
      examples: that CBIS-DDSM has; few phantoms are read again and again.
    """

    dataset: str
    batch_size: int
    examples: int


KINDS = {
    "whole images, 2 x 1152x896": Kind("cbis_ddsm/paper_whole", 2, 1900),
    "patches, 32 x 224x224": Kind("cbis_ddsm/paper_s10", 32, 38000),
}


class Repeated(Sequence):
    """A few examples as often as a real set has some."""

    def __init__(self, source: Sequence, length: int):
        self._source, self._length = source, length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: Any) -> Any:
        return self._source[index % len(self._source)]


def read_ours(kind: Kind, folder: Path) -> Iterator[Any]:
    """Batches of this project, as they go to the device."""
    from mammo_jax.common.memory import give_back_large_blocks
    from mammo_jax.datasets import pipeline
    from mammo_jax.datasets.augment import Augmentation

    give_back_large_blocks()
    source = pipeline.open_dataset(kind.dataset, str(folder / "data")).sources["train"]
    return pipeline.training_batches(
        Repeated(source, kind.examples),
        kind.batch_size,
        Augmentation(ROTATION, SHEAR, ZOOM, CHANNEL_SHIFT),
        seed=0,
        start=0,
        threads=0,
    )


def read_ours_whole_way(kind: Kind, folder: Path) -> Iterator[Any]:
    """The same with the part that is done on the device."""
    import jax

    from mammo_jax.models.network_input import network_input

    on_device = jax.jit(network_input)
    for batch in read_ours(kind, folder):
        yield on_device(
            batch["image"], PIXEL_MEAN, batch["channel_shift"]
        ).block_until_ready()


def read_files(kind: Kind, folder: Path) -> Sequence[Callable[[], np.ndarray]]:
    """What reads each of the PNG files."""
    import cv2

    cv2.setNumThreads(1)
    files = sorted((folder / "png" / kind.dataset).iterdir())
    return [
        functools.partial(cv2.imread, str(path), cv2.IMREAD_UNCHANGED) for path in files
    ]


def read_records(kind: Kind, folder: Path) -> Sequence[Callable[[], np.ndarray]]:
    """What reads each example of the packaged data set with TFDS's own decoders."""
    import cv2
    import tensorflow_datasets as tfds

    cv2.setNumThreads(1)
    (directory,) = (folder / "data" / kind.dataset).glob("*.*.*")
    source = tfds.builder_from_directory(directory).as_data_source("train")

    def read(number: int) -> np.ndarray:
        return source[number]["image"][..., 0]

    return [functools.partial(read, number) for number in range(len(source))]


READERS = {"TFDS": read_records, "PNG files": read_files}


def _grey(readers: Sequence[Callable[[], np.ndarray]]) -> Iterator[np.ndarray]:
    """The images in an endless random order, (height, width) float32, 0..255."""
    random = np.random.default_rng(0)
    while True:
        for number in random.permutation(len(readers)):
            yield readers[number]().astype(np.float32) * np.float32(GREY_SCALE)


def _in_batches(batch_size: int, images: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    while True:
        yield np.stack(list(itertools.islice(images, batch_size)))


def transform_keras(images: Iterator[np.ndarray], batch_size: int) -> Iterator[Any]:
    """Keras's image generator, which the paper used."""
    from keras.src.legacy.preprocessing.image import ImageDataGenerator

    generator = ImageDataGenerator(
        rotation_range=ROTATION,
        shear_range=SHEAR_DEGREES,
        zoom_range=ZOOM,
        channel_shift_range=CHANNEL_SHIFT,
        fill_mode="nearest",
        horizontal_flip=True,
        vertical_flip=True,
        interpolation_order=0,
        data_format="channels_last",
        featurewise_center=True,
    )
    generator.mean = np.float32(PIXEL_MEAN)

    return _in_batches(
        batch_size,
        (
            generator.standardize(generator.random_transform(np.dstack([grey] * 3)))
            for grey in images
        ),
    )


def transform_torchvision(
    images: Iterator[np.ndarray], batch_size: int
) -> Iterator[Any]:
    """The transforms of torchvision on one channel, until the shifts need three."""
    import torch
    from torchvision.transforms import v2

    torch.set_num_threads(1)

    def shift(image: torch.Tensor) -> torch.Tensor:
        lowest, highest = torch.aminmax(image)
        offsets = torch.empty(3, 1, 1).uniform_(-CHANNEL_SHIFT, CHANNEL_SHIFT)
        return (image + offsets).clamp_(lowest, highest).sub_(PIXEL_MEAN)

    transform = v2.Compose(
        [
            v2.RandomAffine(
                ROTATION,
                scale=ZOOM,
                shear=(-SHEAR_DEGREES, SHEAR_DEGREES),
                interpolation=v2.InterpolationMode.NEAREST,
            ),
            v2.RandomHorizontalFlip(),
            v2.RandomVerticalFlip(),
            v2.Lambda(shift),
        ]
    )

    class Images(torch.utils.data.IterableDataset):
        def __iter__(self):
            return (transform(torch.from_numpy(grey)[None]) for grey in images)

    return iter(torch.utils.data.DataLoader(Images(), batch_size))


def transform_albumentations(
    images: Iterator[np.ndarray], batch_size: int
) -> Iterator[Any]:
    """The transforms of albumentations, which are OpenCV's, likewise."""
    import albumentations
    import cv2

    random = np.random.default_rng(0)
    transform = albumentations.Compose(
        [
            albumentations.Affine(
                rotate=(-ROTATION, ROTATION),
                shear=(-SHEAR_DEGREES, SHEAR_DEGREES),
                scale={"x": ZOOM, "y": ZOOM},
                interpolation=cv2.INTER_NEAREST,
                border_mode=cv2.BORDER_REPLICATE,
                p=1.0,
            ),
            albumentations.HorizontalFlip(p=0.5),
            albumentations.VerticalFlip(p=0.5),
        ]
    )

    def transformed() -> Iterator[np.ndarray]:
        for image in images:
            grey = transform(image=image)["image"]
            lowest, highest, *_ = cv2.minMaxLoc(grey)
            offsets = random.uniform(-CHANNEL_SHIFT, CHANNEL_SHIFT, 3)
            shifted = cv2.merge([grey] * 3) + offsets.astype(np.float32)
            shifted = np.clip(shifted, lowest, highest, out=shifted)
            shifted -= np.float32(PIXEL_MEAN)
            yield shifted

    return _in_batches(batch_size, transformed())


PEERS: dict[str, Callable[[Iterator[np.ndarray], int], Iterator[Any]]] = {
    "torchvision": transform_torchvision,
    "albumentations": transform_albumentations,
    "Keras's image generator": transform_keras,
}


def _read_peer(name: str, reader: str, kind: Kind, folder: Path) -> Iterator[Any]:
    return PEERS[name](_grey(READERS[reader](kind, folder)), kind.batch_size)


PIPELINES: dict[str, Callable[[Kind, Path], Iterator[Any]]] = {
    "mammo_jax": read_ours_whole_way,
    "mammo_jax, to the device": read_ours,
    **{
        f"{name}, {reader}": functools.partial(_read_peer, name, reader)
        for name in PEERS
        for reader in READERS
    },
}
_BATCHES: dict[str, Iterator[Any]] = {}


def prepare(folder: Path, cases: int) -> None:
    """Draws phantoms, packages them, and lays their PNGs out as files."""
    import tensorflow_datasets as tfds

    from mammo_jax.datasets.pipeline import newest_version
    from mammo_jax.phantom import write_cbis_ddsm
    from tfds_builders.building import build

    write_cbis_ddsm(folder / "raw", cases=cases, seed=0)
    for kind in KINDS.values():
        build(kind.dataset, folder / "raw", folder / "data")
        builder = tfds.builder_from_directory(
            newest_version(kind.dataset, str(folder / "data"))
        )
        source = builder.as_data_source(
            "train", decoders={"image": tfds.decode.SkipDecoding()}
        )
        files = folder / "png" / kind.dataset
        files.mkdir(parents=True)
        for number, example in enumerate(source):
            (files / f"{number}.png").write_bytes(example["image"])


def measure(name: str, kind: Kind, folder: Path, seconds: float) -> float:
    """Images a second; runs in the process of this pipeline and kind."""
    if not _BATCHES:
        _BATCHES[name] = PIPELINES[name](kind, folder)
        next(_BATCHES[name])
    batches, done = _BATCHES[name], 0
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        next(batches)
        done += kind.batch_size
    return done / (time.perf_counter() - start)


def _use_one_core() -> None:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    os.environ |= {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}
    os.environ |= {"NO_ALBUMENTATIONS_UPDATE": "1", "CUDA_VISIBLE_DEVICES": ""}


def measure_kind(
    kind: Kind, folder: Path, rounds: int, seconds: float
) -> dict[str, float]:
    """The median of each pipeline's rounds, which take turns."""
    spawn = multiprocessing.get_context("spawn")
    pools = {
        name: ProcessPoolExecutor(1, spawn, initializer=_use_one_core)
        for name in PIPELINES
    }
    found: dict[str, list[float]] = {name: [] for name in PIPELINES}
    try:
        for number in range(rounds + 1):
            for name, pool in pools.items():
                # The first round warms up.
                length = seconds if number else 0.0
                rate = pool.submit(measure, name, kind, folder, length).result()
                found[name] += [rate] * bool(number)
    finally:
        for pool in pools.values():
            pool.shutdown()
    return {name: statistics.median(rates) for name, rates in found.items()}


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """The options that decide how long the measuring takes."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=8, help="phantoms to draw")
    parser.add_argument("--rounds", type=int, default=5, help="whose median counts")
    parser.add_argument("--seconds", type=float, default=2.0, help="of a round")
    return parser


def main() -> None:
    """Prepares the images, measures, prints."""
    options = make_parser(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name), options.cases)
        print(
            "| images | pipeline | images/s on one core | mammo_jax | to the device |"
        )
        print("| --- | --- | ---: | ---: | ---: |")
        for title, kind in KINDS.items():
            rates = measure_kind(kind, Path(name), options.rounds, options.seconds)
            whole_way, to_device = itertools.islice(rates.values(), 2)
            for peer, rate in rates.items():
                ratios = f"{whole_way / rate:.2f} x | {to_device / rate:.2f} x"
                print(f"| {title} | {peer} | {rate:.1f} | {ratios} |", flush=True)


if __name__ == "__main__":
    main()
