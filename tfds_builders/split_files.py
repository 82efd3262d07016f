"""The files of a split, written from the workers' finished files.

TFDS's own writer shuffles by holding a gigabyte of examples in memory, and for more
than that it asks TensorFlow for temporary files. Here the examples are on the disk
already: their keys alone are put into TFDS's order, and each example is read when its
turn comes. The outcome is the same.
"""

import errno
import itertools
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow_datasets as tfds
from tensorflow_datasets.core import example_serializer, hashing, naming, writer
from tensorflow_datasets.core.utils import shard_utils

from mammo_jax.common.progress import progress
from mammo_jax.datasets.records import pack, read_example, read_header

_WRITE_FAILED = re.compile(r"\w+\(\) failed: ([^;]+)")


def read_records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields key and example of each example in a finished file."""
    for key, place in list_places([path]):
        yield key, pack(read_example(place.path, place.number))


class Place(NamedTuple):
    """Place of a finished example.

    Attributes:
      path: a finished file.
      number: number of the example in it.
      size: bytes of its image.
    """

    path: Path
    number: int
    size: int


def list_places(paths: Iterable[Path]) -> Iterator[tuple[str, Place]]:
    """Yields key and place of each example in finished files."""
    for path in paths:
        header = read_header(path)
        for number, size in enumerate(header["lengths"]):
            key = f"{header['summary']['image_id']}_{number}"
            yield key, Place(path, number, size)


def write_split(
    split: str,
    keyed_places: Iterable[tuple[str, Place]],
    features: tfds.features.FeaturesDict,
    template: naming.ShardedFileTemplate,
    example_writer: writer.ExampleWriter,
) -> tfds.core.SplitInfo:
    """Writes finished examples as the files of a split.

    Args:
      split: its name, on which the order depends, as TFDS has it.
      keyed_places: key and place of each example.
      features: features of the data set.
      template: form of the files' names.
      example_writer: writer of the data set's file format.
    """
    hasher = hashing.Hasher(split)
    places = sorted((hasher.hash_key(key), place) for key, place in keyed_places)
    image_bytes = sum(place.size for _, place in places)
    shards = shard_utils.ShardConfig().get_number_shards(image_bytes, len(places))
    ends = shard_utils.get_shard_boundaries(len(places), shards)

    serializer = example_serializer.ExampleSerializer(features.get_serialized_info())
    written = 0

    def serialize(hashed: tuple[int, Place]) -> tuple[int, bytes]:
        nonlocal written
        key, place = hashed
        example = pack(read_example(place.path, place.number))
        encoded = serializer.get_tf_example(features.encode_example(example))
        # Otherwise each process puts the features into an order of its own.
        serialized = encoded.SerializeToString(deterministic=True)
        written += len(serialized)
        bar.update()
        return key, serialized

    records = map(serialize, places)
    lengths = [end - start for start, end in itertools.pairwise([0, *ends])]
    with progress(None, f"writing {split}", total=len(places), unit="example") as bar:
        for index, length in enumerate(lengths):
            path = template.sharded_filepath(shard_index=index, num_shards=shards)
            try:
                example_writer.write(os.fspath(path), itertools.islice(records, length))
            except RuntimeError as error:
                # ArrayRecord has an error of its own for a disk without room.
                if found := _WRITE_FAILED.search(str(error)):
                    raise OSError(errno.EIO, found[1], os.fspath(path)) from error
                raise
    return tfds.core.SplitInfo(
        name=split,
        shard_lengths=lengths,
        num_bytes=written,
        filename_template=template,
    )
