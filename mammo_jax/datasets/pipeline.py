"""From a packaged dataset to batches: decode, augment, batch (grain).

Every batch is a pure function of (seed, batch number): the order of the data
does not depend on threads or workers, and a run that is resumed at step n asks
for batch n.
"""

import contextlib
import dataclasses
import functools
import logging
import multiprocessing
import os
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import cv2
import grain
import numpy as np
import tensorflow_datasets as tfds
from absl import flags
from etils import epath

from mammo_jax.common.errors import UserError
from mammo_jax.common.parallel import begin_worker, interrupts_blocked
from mammo_jax.datasets import augment
from mammo_jax.datasets.packaged import DAMAGES, Examples
from mammo_jax.datasets.packaging import describe_age
from mammo_jax.datasets.records import Example
from mammo_jax.images.grid import Grid

_LOGGER = logging.getLogger(__name__)
# OpenCV's own threads would compete with grain's.
cv2.setNumThreads(1)

# Workers send batches through pipes: containers have little shared memory, and what a
# killed run leaves in it stays there.
_BY_PIPE = grain.experimental.DatasetOptions(min_shm_size=1 << 62)

# Each of n processes reads every n-th example of a batch, so that the number of a batch
# names the same ones whatever n is.
_ALL = grain.sharding.NoSharding()

