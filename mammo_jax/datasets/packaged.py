"""Reads a packaged example: what the networks and the prediction table need of it.

TFDS's own reader turns every feature into an array by itself, which takes about as long
as all the rest of reading a patch, and reads PNGs with OpenCV, which takes three times
as long as `mammo_jax.images.png`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int
from tensorflow_datasets.proto import tf_example_pb2

from mammo_jax.datasets.labels import PATCH_CLASSES
from mammo_jax.datasets.records import Example
from mammo_jax.images.png import decode_png

# What goes on as text.
_IDENTITY = ("image_id", "patient_id", "laterality", "view")


class Examples:
    """The examples of a split, which are read one by one.

    Args:
      records: `tf.train.Example`s, serialised.
      image_shape: (height, width) in pixels.
    """

    def __init__(self, records: Sequence[bytes], image_shape: tuple[int, int]):
        self.records, self.image_shape = records, image_shape

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, number: int) -> Example:
        # ArrayRecord neither counts from the end nor says where it is.
        record = self.records[range(len(self))[number]]
        return parse_example(record, self.image_shape)


def parse_example(record: bytes, image_shape: tuple[int, int]) -> Example:
    """Plain types of one example.

    Returns:
      `image` (height, width) uint16, `label` int32, and the ids as text; of whole
      images also `breast_density`, `abnormality_types` and `lesion_size`, in the units
      of `mammo_jax.evaluation.predictions`.

    Raises:
      google.protobuf.message.DecodeError, ValueError: it is damaged, or not of this
        project.
    """
    features = tf_example_pb2.Example.FromString(record).features.feature
    example: Example = {
        "image": decode_png(_bytes(features, "image"), *image_shape),
        "label": _number(features, "label"),
    }
    for key in _IDENTITY:
        example[key] = _bytes(features, key).decode()
    if "centre" not in features:
        return example | _details(features, image_shape[0])
    # Patches of one image are told apart by their centre.
    row, column = _numbers(features, "centre")
    example["image_id"] += f"_{row}_{column}"
    return example


def _details(features: Any, height: int) -> Example:
    """What sub-groups are made by."""
    kinds = {
        PATCH_CLASSES[number].partition("_")[0]
        for number in _numbers(features, "rois/class")
    }
    # Top, left, bottom, right.
    boxes = _numbers(features, "rois/bbox").reshape(-1, 2, 2)
    sides = boxes[:, 1] - boxes[:, 0]
    return {
        "breast_density": _number(features, "breast_density"),
        "abnormality_types": ";".join(sorted(kinds)),
        "lesion_size": np.float32(sides.max(initial=0) / height),
    }


def _number(features: Any, name: str) -> np.int32:
    return np.int32(_only(name, _numbers(features, name)))


def _numbers(features: Any, name: str) -> Int[np.ndarray, "values"]:
    return np.array(_value(features, name).int64_list.value, np.int64)


def _bytes(features: Any, name: str) -> bytes:
    return _only(name, _value(features, name).bytes_list.value)


def _only(name: str, values: Any) -> Any:
    if len(values) != 1:
        raise ValueError(f"its feature {name} has {len(values)} values, not one")
    return values[0]


def _value(features: Any, name: str) -> Any:
    if name not in features:  # Protocol buffers would make an empty one.
        raise ValueError(f"its feature {name} is missing")
    return features[name]
