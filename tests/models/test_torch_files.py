"""PyTorch's file layouts, written here by hand; no PyTorch is needed."""

import collections
import io
import os
import pickle
import struct
import sys
import types
import zipfile

import numpy as np
import pytest

from mammo_jax.errors import UserError
from mammo_jax.models.torch_files import read_state_dict


class FloatStorage:
    """Stands for torch.FloatStorage in the pickle."""


class LongStorage:
    """Stands for torch.LongStorage in the pickle."""


def _rebuild_tensor_v2(*_):
    """Stands for torch._utils._rebuild_tensor_v2 in the pickle."""


class Storage:
    def __init__(self, key, array):
        self.key, self.array = key, array


class Tensor:
    """A view of a storage: (offset, shape, strides) in elements."""

    def __init__(self, storage, offset, shape, strides):
        self.fields = (storage, offset, shape, strides)

    def __reduce__(self):
        hooks = collections.OrderedDict()
        return _rebuild_tensor_v2, (*self.fields, False, hooks)


class Pickler(pickle.Pickler):
    def persistent_id(self, obj):
        if not isinstance(obj, Storage):
            return None
        kind = {"f": FloatStorage, "i": LongStorage}[obj.array.dtype.kind]
        return ("storage", kind, obj.key, "cpu", obj.array.size, *self.view)


@pytest.fixture(autouse=True)
def torch_names(monkeypatch):
    """Lets the pickler write torch's names without torch."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for target, module in [
        (FloatStorage, torch),
        (LongStorage, torch),
        (_rebuild_tensor_v2, utils),
    ]:
        monkeypatch.setattr(target, "__module__", module.__name__)
        setattr(module, target.__name__, target)
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)


def pickled(content, view=()):
    stream = io.BytesIO()
    pickler = Pickler(stream, protocol=2)
    pickler.view = view
    pickler.dump(content)
    return stream.getvalue()


def write_zip(path, content, storages, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("model/data.pkl", pickled(content))
        for storage in storages:
            archive.writestr(f"model/data/{storage.key}", storage.array.tobytes())


def write_legacy(path, content, storages):
    with path.open("wb") as stream:
        for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
            stream.write(pickle.dumps(part, protocol=2))
        stream.write(pickled(content, view=(None,)))
        stream.write(pickle.dumps([s.key for s in storages], protocol=2))
        for storage in storages:
            stream.write(struct.pack("<q", storage.array.size))
            stream.write(storage.array.tobytes())


@pytest.fixture
def example():
    values = Storage("0", np.arange(24, dtype="<f4"))
    count = Storage("1", np.array([7], "<i8"))
    content = collections.OrderedDict(
        weight=Tensor(values, 0, (2, 3), (3, 1)),
        transposed=Tensor(values, 6, (3, 2), (1, 3)),
        num_batches_tracked=Tensor(count, 0, (), ()),
    )
    return content, [values, count]


@pytest.mark.parametrize("write", [write_zip, write_legacy])
def test_tensors_are_read_with_their_offsets_and_strides(write, example, tmp_path):
    write(tmp_path / "model.pth", *example)
    found = read_state_dict(tmp_path / "model.pth")
    assert list(found) == list(example[0])
    np.testing.assert_array_equal(found["weight"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(found["transposed"], [[6, 9], [7, 10], [8, 11]])
    assert found["num_batches_tracked"] == 7
    assert found["weight"].dtype == np.float32


def test_a_checkpoint_around_the_state_dict_is_unwrapped(example, tmp_path):
    content, storages = example
    write_zip(tmp_path / "model.pth", {"epoch": 3, "state_dict": content}, storages)
    assert list(read_state_dict(tmp_path / "model.pth")) == list(content)


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("write", [write_zip, write_legacy])
def test_code_in_the_pickle_is_refused_and_not_run(write, example, tmp_path):
    content, storages = example
    content["weight"] = Evil(str(tmp_path / "ran"))
    write(tmp_path / "model.pth", content, storages)
    with pytest.raises(UserError, match=r"asks for (posix|os|nt)\.mkdir"):
        read_state_dict(tmp_path / "model.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [
        (20, (2, 3), (3, 1)),
        (0, (2, 3), (100, 1)),
        (-1, (2,), (1,)),
        (0, (2, 3), (-3, 1)),
        (0, (2, 3), (1,)),
    ],
)
def test_a_tensor_outside_its_storage_is_refused(
    offset, shape, strides, example, tmp_path
):
    content, storages = example
    content["weight"] = Tensor(storages[0], offset, shape, strides)
    write_zip(tmp_path / "model.pth", content, storages)
    with pytest.raises(UserError, match=r"model\.pth is not a readable PyTorch"):
        read_state_dict(tmp_path / "model.pth")


def test_a_compressed_archive_is_refused(example, tmp_path):
    write_zip(tmp_path / "model.pth", *example, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="compressed"):
        read_state_dict(tmp_path / "model.pth")


@pytest.mark.parametrize("write", [write_zip, write_legacy])
def test_every_truncation_is_one_clear_error(write, example, tmp_path):
    path = tmp_path / "model.pth"
    write(path, *example)
    whole = path.read_bytes()
    for length in range(0, len(whole) - 1, 7):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"model\.pth"):
            read_state_dict(path)
