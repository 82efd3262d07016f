"""Weight files: read in every supported format, written as safetensors.

Keras's files are read by h5py, safetensors by its own library, and PyTorch's by PyTorch
itself where it is installed, with `weights_only=True`, which runs no code of the file.
"""

import argparse
import contextlib
import importlib.util
import json
import logging
import pickle
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import safetensors
import safetensors.numpy

from mammo_jax.common.errors import UserError
from mammo_jax.common.files import replace_file
from mammo_jax.common.parallel import Limits, parallel_map

if TYPE_CHECKING:
    import h5py

_log = logging.getLogger(__name__)

# Names of a Keras layer's arrays, by their number, in the order Keras keeps.
_KERAS_ARRAYS: Mapping[int, Iterable[object]] = {
    1: ("kernel",),
    2: ("kernel", "bias"),
    4: ("gamma", "beta", "moving_mean", "moving_variance"),
}
# Keys of the state dict in a checkpoint of a training program; an average of weights
# over the training comes first, as in timm.
_STATE_DICTS = ("state_dict_ema", "model_ema", "state_dict", "model")
# Prefixes that wrappers for several devices, averaging and compiling give a name.
_WRAPPERS = re.compile(r"(module\.|_orig_mod\.)+")

# For listing the arrays of a file, whatever it claims.
_MOST = Limits(memory=1 << 30, seconds=3)
# Characters of a model's graph; ResNet50's has a tenth of a million.
_MOST_TEXT = 4_000_000


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """Reads every array of a Keras, PyTorch or safetensors file.

    Returns:
      Name to array, without the prefix of a wrapper such as "module."; Keras's are
      named "layer/kernel", "layer/gamma" and so on.

    Raises:
      UserError: no such file, an unknown suffix, a file that is damaged, or one of
        PyTorch where that is not installed.
    """
    if not path.is_file():
        raise UserError(f"there is no weight file {path}")
    check_format(path)
    kind, reader = _READERS[path.suffix.lower()]
    with reading(path, kind):
        return _unwrapped(reader(path))


def check_format(path: Path) -> None:
    """Checks that files of a name can be read here, also before there is one.

    Raises:
      UserError: the suffix is unknown, or PyTorch is needed and not installed.
    """
    suffix = path.suffix.lower()
    if suffix not in _READERS:
        raise UserError(
            f"{path.name}: weights are read from {', '.join(_READERS)} files"
        )
    if _READERS[suffix] is _TORCH and importlib.util.find_spec("torch") is None:
        raise UserError(
            f"{path.name}: PyTorch reads such files, and it is not installed; give "
            "pip install torch, or take timm's copies in safetensors: "
            "--download=resnet50-timm or vgg16-timm, or --source=hf://timm/"
            "resnet50.tv2_in1k or hf://timm/vgg19.tv_in1k"
        )


