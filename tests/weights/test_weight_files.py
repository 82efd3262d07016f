"""Reading weight files of every format, damaged and hostile ones among them."""

import importlib.util
import os
from pathlib import Path

import h5py
import numpy as np
import pytest
import safetensors.numpy
from library_weights import library_weights, write_legacy_keras

from mammo_jax.common.errors import UserError
from mammo_jax.weights.weight_files import read_weights
from mammo_jax.weights.weight_names import SCHEMES

os.environ["KERAS_BACKEND"] = "jax"


def test_legacy_keras_file_gives_the_arrays_by_layer_and_kind(tmp_path):
    weights = library_weights("resnet50", SCHEMES["resnet50"][0])
    write_legacy_keras(weights, tmp_path / "resnet50_notop.h5")
    found = read_weights(tmp_path / "resnet50_notop.h5")
    assert found.keys() == weights.keys()
    assert all(found[name].flat[0] == weights[name].flat[0] for name in weights)


def write_keras3(path, layers):
    """Arrays at places such as "blocks/conv", each group with its layer's name."""
    with h5py.File(path, "w") as file:
        for place, (name, arrays) in layers.items():
            group = file.create_group(f"{place}/vars")
            if name:
                group.attrs["name"] = name
            for index, value in enumerate(arrays):
                group[str(index)] = value


KERNEL, BIAS = np.ones((3, 3, 3, 4), "f4"), np.ones(4, "f4")


@pytest.mark.parametrize(
    "place",
    ["layers/conv2d", "layers/functional/layers/conv2d", "trunk", "blocks/conv2d_3"],
    ids=["functional", "nested", "subclassed", "in a list"],
)
def test_layers_of_keras_3_are_found_wherever_the_model_has_them(place, tmp_path):
    path = tmp_path / "m.weights.h5"
    layers = {place: ("block1_conv1", [KERNEL, BIAS]), "layers/input": ("input", [])}
    write_keras3(path, layers)
    found = read_weights(path)
    assert list(found) == ["block1_conv1/kernel", "block1_conv1/bias"]


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({"conv": ("", [KERNEL])}, r"does not name its layers \(/conv\)"),
        (
            {"a": ("conv", [KERNEL]), "b": ("conv", [KERNEL])},
            "two layers that are named conv",
        ),
        ({"a": ("conv", []), "b": ("c", [])}, "names no layers.*; it holds a, b"),
        ({}, "names no layers.*; it holds nothing"),
    ],
)
def test_a_keras_file_without_names_says_what_is_missing(layers, message, tmp_path):
    path = tmp_path / "m.weights.h5"
    write_keras3(path, layers)
    with pytest.raises(UserError, match=message):
        read_weights(path)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_subclassed_model_as_keras_saves_it(tmp_path):
    keras = pytest.importorskip("keras")

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            convolution = keras.layers.Conv2D(4, 3, name="block1_conv1")
            self.trunk = keras.Sequential([keras.Input((8, 8, 3)), convolution])

        def call(self, x):
            return self.trunk(x)

    model = Model()
    model(np.zeros((1, 8, 8, 3), "f4"))
    model.save_weights(tmp_path / "m.weights.h5")
    found = read_weights(tmp_path / "m.weights.h5")
    expected = [value.numpy() for value in model.trunk.layers[-1].weights]
    for name, value in zip(["kernel", "bias"], expected, strict=True):
        np.testing.assert_array_equal(found[f"block1_conv1/{name}"], value)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
def test_pytorch_s_files_are_refused_with_a_way_on_where_it_is_missing(
    suffix, tmp_path
):
    if importlib.util.find_spec("torch"):
        pytest.skip("PyTorch is installed")
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"anything")
    message = rf"model\{suffix}: PyTorch.*pip install torch.*--download=resnet50-timm"
    with pytest.raises(UserError, match=message):
        read_weights(path)


