"""Models that the paper's authors released, as directories of this program.

The graph in a file says which array is what, see `mammo_jax.weights.released_graph`.
The layers of a network here, in the order in which an image goes through them, are
those of the graph's text.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from mammo_jax.common import run_directory
from mammo_jax.common.errors import UserError
from mammo_jax.common.files import whole_folder
from mammo_jax.config import patch_config, whole_config
from mammo_jax.datasets.labels import PATCH_CLASSES, WHOLE_CLASSES
from mammo_jax.models import abstract_model, read_model_config, variables
from mammo_jax.weights.model_description import (
    WEIGHTS_FILE,
    Description,
    intent_of,
    save_description,
)
from mammo_jax.weights.model_directory import load_model
from mammo_jax.weights.published import file_digest
from mammo_jax.weights.released_graph import (
    Operation,
    in_order,
    read_operations,
    recognise,
)
from mammo_jax.weights.weight_files import read_keras_model, reading, write_weights

LICENCE = "CC BY-NC-SA 4.0, not for commercial use"
CITATION = (
    "Li Shen, End-to-end Training for Whole Image Breast Cancer Diagnosis using An All "
    "Convolutional Design, 2017, https://github.com/lishen/end2end-all-conv"
)
# Data sets that the authors trained on, by the word in their files' names: name, mean
# on the scale 0..255, and whether the images were stretched to the full range first.
TRAINED_ON = {"ddsm": ("DDSM", 52.18, False), "inbreast": ("INbreast", 44.33, True)}
_PATCH_SIZE = 224
_ARRAY = re.compile(
    r".*\b(kernel|bias|gamma|beta|moving_mean|moving_variance)(_\d+)?(:\d+)?"
)
# Names that Keras's arrays of a layer have here, where they are others.
_OURS = {"gamma": "scale", "beta": "bias"}
_OURS |= {"moving_mean": "mean", "moving_variance": "var"}
# Places of a model's parts without a number, among those that have one.
_PLACES = {"trunk": 0, "head": 1, "top": 2, "output": 90, "shortcut": 91}
_PLACES |= {"shortcut_conv": 92, "shortcut_bn": 93}


def convert_released(source: Path, out: Path, trained_on: str | None) -> dict[str, str]:
    """Makes a model's directory of a file that the authors released.

    Args:
      source: the .h5 file.
      out: the directory to make; it must not be there, or be empty.
      trained_on: a key of `TRAINED_ON`; None where the file's name contains it.

    Returns:
      What was found, by name, for the user to read.

    Raises:
      UserError: the file is none of theirs, or damaged, and why; or the directory is
        not empty or cannot be written.
    """
    dataset, mean, stretch = TRAINED_ON[_find_dataset(source, trained_on)]
    graph, arrays = read_keras_model(source)
    with reading(source, "released model"):
        operations, size = read_operations(graph)
        text, layers = in_order(operations)
        config = _configuration(recognise(text), size, dataset)
        values = _our_values(config.model, layers, operations, arrays)
    is_patch, (height, width) = config.task == "patch", config.model.image_size
    digest = file_digest(source, "sha256")
    said = {"file": source.name, "sha256": digest}
    said |= {"licence": LICENCE, "citation": CITATION}
    description = Description(
        task=config.task,
        dataset=dataset,
        class_names=PATCH_CLASSES if is_patch else WHOLE_CLASSES,
        malignant_classes=(2, 4) if is_patch else (1,),
        pixel_mean=mean,
        height=height,
        width=width,
        stretch=stretch,
        intent=intent_of(dataset),
        patch_size=_PATCH_SIZE if is_patch else 0,
        phantoms=False,
        credit=f"The paper's authors released the model {source.name} ({LICENCE}); "
        f"cite: {CITATION}.",
    )
    metrics = {"task": config.task, "dataset": dataset, "released": said}
    with whole_folder(out) as folder:
        run_directory.write_json(
            folder / run_directory.CONFIG_FILE, run_directory.as_json(config)
        )
        write_weights(folder / WEIGHTS_FILE, values, said)
        save_description(folder, description)
        run_directory.write_json(folder / run_directory.METRICS_FILE, metrics)
        load_model(folder)
    model = config.model
    network = f"{model.trunk} ({model.wiring}), top: {model.top.kind}"
    images = f"{dataset}, {height}x{width}, mean {mean}{', stretched' * stretch}"
    return {"network": network, "images": images, **said}


def _find_dataset(source: Path, trained_on: str | None) -> str:
    named = [name for name in TRAINED_ON if name in source.name.lower()]
    if trained_on and named in ([], [trained_on], [*TRAINED_ON]):
        return trained_on
    if trained_on:
        raise UserError(f"{source.name} is of {named[0]}; leave --trained_on out")
    if len(named) != 1:
        raise UserError(
            f"the name of {source.name} does not say what it was trained on, and "
            "another mean gives other scores; add --trained_on=ddsm or "
            "--trained_on=inbreast"
        )
    return named[0]


def _configuration(
    fields: Mapping[str, Any], size: tuple[Any, Any], dataset: str
) -> ConfigDict:
    """Returns the configuration of a run that would train the network.

    Raises:
      ValueError: the network has another number of classes, or images of another size.
    """
    is_patch = fields["top"]["kind"] == "patch"
    config = patch_config() if is_patch else whole_config()
    config.model.update(fields)
    config.data.dataset = dataset
    if fields["num_classes"] != len(PATCH_CLASSES if is_patch else WHOLE_CLASSES):
        raise ValueError(f"it has {fields['num_classes']} classes")
    if is_patch:
        config.pretrained = ""
        valid = size in ((None, None), (_PATCH_SIZE, _PATCH_SIZE))
    else:
        del config["patch"]
        valid = all(type(side) is int and 0 < side < 1 << 16 for side in size)
        config.model.image_size = size if valid else ()
    if not valid:
        raise ValueError(f"its images are of {size[0]}x{size[1]} pixels")
    return config


def _our_values(
    model: ConfigDict,
    layers: Sequence[Operation],
    operations: Sequence[Operation],
    arrays: Mapping[str, Sequence[tuple[str, np.ndarray]]],
) -> dict[str, np.ndarray]:
    """Gives every array of the file to a variable of the network.

    `layers` are the operations in the order in which an image goes through them.

    Raises:
      ValueError: an array is missing, surplus, misshapen or no finite number.
    """
    _, params, stats = variables.split(abstract_model(read_model_config(model)))
    shapes = {name: tuple(value.shape) for name, value in (params | stats).items()}
    modules = sorted({name.rpartition("/")[0] for name in shapes}, key=_place)
    filled = [layer for layer in layers if layer.arrays]
    module_of = {
        layer.layer: module for layer, module in zip(filled, modules, strict=True)
    }
    values: dict[str, np.ndarray] = {}
    for stored_under in dict.fromkeys([*arrays, *(op.stored_under for op in filled)]):
        wanted = [
            _Wanted(
                name=f"{module_of[op.layer]}/{_OURS.get(array, array)}",
                array=array,
                layer=op.layer,
                late="moving" in array or not op.trainable,
            )
            for op in operations
            if op.stored_under == stored_under
            for array in op.arrays
        ]
        stored = arrays.get(stored_under, ())
        order = _order(stored_under, wanted, stored, shapes)
        values |= {w.name: value for w, (_, value) in zip(order, stored, strict=True)}
    # A layer may have no bias; of every other kind all arrays have been asked for.
    for name in shapes.keys() - values.keys():
        assert name.endswith("/bias"), name
        values[name] = np.zeros(shapes[name], np.float32)
    for name, value in values.items():
        if value.dtype.kind != "f" or not np.isfinite(value).all():
            raise ValueError(f"{name} is not of finite fractions")
    return {
        name: value.astype(np.float32, copy=False) for name, value in values.items()
    }


class _Wanted(NamedTuple):
    """Array that the graph asks for."""

    name: str  # ours
    array: str  # Keras's
    layer: str
    late: bool  # Keras stores it behind the trained ones of the layers beside it


def _order(
    stored_under: str,
    wanted: list[_Wanted],
    stored: Sequence[tuple[str, np.ndarray]],
    shapes: Mapping[str, tuple[int, ...]],
) -> list[_Wanted]:
    """Puts the arrays that are wanted into the order in which they are stored.

    Keras stores those of a model within a model together: what is trained first, the
    rest behind it. Layer by layer is the other order that there is.

    Raises:
      ValueError: neither order fits, or both do.
    """
    found = [(_array(name), value.shape) for name, value in stored]
    trained_first = sorted(wanted, key=lambda one: one.late)
    fitting = [
        order
        for order in (trained_first, wanted)
        if found == [(one.array, shapes[one.name]) for one in order]
    ]
    if fitting and fitting[0] == fitting[-1]:
        return fitting[0]
    for one, there in itertools.zip_longest(trained_first, found):
        if one is None:
            raise ValueError(f"its layer {stored_under} has a surplus {there}")
        expected = (one.array, shapes[one.name])
        if there != expected:
            there = there or "nothing"
            raise ValueError(f"its layer {one.layer} has {there}, not {expected}")
    raise ValueError(f"the arrays of its layer {stored_under} may be of two orders")


def _array(name: str) -> str:
    """Returns the last part of an array's name, without the process's numbers."""
    match = _ARRAY.fullmatch(name)
    return match[1] if match else name


def _place(module: str) -> list[tuple[int, bool]]:
    """Key by which modules stand in the order in which an image goes through them."""
    return [
        (
            _PLACES[part] if part in _PLACES else int(re.sub(r"\D+", "", part)),
            part.startswith("bn"),
        )
        for part in module.split("/")
    ]