def write_weights(
    path: Path,
    values: Mapping[str, np.ndarray],
    metadata: dict[str, str] | None = None,
) -> None:
    """Writes arrays as safetensors, whole or not at all; the folder is made.

    Raises:
      UserError: the file cannot be written.
    """
    arrays = {name: np.ascontiguousarray(value) for name, value in values.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(path) as partial:
            safetensors.numpy.save_file(arrays, partial, metadata)
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(
            f"{path} cannot be written ({error}); make room, and give the same command "
            "again"
        ) from error


@contextlib.contextmanager
def reading(path: Path, kind: str) -> Iterator[None]:
    """Makes one clear error of all that reading a damaged file can end in.

    Raises:
      UserError: the file is not a readable one of this kind; the reason is named.
    """
    try:
        yield
    except Exception as error:  # The libraries raise nearly every kind.
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(f"{path.name} is not a readable {kind}: {reason}") from error


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    import torch

    try:
        # Training programs keep their options beside the weights.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(_refusal(str(error))) from error
    state = _state_dict(content)
    tensors = {n: t for n, t in state.items() if isinstance(t, torch.Tensor)}
    if not tensors:
        raise ValueError("it holds no dictionary of tensors")
    # NumPy has no bfloat16 of its own; float32 holds its values exactly.
    return {
        name: (t.float() if t.dtype == torch.bfloat16 else t).detach().numpy()
        for name, t in tensors.items()
    }


def _refusal(message: str) -> str:
    """Returns the reason without PyTorch's advice to run the file's code."""
    found = re.search(r"GLOBAL (\S+)", message)
    if found is None:
        return "it is damaged, or of another format"
    return (
        f"it asks for {found[1]}, which no weights need; save the weights alone "
        "(model.state_dict()), or as .safetensors"
    )


def _state_dict(content: Any) -> dict[str, Any]:
    """Returns the names and tensors in a state dict, or in a checkpoint around it."""
    if not isinstance(content, dict):
        raise ValueError("it holds no dictionary of tensors")
    for key in _STATE_DICTS:
        if isinstance(content.get(key), dict):
            _log.info("the weights are those of %r", key)
            return _state_dict(content[key])
    return content


def _unwrapped(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the arrays by names without the prefixes of wrappers."""
    named = {}
    for name, value in values.items():
        short = name[match.end() :] if (match := _WRAPPERS.match(name)) else name
        if short in named:
            raise ValueError(f"it holds {short} twice, with and without a prefix")
        named[short] = value
    return named


def _read_keras(path: Path) -> dict[str, np.ndarray]:
    import h5py  # Late: a trained model, which is loaded at every start, needs none.

    # The library follows some damage round and round: tried where it can be ended.
    list(parallel_map(_list_keras, [path], 1, _refuse_endless, _MOST))
    with h5py.File(path, "r") as file:
        return {name: array[()] for name, array in _find_arrays(file, path).items()}


def _list_keras(path: Path) -> None:
    import h5py

    with h5py.File(path, "r") as file:
        _find_arrays(file, path)


def read_keras_model(
    path: Path,
) -> tuple[Any, dict[str, list[tuple[str, np.ndarray]]]]:
    """Reads a whole model that Keras 2 saved: its graph, and every array by layer.

    The optimiser's state is not looked at.

    Returns:
      `model_config`, as JSON has it; and each layer's arrays in the file's order, with
      their names there, such as "conv1/kernel:0".

    Raises:
      UserError: no such file, one that is damaged, or that holds something else.
    """
    if not path.is_file():
        raise UserError(f"there is no weight file {path}")
    with reading(path, "model of Keras 2"):
        (text,) = parallel_map(_read_graph, [path], 1, _refuse_endless, _MOST)
        import h5py

        with h5py.File(path, "r") as file:
            layers = _legacy_layers(file["model_weights"])
            return json.loads(text), {
                layer: [(array.name, array[()]) for array in arrays]
                for layer, arrays in layers.items()
            }


def _read_graph(path: Path) -> str:
    """Reads a model's graph, and checks that the arrays are all there.

    Raises:
      ValueError: there is no graph, or what `_check_stored` raises.
    """
    import h5py

    with h5py.File(path, "r") as file:
        if "model_config" not in file.attrs or "model_weights" not in file:
            raise ValueError("it holds no whole model (model_config, model_weights)")
        text, root = _text(file.attrs["model_config"]), file["model_weights"]
        if len(text) > _MOST_TEXT:
            raise ValueError(f"its graph has more than {_MOST_TEXT} characters")
        # Other back ends turned the kernels round.
        for place in (file, root):
            backend = _text(place.attrs.get("backend", "tensorflow"))
            if backend != "tensorflow":
                raise ValueError(f"it is of the back end {backend}, not of TensorFlow")
        arrays = [a for arrays in _legacy_layers(root).values() for a in arrays]
        _check_stored({array.name: array for array in arrays}, path)
        stored: list[str] = []
        root.visititems(
            lambda _, item: (
                stored.append(item.name) if isinstance(item, h5py.Dataset) else None
            )
        )
        if surplus := sorted({*stored} - {array.name for array in arrays}):
            raise ValueError(f"no layer names its array {surplus[0]}")
        return text


def _refuse_endless(path: Path) -> NoReturn:
    raise ValueError("listing its arrays takes more time or memory than any file's")


def _find_arrays(file: "h5py.File", path: Path) -> "dict[str, h5py.Dataset]":
    """Finds the arrays by their names here; none is read.

    Raises:
      ValueError: what `_check_stored` raises, or an unknown layout.
    """
    # A whole model saved by Keras 2 keeps its weights one level down.
    root = file.get("model_weights", file)
    legacy = "layer_names" in root.attrs
    layers = _legacy_layers(root) if legacy else _layers(file)
    datasets = {
        f"{layer}/{name}": array
        for layer, arrays in layers.items()
        for name, array in zip(
            _KERAS_ARRAYS.get(len(arrays), range(len(arrays))), arrays, strict=True
        )
    }
    _check_stored(datasets, path)
    return datasets


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


def _legacy_layers(root: "h5py.Group") -> "dict[str, list[h5py.Dataset]]":
    layers = {}
    for raw in root.attrs["layer_names"]:
        name = _text(raw)
        group = root[name]
        keys = [_text(key) for key in group.attrs["weight_names"]]
        layers[name] = [group[key] for key in keys]
    return layers


def _layers(file: "h5py.File") -> "dict[str, list[h5py.Dataset]]":
    """Returns each layer's arrays in a file of Keras 3.

    Layers lie where the model's attributes have them: under `layers` in a functional
    model, elsewhere in a subclassed one, deeper in a model within a model. Each has
    its arrays in a group `vars`, which carries the layer's name.
    """
    import h5py

    groups: list[h5py.Group] = []

    def visit(place: str, item: object) -> None:
        if place.rpartition("/")[2] == "vars" and isinstance(item, h5py.Group):
            groups.append(item)

    file.visititems(visit)
    layers: dict[str, list[h5py.Dataset]] = {}
    for group in groups:
        if not len(group):
            continue
        if "name" not in group.attrs:
            raise ValueError(
                f"it does not name its layers ({group.parent.name}); save it again "
                "with Keras 3.6 or later"
            )
        name = _text(group.attrs["name"])
        if name in layers:
            raise ValueError(f"it holds two layers that are named {name}")
        layers[name] = [group[str(index)] for index in range(len(group))]
    if not layers:
        raise ValueError(
            "it names no layers, neither as Keras 2 does (layer_names) nor as Keras 3 "
            f"(vars); it holds {', '.join(sorted(file)[:5]) or 'nothing'}"
        )
    return layers


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


_KERAS = ("Keras weight file", _read_keras)
_TORCH = ("PyTorch state dict", _read_torch)
_READERS: dict[str, tuple[str, Callable[[Path], dict[str, np.ndarray]]]] = {
    ".h5": _KERAS,
    ".hdf5": _KERAS,
    ".pth": _TORCH,
    ".pt": _TORCH,
    ".bin": _TORCH,
    ".safetensors": ("safetensors file", safetensors.numpy.load_file),
}