# Grain's name for a worker.
_WORKER_NAME = "grain-process-prefetch"
_SECONDS_TO_LOOK = 1.0
_KILLED = (
    "error: a process that reads images was killed, most likely for lack of memory; "
    "give the same command again, which goes on from the last checkpoint, with fewer "
    "--config.data.workers"
)

Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A packaged dataset, opened for reading.

    Attributes:
      name: such as `cbis_ddsm/paper_whole`.
      sources: split name to random-access source of examples.
      pixel_mean: the mean of the training images, on the scale 0..255.
      image_shape: (height, width) in pixels.
      class_names: in the order of the labels.
      grid: grid of the whole images, which patches are cut from.
    """

    name: str
    sources: Mapping[str, Examples]
    pixel_mean: float
    image_shape: tuple[int, int]
    class_names: tuple[str, ...]
    grid: Grid


def open_dataset(name: str, data_dir: str) -> Dataset:
    """Opens `name` below `data_dir`.

    Raises:
      UserError: it has not been built there, or cannot be read.
    """
    directory = newest_version(name, data_dir)
    unreadable = functools.partial(_unreadable, name, data_dir, directory)
    try:
        builder = tfds.builder_from_directory(directory)
        height, width, _ = builder.info.features["image"].shape
        sources = {
            split: Examples(
                builder.as_data_source(
                    split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
                ),
                (height, width),
                unreadable,
            )
            for split in builder.info.splits
        }
        for split, source in sources.items():
            if not len(source):
                raise ValueError(f"its split {split} is empty")
            _ = source[0], source[-1]  # A missing or cut-off file shows at its ends.
        packing = builder.info.metadata["config"]["grid"]
        if remark := describe_age(name, builder.info.metadata):
            _LOGGER.warning("dataset %s in %s: %s", name, directory, remark)
        return Dataset(
            name=name,
            sources=sources,
            pixel_mean=float(builder.info.metadata["pixel_mean"]),
            image_shape=(height, width),
            class_names=tuple(builder.info.features["label"].names),
            grid=Grid(*(packing[field] for field in Grid._fields)),
        )
    except (*DAMAGES, OSError) as error:
        raise unreadable(str(error)) from error


def _unreadable(name: str, data_dir: str, directory: Path, why: str) -> UserError:
    return UserError(
        f"dataset {name} in {directory} cannot be read ({why}); remove that folder "
        f"and build it again: {build_command(name, data_dir)}"
    )


def newest_version(name: str, data_dir: str) -> Path:
    """The folder `data_dir/name/VERSION` of the highest version."""
    root = Path(epath.Path(data_dir).expanduser()) / name
    versions = [
        path.parent
        for path in root.glob("*/dataset_info.json")
        if re.fullmatch(r"\d+\.\d+\.\d+", path.parent.name)
    ]
    if not versions:
        raise UserError(
            f"dataset {name} is not in {data_dir}; build it first: "
            f"{build_command(name, data_dir)}"
        )
    return max(versions, key=lambda path: [int(n) for n in path.name.split(".")])


def build_command(name: str, data_dir: str) -> str:
    """The command that packages a dataset."""
    return f"mammo-jax build-dataset {name} --manual_dir=RAW --data_dir={data_dir}"


def training_batches(
    source: Any,
    batch_size: int,
    ranges: augment.Augmentation,
    *,
    seed: int,
    start: int,
    threads: int,
    workers: int = 0,
    share: grain.sharding.ShardOptions = _ALL,
) -> Iterator[Batch]:
    """Endless shuffled, augmented batches, from batch number `start` on.

    Each sweep over the data has an order of its own. A batch holds
    `image` (batch, height, width) uint16, `label` (batch,) int32,
    `channel_shift` (batch, 3) float32 on the scale 0..255, and the ids; of whole
    images also `breast_density`, `abnormality_types` and `lesion_size`. Its length
    is this process's share of `batch_size`. They are read by `threads` threads, of
    each of `workers` processes if there are any; the batches are the same.
    """
    endless = (
        grain.MapDataset.source(source)
        .seed(seed)
        .shuffle()
        .repeat()
        .random_map(functools.partial(_augmented, ranges))[
            share.shard_index :: share.shard_count
        ]
        .batch(batch_size // share.shard_count, drop_remainder=True)
    )
    batches = endless[start:].to_iter_dataset(_read_options(threads))
    if workers and not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain asks for flags of its own, and no others.
    options = grain.MultiprocessingOptions(workers, per_worker_buffer_size=2)
    ahead = batches.mp_prefetch(options, worker_init_fn=_begin_worker)
    dataset = grain.experimental.WithOptionsIterDataset(ahead, _BY_PIPE)
    return _watched(dataset) if workers else iter(dataset)


def _watched(dataset: Any) -> Iterator[Batch]:
    """Yields the batches; if a worker is killed, it ends this process."""
    over = threading.Event()
    with contextlib.ExitStack() as ends:
        with interrupts_blocked():
            batches = iter(dataset)
            ends.callback(batches.close)
            ends.callback(over.set)  # This comes first: closing kills the workers.
            threading.Thread(target=_end_with_worker, args=(over,), daemon=True).start()
            batch = next(batches)
        while True:
            yield batch
            batch = next(batches)


def _end_with_worker(over: threading.Event) -> None:
    """Ends this process in one line when a worker has been killed.

    Half a batch may be in its pipe, which is then waited for without an end.
    """
    workers: set[BaseProcess] = set()
    while not over.wait(_SECONDS_TO_LOOK):
        workers |= {*multiprocessing.active_children()}
        codes = [w.exitcode for w in workers if w.name.startswith(_WORKER_NAME)]
        if any(codes):  # None of the living, 0 of those that ended by themselves.
            print(_KILLED, file=sys.stderr, flush=True)
            os._exit(1)


def _augmented(
    ranges: augment.Augmentation, example: Example, rng: np.random.Generator
) -> Batch:
    image, shift = augment.augment_image(example["image"], rng, ranges)
    return {**example, "image": image, "channel_shift": shift}


def evaluation_batches(
    source: Any,
    batch_size: int,
    *,
    threads: int,
    share: grain.sharding.ShardOptions = _ALL,
) -> Iterator[Batch]:
    """Every example once, in order, not augmented.

    All batches have one shape and every process gets as many: what is missing at
    the end is filled up with copies. `weight` (batch,) float32 is 1 for true
    examples and 0 for copies.
    """
    size = batch_size // share.shard_count
    examples = grain.MapDataset.source(source)
    # A process without any example of its own copies the first.
    mine = examples[share.shard_index :: share.shard_count] or examples[:1]
    true = len(mine) if share.shard_index < len(examples) else 0
    batches = iter(mine.batch(size).to_iter_dataset(_read_options(threads)))
    batch: Batch = {}
    for number in range(number_of_batches(source, batch_size)):
        batch = next(batches, batch)
        missing = size - len(batch["label"])
        batch = {
            key: np.concatenate([value, np.repeat(value[-1:], missing, axis=0)])
            for key, value in batch.items()
        }
        weight = np.arange(number * size, (number + 1) * size) < true
        yield {**batch, "weight": weight.astype(np.float32)}


def _read_options(threads: int) -> grain.ReadOptions:
    return grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)


def _begin_worker(number: int, workers: int) -> None:
    begin_worker()


def number_of_batches(source: Any, batch_size: int) -> int:
    """Counts the batches that `evaluation_batches` yields."""
    return -(-len(source) // batch_size)