def test_prefixes_of_wrappers_are_left_out(tmp_path):
    values = {
        "module.conv1.weight": np.ones(2, "f4"),
        "_orig_mod.module.bn1.bias": np.zeros(2, "f4"),
        "modules.x": np.zeros(1, "f4"),
    }
    safetensors.numpy.save_file(values, tmp_path / "m.safetensors")
    found = read_weights(tmp_path / "m.safetensors")
    assert found.keys() == {"conv1.weight", "bn1.bias", "modules.x"}
    values["conv1.weight"] = np.zeros(2, "f4")
    safetensors.numpy.save_file(values, tmp_path / "m.safetensors")
    with pytest.raises(UserError, match=r"conv1\.weight twice"):
        read_weights(tmp_path / "m.safetensors")


@pytest.mark.parametrize("suffix", [".h5", ".safetensors"])
def test_garbage_is_one_clear_error(suffix, tmp_path):
    path = tmp_path / f"garbage{suffix}"
    path.write_bytes(b"not weights at all")
    with pytest.raises(UserError, match=f"garbage{suffix} is not a readable"):
        read_weights(path)


def write_h5(path, fill):
    """A legacy Keras file of one layer with one array, `k`, that `fill` makes."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"conv1"]
        group = file.create_group("conv1")
        group.attrs["weight_names"] = [b"k"]
        fill(group)


def sparse(group):
    group.create_dataset("k", shape=(1 << 40,), chunks=(1024,), dtype="f4")


def compressed(group):
    group.create_dataset("k", data=np.zeros(1 << 20, "f4"), compression="gzip")


def outside(group):
    path = Path(group.file.filename).with_suffix(".secret")
    path.write_bytes(bytes(16))
    group.create_dataset("k", (4,), "f4", external=str(path))


def linked(group):
    other = Path(group.file.filename).with_suffix(".other")
    with h5py.File(other, "w") as file:
        file["k"] = np.zeros(4, "f4")
    group["k"] = h5py.ExternalLink(str(other), "k")


def empty(group):
    group["k"] = h5py.Empty("f4")


def text(group):
    group["k"] = np.array([b"abc"])


@pytest.mark.parametrize("fill", [sparse, compressed, outside, linked, empty, text])
def test_an_array_that_is_not_in_the_file_is_not_read(fill, tmp_path):
    write_h5(tmp_path / "w.h5", fill)
    with pytest.raises(UserError, match=r"w\.h5 is not a readable Keras weight file"):
        read_weights(tmp_path / "w.h5")


def test_one_array_under_many_names_is_not_read_many_times(tmp_path):
    def fill(group):
        group["k"] = np.zeros(1 << 16, "f4")
        group.attrs["weight_names"] = [b"k"] * 20

    write_h5(tmp_path / "w.h5", fill)
    with pytest.raises(UserError, match="more than the file"):
        read_weights(tmp_path / "w.h5")


def test_groups_and_arrays_in_each_other_s_place_are_one_clear_error(tmp_path):
    for name in ("layers", "layers/conv"):
        with h5py.File(tmp_path / "w.h5", "w") as file:
            file[name] = np.ones(3)
        with pytest.raises(UserError, match=r"w\.h5 is not a readable Keras weight"):
            read_weights(tmp_path / "w.h5")


def test_a_file_that_leads_the_library_round_and_round_is_refused(tmp_path):
    path = tmp_path / "endless.h5"
    write_h5(path, lambda group: group.create_dataset("k", data=np.zeros(4, "f4")))
    content = bytearray(path.read_bytes())
    # The names are objects with a size each; the last is the room that is left.
    place = content.index(b"GCOL") + 16
    while int.from_bytes(content[place : place + 2], "little"):
        size = int.from_bytes(content[place + 8 : place + 16], "little")
        place += 16 + -(-size // 8) * 8
    content[place + 8] = 0
    path.write_bytes(content)

    with pytest.raises(UserError, match=r"endless\.h5 .* more time or memory"):
        read_weights(path)


def test_missing_file_and_unknown_suffix_are_named(tmp_path):
    with pytest.raises(UserError, match="there is no weight file"):
        read_weights(tmp_path / "absent.h5")
    (tmp_path / "weights.npz").touch()
    with pytest.raises(UserError, match=r"weights\.npz: weights are read from \.h5"):
        read_weights(tmp_path / "weights.npz")
