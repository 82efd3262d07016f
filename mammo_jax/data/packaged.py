"""Reads a packaged example: what the networks and the prediction table need of it.

TFDS's own reader turns every feature into an array by itself, which takes longer than
all the rest of reading a patch, and PNGs with OpenCV, which takes three times as long
as `mammo_jax.data.png`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int
from tensorflow_datasets.proto import tf_example_pb2

from mammo_jax.data.labels import PATCH_CLASSES
from mammo_jax.data.png import decode_png
from mammo_jax.data.records import Example

# What goes on as text.
_IDENTITY = ("image_id", "patient_id", "laterality", "view")


class Examples:
    """The examples of a split, which are read one by one.

    Args:
      records: `tf.train.Example`s, serialised.
      image_shape: (height, width) in pixels.
    """

    def __init__(self, records: Sequence[bytes], image_shape: tuple[int, int]):
        self._records, self._image_shape = records, image_shape

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, number: int) -> Example:
        # ArrayRecord neither counts from the end nor says where it is.
        record = self._records[range(len(self))[number]]
        return parse_example(record, self._image_shape)


def parse_example(record: bytes, image_shape: tuple[int, int]) -> Example:
    """Plain types of one example.

    Returns:
      `image` (height, width) uint16, `label` int32, and the ids as text; of whole
      images also `breast_density`, `abnormality_types` and `lesion_size`, in the units
      of `mammo_jax.evaluation.predictions`.

    Raises:
      google.protobuf.message.DecodeError, LookupError, ValueError: it is damaged, or
        not of this project.
    """
    features = tf_example_pb2.Example.FromString(record).features.feature
    (png,) = _value(features, "image").bytes_list.value
    example: Example = {
        "image": decode_png(png, *image_shape),
        "label": np.int32(_numbers(features, "label")[0]),
    }
    for key in _IDENTITY:
        example[key] = _value(features, key).bytes_list.value[0].decode()
    if "centre" in features:  # Patches of one image are told apart by their centre.
        row, column = _numbers(features, "centre")
        example["image_id"] += f"_{row}_{column}"
    if "breast_density" in features:
        example |= _details(features, image_shape[0])
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
        "breast_density": np.int32(_numbers(features, "breast_density")[0]),
        "abnormality_types": ";".join(sorted(kinds)),
        "lesion_size": np.float32(sides.max(initial=0) / height),
    }


def _numbers(features: Any, name: str) -> Int[np.ndarray, "values"]:
    return np.array(_value(features, name).int64_list.value, np.int64)


def _value(features: Any, name: str) -> Any:
    if name not in features:  # Protocol buffers would make an empty one.
        raise KeyError(name)
    return features[name]
