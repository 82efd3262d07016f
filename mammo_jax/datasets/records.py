"""The records of a packaged data set: their layout, and how examples are handed over.

The layout stands here alone: the features of TFDS, what is packed and what the reader
finds follow from it. An example is a dictionary of its values, PNG bytes and what JSON
can hold. Workers hand examples over as files (`write_examples`, `read_example`), so
that an interrupted build finds what was done.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np
from jaxtyping import Int, UInt16

from mammo_jax.common.files import replace_file
from mammo_jax.datasets.labels import PATCH_CLASSES, WHOLE_CLASSES
from mammo_jax.datasets.sampling import Patch, Region
from mammo_jax.images.png import encode_png

Example = dict[str, Any]

_LENGTH_BYTES = 8


class Field(NamedTuple):
    """One value of a record.

    Attributes:
      dtype: `str` for text, `np.uint16` for an image.
      shape: shape of the array, () for one value; None is any length.
      classes: names of the classes that it numbers, if it does.
    """

    dtype: type
    shape: tuple[int | None, ...] = ()
    classes: tuple[str, ...] = ()


_IMAGE = Field(np.uint16, (None, None))  # one size within a data set
_VIEW = {
    "image_id": Field(str),
    "patient_id": Field(str),
    "laterality": Field(str),  # LEFT or RIGHT
    "view": Field(str),  # CC or MLO
}
Layout = Mapping[str, Field | Mapping[str, Field]]
PATCH: Layout = {
    "image": _IMAGE,
    "label": Field(np.int32, classes=PATCH_CLASSES),
    **_VIEW,
    "centre": Field(np.int32, (2,)),  # row, column
    "overlap": Field(np.float32),
}
WHOLE: Layout = {
    "image": _IMAGE,
    "label": Field(np.int32, classes=WHOLE_CLASSES),
    **_VIEW,
    "breast_density": Field(np.int32),
    # One value for each region; the reader's names are "rois/class" and so on.
    "rois": {
        "class": Field(np.int32, classes=PATCH_CLASSES),
        "bbox": Field(np.int32, (4,)),  # top, left, bottom, right; the last two outside
        "corners": Field(np.int32),  # number of corners of its outline
    },
    # The corners (row, column) of all outlines, one after the other (`split_outlines`):
    # TFDS reads sequences of sequences with TensorFlow alone.
    "outlines": Field(np.int32, (None, 2)),
}


def whole_example(
    image: UInt16[np.ndarray, "height width"],
    facts: Example,
    regions: Sequence[tuple[str, Region]],
) -> Example:
    """Makes the example of a whole mammogram with its regions of interest.

    Its facts, label and image_id among them, are taken as they are; of regions whose
    mask is known it has the patch class, box and outline.
    """
    outlines = [region.outline.tolist() for _, region in regions]
    return {
        "image": encode_png(image),
        "rois": {
            "class": [PATCH_CLASSES.index(name) for name, _ in regions],
            "bbox": [list(region.box) for _, region in regions],
            "corners": [len(outline) for outline in outlines],
        },
        "outlines": [corner for outline in outlines for corner in outline],
        **facts,
    }


def patch_examples(
    cut: Sequence[UInt16[np.ndarray, "size size"]],
    patches: Sequence[Patch],
    facts: Example,
    classes: Sequence[str],
) -> list[Example]:
    """Makes the examples of a mammogram's patches; `classes` are those of its regions.

    Tissue is noise to a compressor: patches would shrink by a fifth and take several
    times as long to write and to read.
    """
    return [
        {
            "image": encode_png(image, compress=False),
            "label": PATCH_CLASSES.index(
                "background" if patch.region is None else classes[patch.region]
            ),
            "centre": list(patch.centre),
            "overlap": patch.overlap,
            **facts,
        }
        for image, patch in zip(cut, patches, strict=True)
    ]


def pack(example: Example) -> Example:
    """Returns an example with arrays where its layout has them, as TFDS wants it."""
    layout = PATCH if "centre" in example else WHOLE
    packed = dict(example)
    for name, field in layout.items():
        if isinstance(field, Field) and field.shape and name != "image":
            shape = [-1 if size is None else size for size in field.shape]
            packed[name] = np.array(example[name], field.dtype).reshape(shape)
    return packed


def split_outlines(example: Mapping[str, Any]) -> list[Int[np.ndarray, "_ 2"]]:
    """Returns the outline (row, column) of each region of a whole image's example."""
    corners = np.asarray(example["outlines"], np.int32).reshape(-1, 2)
    ends = np.cumsum(example["rois"]["corners"], dtype=int)
    return np.split(corners, ends)[: len(ends)]


def write_examples(path: Path, summary: Example, examples: Sequence[Example]) -> None:
    """Writes examples and a JSON `summary` to a file that is whole or not there."""
    images = [example["image"] for example in examples]
    header = json.dumps(
        {
            "summary": summary,
            "lengths": [len(image) for image in images],
            "examples": [
                {name: v for name, v in example.items() if name != "image"}
                for example in examples
            ],
        }
    ).encode()
    with replace_file(path) as partial, partial.open("wb") as file:
        file.write(len(header).to_bytes(_LENGTH_BYTES, "little"))
        file.write(header)
        file.writelines(images)


def read_header(path: Path) -> Example:
    """Reads summary, examples without images, and lengths of the images in bytes."""
    with path.open("rb") as file:
        return _read_header(file)


def read_example(path: Path, number: int) -> Example:
    """Reads one of the examples that were given to `write_examples`."""
    with path.open("rb") as file:
        header = _read_header(file)
        file.seek(sum(header["lengths"][:number]), os.SEEK_CUR)
        image = file.read(header["lengths"][number])
    return {"image": image, **header["examples"][number]}


def _read_header(file: BinaryIO) -> Example:
    length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
    return cast(Example, json.loads(file.read(length)))
