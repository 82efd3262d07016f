"""Reads weight files of every supported format into named arrays."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import safetensors
import safetensors.numpy

from mammo_jax.errors import UserError
from mammo_jax.models.torch_files import read_state_dict

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


def _read_keras(path: Path) -> dict[str, np.ndarray]:
    try:
        with h5py.File(path, "r") as file:
            if "layers" in file and "layer_names" not in file.attrs:
                layers = _keras3_layers(file)
            else:
                layers = _legacy_layers(file)
            return _name_arrays(layers)
    except (OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            f"{path.name} is not a readable Keras weight file: {error}"
        ) from error


def _legacy_layers(file: h5py.File) -> dict[str, list[np.ndarray]]:
    # A whole model saved by Keras 2 keeps its weights one level down.
    root = file.get("model_weights", file)
    layers = {}
    for raw in root.attrs["layer_names"]:
        name = _text(raw)
        group = root[name]
        keys = [_text(key) for key in group.attrs["weight_names"]]
        layers[name] = [_array(group[key]) for key in keys]
    return layers


def _keras3_layers(file: h5py.File) -> dict[str, list[np.ndarray]]:
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
        layers[name] = [_array(variables[str(i)]) for i in range(len(variables))]
    return layers


def _array(dataset: h5py.Dataset) -> np.ndarray:
    if not isinstance(dataset, h5py.Dataset):
        raise TypeError("a weight is not an array")
    return dataset[()]


def _name_arrays(layers: dict[str, list[np.ndarray]]) -> dict[str, np.ndarray]:
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
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError) as error:
        raise UserError(
            f"{path.name} is not a readable safetensors file: {error}"
        ) from error


_READERS: dict[str, Callable[[Path], dict[str, np.ndarray]]] = {
    ".h5": _read_keras,
    ".hdf5": _read_keras,
    ".pth": read_state_dict,
    ".pt": read_state_dict,
    ".safetensors": _read_safetensors,
}
