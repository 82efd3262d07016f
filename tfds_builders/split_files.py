"""The files of a split, written from the workers' finished files.

TFDS's own writer shuffles by holding a gigabyte of examples in memory, and for more
than that it asks TensorFlow for temporary files. Here the examples are on the disk
already: their keys alone are put into TFDS's order, and each example is read when its
turn comes. The outcome is the same.
"""

import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import example_serializer, hashing, naming, writer
from tensorflow_datasets.core.utils import shard_utils

from mammo_jax.data.records import list_images, read_example, read_examples
from mammo_jax.progress import progress


def read_records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Key and example of each example in a finished file."""
    for number, example in enumerate(read_examples(path)):
        yield _key(example["image_id"], number), _pack(example)


def write_split(
    split: str,
    paths: Sequence[Path],
    features: tfds.features.FeaturesDict,
    template: naming.ShardedFileTemplate,
    example_writer: writer.ExampleWriter,
) -> tfds.core.SplitInfo:
    """Writes the examples of finished files as the files of a split.

    Args:
      split: its name, on which the order depends, as TFDS has it.
      paths: finished files.
      features: of the data set.
      template: of the files' names.
      example_writer: of the data set's file format.
    """
    hasher = hashing.Hasher(split)
    places: list[tuple[int, Path, int]] = []
    image_bytes = 0
    for path in paths:
        image_id, sizes = list_images(path)
        image_bytes += sum(sizes)
        for number in range(len(sizes)):
            places.append((hasher.hash_key(_key(image_id, number)), path, number))
    places.sort()
    shards = shard_utils.ShardConfig().get_number_shards(image_bytes, len(places))
    ends = shard_utils.get_shard_boundaries(len(places), shards)

    serializer = example_serializer.ExampleSerializer(features.get_serialized_info())
    written = 0

    def serialize(place: tuple[int, Path, int]) -> tuple[int, bytes]:
        nonlocal written
        key, path, number = place
        example = features.encode_example(_pack(read_example(path, number)))
        serialized = serializer.serialize_example(example)
        written += len(serialized)
        return key, serialized

    records = map(
        serialize,
        progress(places, f"writing {split}", total=len(places), unit="example"),
    )
    lengths = [end - start for start, end in itertools.pairwise([0, *ends])]
    for index, length in enumerate(lengths):
        path = template.sharded_filepath(shard_index=index, num_shards=shards)
        example_writer.write(os.fspath(path), itertools.islice(records, length))
    return tfds.core.SplitInfo(
        name=split,
        shard_lengths=lengths,
        num_bytes=written,
        filename_template=template,
    )


def _key(image_id: str, number: int) -> str:
    return f"{image_id}_{number}"


def _pack(example: dict[str, Any]) -> dict[str, Any]:
    """The example with its regions as the features have them."""
    if "rois" not in example:
        return example
    rois = example["rois"]
    return example | {
        "rois": [
            {
                "class": roi["class"],
                "bbox": np.array(roi["bbox"], np.int32),
                "corners": len(roi["outline"]),
            }
            for roi in rois
        ],
        "outlines": np.array(
            [corner for roi in rois for corner in roi["outline"]], np.int32
        ).reshape(-1, 2),
    }
