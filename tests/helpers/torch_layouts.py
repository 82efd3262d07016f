"""Writes PyTorch's file layouts by hand; no PyTorch is needed."""

import collections
import io
import pickle
import struct
import sys
import types
import zipfile
from unittest import mock

import ml_dtypes
import numpy as np


class Storage:
    """A tensor's bytes, under the key that names them in the file."""

    def __init__(self, key, array):
        self.key, self.array = key, array


class Tensor:
    """A view of a storage: (offset, shape, strides) in elements."""

    def __init__(self, storage, offset, shape, strides):
        self.fields = (storage, offset, shape, strides)

    def __reduce__(self):
        hooks = collections.OrderedDict()
        return _rebuild_tensor_v2, (*self.fields, False, hooks)


def _rebuild_tensor_v2(*_):
    """Stands for torch._utils._rebuild_tensor_v2 in the pickle."""


def _storage_class(name):
    return type(name, (), {"__module__": "torch"})


_STORAGES = {
    np.dtype(dtype): _storage_class(name)
    for dtype, name in {
        "f4": "FloatStorage",
        "f8": "DoubleStorage",
        "f2": "HalfStorage",
        "i8": "LongStorage",
        "u1": "ByteStorage",
        "?": "BoolStorage",
        "c8": "ComplexFloatStorage",
        ml_dtypes.bfloat16: "BFloat16Storage",
    }.items()
}
_rebuild_tensor_v2.__module__ = "torch._utils"


class _Pickler(pickle.Pickler):
    def persistent_id(self, obj):
        if not isinstance(obj, Storage):
            return None
        kind = _STORAGES[obj.array.dtype]
        return ("storage", kind, obj.key, "cpu", obj.array.size, *self.view)


def pickled(content, view=()):
    """A pickle that names PyTorch's functions and types."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for storage in _STORAGES.values():
        setattr(torch, storage.__name__, storage)
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2
    stream = io.BytesIO()
    pickler = _Pickler(stream, protocol=2)
    pickler.view = view
    with mock.patch.dict(sys.modules, {"torch": torch, "torch._utils": utils}):
        pickler.dump(content)
    return stream.getvalue()


def write_zip(path, content, storages, compression=zipfile.ZIP_STORED):
    """As PyTorch 1.6 and later."""
    write_pickle_zip(path, pickled(content), storages, compression)


def write_pickle_zip(path, pickle_bytes, storages=(), compression=zipfile.ZIP_STORED):
    """The same layout around any pickle."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("model/data.pkl", pickle_bytes)
        for storage in storages:
            archive.writestr(f"model/data/{storage.key}", storage.array.tobytes())


def write_legacy(path, content, storages):
    """As PyTorch before 1.6."""
    with path.open("wb") as stream:
        for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
            stream.write(pickle.dumps(part, protocol=2))
        stream.write(pickled(content, view=(None,)))
        stream.write(pickle.dumps([s.key for s in storages], protocol=2))
        for storage in storages:
            stream.write(struct.pack("<q", storage.array.size))
            stream.write(storage.array.tobytes())


def write_state_dict(path, arrays):
    """A state dict of whole arrays, each with a storage of its own."""
    storages = [Storage(str(i), array) for i, array in enumerate(arrays.values())]
    tensors = collections.OrderedDict()
    for name, storage in zip(arrays, storages, strict=True):
        array = np.ascontiguousarray(storage.array)
        strides = tuple(step // array.itemsize for step in array.strides)
        tensors[name] = Tensor(storage, 0, array.shape, strides)
    write_zip(path, tensors, storages)
