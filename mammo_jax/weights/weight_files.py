"""Weight files: read in every supported format, written as safetensors."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import safetensors
import safetensors.numpy

from mammo_jax.common.errors import UserError
from mammo_jax.common.files import replace_file
from mammo_jax.weights.torch_files import READ_ERRORS, read_state_dict

if TYPE_CHECKING:
    import h5py

# Names of a Keras layer's arrays, by their number, in the order Keras keeps.
_KERAS_ARRAYS = {
    1: ("kernel",),
    2: ("kernel", "bias"),
    4: ("gamma", "beta", "moving_mean", "moving_variance"),
}


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """Reads every array of a weight file.

    Args:
      path: a legacy Keras .h5, a Keras 3 .weights.h5, a PyTorch .pth or .pt, or
        a .safetensors file.

    Returns:
      Name to array; Keras's are named "layer/kernel", "layer/gamma" and so on.

    Raises:
      UserError: no such file, an unknown suffix, or a file that is damaged.
    """
    if not path.is_file():
        raise UserError(f"there is no weight file {path}")
    try:
        reader = _READERS[path.suffix.lower()]
    except KeyError:
        raise UserError(
            f"{path.name}: weights are read from {', '.join(_READERS)} files"
        ) from None
    return reader(path)


def write_weights(
    path: Path,
    values: Mapping[str, np.ndarray],
    metadata: dict[str, str] | None = None,
) -> None:
    """Writes arrays as safetensors, whole or not at all.

    Raises:
      UserError: the file cannot be written.
    """
    arrays = {name: np.ascontiguousarray(value) for name, value in values.items()}
    try:
        with replace_file(path) as partial:
            safetensors.numpy.save_file(arrays, partial, metadata)
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(
            f"{path} cannot be written ({error}); make room, and give the same command "
            "again"
        ) from error


def _read_keras(path: Path) -> dict[str, np.ndarray]:
    import h5py  # Late: a trained model, which is loaded at every start, needs none.

    try:
        with h5py.File(path, "r") as file:
            if "layers" in file and "layer_names" not in file.attrs:
                layers = _keras3_layers(file)
            else:
                layers = _legacy_layers(file)
            datasets = _name_arrays(layers)
            _check_stored(datasets, path)
            return {name: dataset[()] for name, dataset in datasets.items()}
    except READ_ERRORS as error:
        raise UserError(
            f"{path.name} is not a readable Keras weight file: "
            f"{str(error) or type(error).__name__}"
        ) from error


def _check_stored(datasets: "dict[str, h5py.Dataset]", path: Path) -> None:
    """Refuses arrays that are not in the file as they are, before any is read.

    A hostile file can name terabytes that it does not hold, and other files.

    Raises:
      ValueError: there is such an array, or one that holds no numbers.
    """
    import h5py

    for name, dataset in datasets.items():
        if not isinstance(dataset, h5py.Dataset) or dataset.shape is None:
            raise ValueError(f"{name} is not an array")
        if dataset.dtype.kind not in "fiu":
            raise ValueError(f"{name} is an array of {dataset.dtype}, not of numbers")
        # Keras neither compresses weights nor leaves them to other files.
        if dataset.file.filename != str(path) or (
            dataset.external or dataset.is_virtual or dataset.compression
        ):
            raise ValueError(f"{name} is not stored in the file itself, uncompressed")
    if sum(dataset.nbytes for dataset in datasets.values()) > path.stat().st_size:
        raise ValueError("its arrays hold more than the file")


def _legacy_layers(file: "h5py.File") -> "dict[str, list[h5py.Dataset]]":
    # A whole model saved by Keras 2 keeps its weights one level down.
    root = file.get("model_weights", file)
    layers = {}
    for raw in root.attrs["layer_names"]:
        name = _text(raw)
        group = root[name]
        keys = [_text(key) for key in group.attrs["weight_names"]]
        layers[name] = [group[key] for key in keys]
    return layers


def _keras3_layers(file: "h5py.File") -> "dict[str, list[h5py.Dataset]]":
    layers = {}
    for place, group in file["layers"].items():
        variables = group.get("vars")
        if variables is None or not len(variables):
            continue
        if "name" not in variables.attrs:
            raise UserError(
                f"{Path(file.filename).name} does not name its layers (layer "
                f"{place}); save it again with Keras 3.6 or later"
            )
        name = _text(variables.attrs["name"])
        layers[name] = [variables[str(i)] for i in range(len(variables))]
    return layers


def _name_arrays(
    layers: "dict[str, list[h5py.Dataset]]",
) -> "dict[str, h5py.Dataset]":
    named = {}
    for layer, arrays in layers.items():
        names = _KERAS_ARRAYS.get(len(arrays), tuple(map(str, range(len(arrays)))))
        named.update(
            {f"{layer}/{name}": a for name, a in zip(names, arrays, strict=True)}
        )
    return named


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        return safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, *READ_ERRORS) as error:
        raise UserError(
            f"{path.name} is not a readable safetensors file: "
            f"{str(error) or type(error).__name__}"
        ) from error


_READERS: dict[str, Callable[[Path], dict[str, np.ndarray]]] = {
    ".h5": _read_keras,
    ".hdf5": _read_keras,
    ".pth": read_state_dict,
    ".pt": read_state_dict,
    ".safetensors": _read_safetensors,
}
