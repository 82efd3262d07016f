"""The examples of the data sets: their features, and the bytes they are made of.

An example is a dictionary of numbers, strings, lists and PNG bytes. Workers hand
examples over as files (`write_examples`, `read_examples`), so that an interrupted
build finds what was done.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Int, UInt16

from mammo_jax.common.files import replace_file
from mammo_jax.datasets.labels import PATCH_CLASSES
from mammo_jax.datasets.sampling import Patch, Region
from mammo_jax.images.png import encode_png

Example = dict[str, Any]

_LENGTH_BYTES = 8


def whole_example(
    image: UInt16[np.ndarray, "height width"],
    facts: Example,
    label: int,
    regions: Sequence[tuple[str, Region]],
) -> Example:
    """One whole mammogram with its regions of interest.

    Args:
      image: the gridded image.
      facts: image_id, patient_id and so on, taken as they are.
      label: 0 not malignant, 1 malignant.
      regions: patch class and region of each abnormality whose mask is known.
    """
    rois = [
        {
            "class": PATCH_CLASSES.index(name),
            "bbox": list(region.box),
            "outline": region.outline.tolist(),
        }
        for name, region in regions
    ]
    return {"image": encode_png(image), "label": label, "rois": rois, **facts}


def patch_examples(
    cut: Sequence[UInt16[np.ndarray, "size size"]],
    patches: Sequence[Patch],
    facts: Example,
    classes: Sequence[str],
) -> list[Example]:
    """The patches of one mammogram; `classes` are those of its regions.

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


def split_outlines(
    example: Mapping[str, Any],
) -> list[Int[np.ndarray, "corners 2"]]:
    """The outline (row, column) of each region of a packaged whole image."""
    ends = np.cumsum(example["rois"]["corners"])
    return np.split(example["outlines"], ends)[: len(ends)]


def read_summary(path: Path) -> Example:
    """The `summary` that was given to `write_examples`."""
    with path.open("rb") as file:
        return _read_header(file)["summary"]


def list_images(path: Path) -> tuple[str, list[int]]:
    """The image id of a file's examples, and the bytes that each one's image has."""
    with path.open("rb") as file:
        header = _read_header(file)
    return header["summary"]["image_id"], header["lengths"]


def read_examples(path: Path) -> Iterator[Example]:
    """The examples that were given to `write_examples`, one by one."""
    with path.open("rb") as file:
        header = _read_header(file)
        for example, size in zip(header["examples"], header["lengths"], strict=True):
            yield {"image": file.read(size), **example}


def read_example(path: Path, number: int) -> Example:
    """One of the examples that were given to `write_examples`."""
    with path.open("rb") as file:
        header = _read_header(file)
        file.seek(sum(header["lengths"][:number]), os.SEEK_CUR)
        image = file.read(header["lengths"][number])
    return {"image": image, **header["examples"][number]}


def _read_header(file: BinaryIO) -> Example:
    length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
    return json.loads(file.read(length))
