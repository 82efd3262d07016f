"""Reads packaged examples: what the networks and the prediction table need of them.

TFDS's own reader turns every feature into an array by itself, which takes about as long
as all the rest of reading a patch, and reads PNGs with OpenCV, which takes three times
as long as `mammo_jax.images.png`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from google.protobuf import json_format, message
from tensorflow_datasets.proto import tf_example_pb2

from mammo_jax.common.errors import UserError
from mammo_jax.datasets.labels import PATCH_CLASSES
from mammo_jax.datasets.records import PATCH, WHOLE, Example, Field, Layout
from mammo_jax.images.png import decode_png

# Errors of the libraries that read a packaged data set, where it is damaged.
DAMAGES = (
    ArithmeticError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
    message.DecodeError,
    json_format.Error,
)
# Values that nobody who trains or scores asks for.
_LEFT_OUT = ("overlap", "rois/corners", "outlines")


def _read_fields(layout: Layout) -> dict[str, Field]:
    """Returns the fields that are read, by their names in a serialised record."""
    fields: dict[str, Field] = {}
    for name, field in layout.items():
        if isinstance(field, Field):
            fields[name] = field
        else:
            # A value for each region makes an array.
            for part, value in field.items():
                fields[f"{name}/{part}"] = value._replace(shape=(None, *value.shape))
    return {name: fields[name] for name in fields if name not in _LEFT_OUT}


_PATCH_FIELDS, _WHOLE_FIELDS = _read_fields(PATCH), _read_fields(WHOLE)


class Examples:
    """Examples of a split, read one by one from `tf.train.Example`s, serialised.

    Args:
      records: the serialised examples.
      image_shape: height and width of the images.
      refusal: makes the error of a damaged example from a text that says which it is.
    """

    def __init__(
        self,
        records: Sequence[bytes],
        image_shape: tuple[int, int],
        refusal: Callable[[str], UserError],
    ):
        self.records, self.image_shape = records, image_shape
        self._refusal = refusal

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, number: int) -> Example:
        # ArrayRecord neither counts from the end nor says where it is.
        number = range(len(self))[number]
        try:
            return parse_example(self.records[number], self.image_shape)
        except DAMAGES as error:
            raise self._refusal(f"example {number}: {error}") from error


def parse_example(record: bytes, image_shape: tuple[int, int]) -> Example:
    """Reads one example into plain types.

    Returns:
      `image` (height, width) uint16, `label` int32, and the ids as text; of whole
      images also `breast_density`, `abnormality_types` and `lesion_size`, in the units
      of `mammo_jax.evaluation.predictions`.

    Raises:
      google.protobuf.message.DecodeError, ValueError, OverflowError: it is damaged, or
        not of this project.
    """
    features = tf_example_pb2.Example.FromString(record).features.feature
    fields = _PATCH_FIELDS if "centre" in features else _WHOLE_FIELDS
    example = {name: _read(features, name, field) for name, field in fields.items()}
    example["image"] = decode_png(example["image"], *image_shape)
    number_of_labels = len(PATCH_CLASSES) if "centre" in example else 2
    if not 0 <= example["label"] < number_of_labels:
        raise ValueError("its label is of no class")
    if "centre" in example:
        # Patches of one image are told apart by their centre.
        row, column = example.pop("centre")
        example["image_id"] += f"_{row}_{column}"
        return example
    classes, corners = example.pop("rois/class"), example.pop("rois/bbox")
    # The first class is the background's.
    if not all(0 < number < len(PATCH_CLASSES) for number in classes):
        raise ValueError("a region's class is no lesion's")
    if len(corners) != 4 * len(classes):
        raise ValueError("its regions have not a class and a box each")
    boxes = corners.reshape(-1, 2, 2)
    if (boxes < 0).any() or (boxes > image_shape).any():
        raise ValueError("a region's box is not within the image")
    sides = boxes[:, 1] - boxes[:, 0]
    if (sides < 0).any():
        raise ValueError("a region's box ends before it begins")
    if not 0 <= example["breast_density"] <= 4:
        raise ValueError("its breast density is none")
    kinds = {PATCH_CLASSES[number].partition("_")[0] for number in classes}
    areas = sides.prod(axis=1)
    example["abnormality_types"] = ";".join(sorted(kinds))
    # Squeezing an image to the grid changes the shares of its sides, not of its area.
    share = areas.max(initial=0) / (image_shape[0] * image_shape[1])
    example["lesion_size"] = np.float32(share**0.5)
    return example


def _read(features: Any, name: str, field: Field) -> Any:
    if name not in features:  # Protocol buffers would make an empty one.
        raise ValueError(f"its feature {name} is missing")
    is_number = field.dtype is np.int32
    feature = features[name]
    if feature.WhichOneof("kind") not in (
        "int64_list" if is_number else "bytes_list",
        None,  # an empty one
    ):
        raise ValueError(f"its feature {name} is of another type")
    values = feature.int64_list.value if is_number else feature.bytes_list.value
    if is_number and field.shape:
        return np.array(values, np.int64)
    if len(values) != 1:
        raise ValueError(f"its feature {name} has {len(values)} values, not one")
    if is_number:
        return np.int32(values[0])
    return values[0].decode() if field.dtype is str else values[0]
