"""State dicts out of PyTorch files, without PyTorch and without running code.

A .pth file is a pickle with the tensors' bytes beside it, and a pickle can name
any Python function to call. This reader knows the few names that a state dict
needs and refuses every other one before anything is called.
"""

import io
import math
import mmap
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np

from mammo_jax.common.errors import UserError

# The element types that weights and counters have.
_STORAGE_DTYPES = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(jnp.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}

# What reading a file of anyone's can end in.
READ_ERRORS = (
    ArithmeticError,  # OverflowError: a number too large for an index
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,  # encrypted archives, archives of newer versions
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    struct.error,
    zipfile.BadZipFile,
)

# Far above any state dict: ResNet50's has 320 tensors and a pickle of 40 kB.
_MAX_PICKLE_BYTES = 16 * 2**20
_MAX_TENSORS = 100_000

# First pickle in files written before PyTorch 1.6.
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


# PyTorch's own limit of dimensions; a size that no array in memory has.
_MAX_DIMENSIONS, _SIZE_LIMIT = 64, 2**48


class _Storage(NamedTuple):
    """A tensor's bytes, named in the pickle and stored beside it."""

    key: str
    dtype: np.dtype
    length: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _rebuild_tensor(storage, offset, shape, strides, *_: Any) -> _Tensor:
    shape, strides = tuple(shape), tuple(strides)
    sizes = (offset, *shape, *strides)
    if len(shape) != len(strides) or len(shape) > _MAX_DIMENSIONS:
        raise ValueError("a tensor has impossible sizes")
    if not all(isinstance(size, int) and 0 <= size < _SIZE_LIMIT for size in sizes):
        raise ValueError("a tensor has impossible sizes")
    return _Tensor(storage, offset, shape, strides)


def _rebuild_parameter(tensor: _Tensor, *_: Any) -> _Tensor:
    return tensor


# The only names that a file may use; all of them only build what is above, and none is
# anything that a file could change for the rest of the program.
_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
} | {("torch", name): name for name in _STORAGE_DTYPES}


# The unpickler in Python and not the one in C, whose memo table a few bytes of a
# hostile file can make gigabytes large.
class _StateDictUnpickler(pickle._Unpickler):
    stack: list[Any]

    def load_build(self) -> None:
        """Leaves out the attributes of an object: those of a state dict's are notes."""
        self.stack.pop()
        if not isinstance(self.stack[-1], OrderedDict):
            raise pickle.UnpicklingError("its pickle changes what is no dictionary")

    # Without the opcode that allocates a length before it reads: no state dict has it.
    dispatch: ClassVar[dict[int, Any]] = {
        opcode: load
        for opcode, load in pickle._Unpickler.dispatch.items()
        if opcode != pickle.BYTEARRAY8[0]
    } | {pickle.BUILD[0]: load_build}

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            if module == "torch" and name.endswith("Storage"):
                raise pickle.UnpicklingError(
                    f"it holds a {name}, and only {', '.join(_STORAGE_DTYPES)} are read"
                ) from None
            raise pickle.UnpicklingError(
                f"its pickle asks for {module}.{name}, which no state dict needs; save "
                "only the weights (model.state_dict()), or use a .safetensors file"
            ) from None

    def persistent_load(self, pid: Any) -> _Storage:
        # ("storage", type, key, location, length[, view])
        kind, dtype, key, _, length = pid[:5]
        if kind != "storage" or not isinstance(key, str) or not isinstance(length, int):
            raise pickle.UnpicklingError("its pickle refers to no tensor")
        return _Storage(key, _STORAGE_DTYPES[dtype], length)


def read_state_dict(path: Path) -> dict[str, np.ndarray]:
    """Reads the tensors of a file that `torch.save(model.state_dict(), ...)` wrote.

    Both layouts are read: the zip of PyTorch 1.6 and later, and the older one.

    Raises:
      UserError: not such a file, a damaged one, or one whose pickle asks for
        anything but tensors.
    """
    try:
        if zipfile.is_zipfile(path):
            return _read_zip(path)
        return _read_legacy(path)
    except READ_ERRORS as error:
        raise UserError(
            f"{path.name} is not a readable PyTorch state dict: "
            f"{str(error) or type(error).__name__}"
        ) from error


def _read_zip(path: Path) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        if any(m.compress_type != zipfile.ZIP_STORED for m in archive.infolist()):
            raise ValueError("its parts are compressed, which PyTorch never does")
        names = {name.partition("/")[2]: name for name in archive.namelist()}
        if archive.getinfo(names["data.pkl"]).file_size > _MAX_PICKLE_BYTES:
            raise ValueError("its pickle is too large for a state dict")
        if "byteorder" in names and archive.read(names["byteorder"]) != b"little":
            raise ValueError("it is big-endian, which is not supported")
        with archive.open(names["data.pkl"]) as stream:
            tensors = _tensors(_StateDictUnpickler(stream).load())
        known = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
        members = {key: archive.getinfo(names[f"data/{key}"]) for key in known}
        for key, member in members.items():
            if member.file_size != known[key].length * known[key].dtype.itemsize:
                raise ValueError(f"storage {key} has {member.file_size} bytes")
        # Members of a hostile archive can lie on top of each other.
        if sum(member.file_size for member in members.values()) > path.stat().st_size:
            raise ValueError("its parts are together larger than the file")
        storages = {
            key: np.frombuffer(archive.read(member), known[key].dtype)
            for key, member in members.items()
        }
    return _arrays(tensors, storages)


def _read_legacy(path: Path) -> dict[str, np.ndarray]:
    # Mapped: reading a length that the file does not have allocates nothing.
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as stream,
    ):
        # Three small pickles (magic, protocol, system), the state dict, the
        # storages' order, then each storage: its length and its bytes.
        if _load_next(stream) != _LEGACY_MAGIC:
            raise ValueError("it has none of the known layouts")
        for _ in range(2):
            _load_next(stream)
        tensors = _tensors(_load_next(stream))
        order = _load_next(stream)
        known = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
        storages: dict[str, np.ndarray] = {}
        for key in order:
            storage = known[key]
            (count,) = struct.unpack("<q", stream.read(8))
            if count != storage.length:
                raise ValueError(f"storage {key} has {count} elements")
            content = stream.read(count * storage.dtype.itemsize)
            storages[storage.key] = np.frombuffer(content, storage.dtype, count)
    return _arrays(tensors, storages)


def _load_next(stream: mmap.mmap) -> Any:
    """The pickle at a file's position, which moves behind it."""
    start = stream.tell()
    part = io.BytesIO(stream[start : start + _MAX_PICKLE_BYTES])
    pickled = _StateDictUnpickler(part).load()
    stream.seek(start + part.tell())
    return pickled


def _tensors(pickled: Any) -> dict[str, _Tensor]:
    """The named tensors of an unpickled state dict."""
    if not isinstance(pickled, dict):
        raise ValueError("it holds no dictionary of tensors")
    # Training scripts often wrap the state dict with an epoch number and such.
    inner = pickled.get("state_dict", pickled)
    if not isinstance(inner, dict) or len(inner) > _MAX_TENSORS:
        raise ValueError("it holds no dictionary of tensors")
    tensors = {
        name: value
        for name, value in inner.items()
        if isinstance(name, str) and isinstance(value, _Tensor)
    }
    if not tensors:
        raise ValueError("it holds no dictionary of tensors")
    return tensors


def _arrays(
    tensors: dict[str, _Tensor], storages: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    return {name: _view(tensor, storages) for name, tensor in tensors.items()}


def _view(tensor: _Tensor, storages: dict[str, np.ndarray]) -> np.ndarray:
    """A tensor's elements, not copied: many tensors may share a storage."""
    data = storages[tensor.storage.key]
    if math.prod(tensor.shape) > data.size:
        raise ValueError("a tensor has more elements than its storage")
    last = tensor.offset + sum(
        (size - 1) * stride
        for size, stride in zip(tensor.shape, tensor.strides, strict=True)
    )
    if 0 not in tensor.shape and last >= data.size:
        raise ValueError("a tensor reaches beyond its storage")
    strides = tuple(stride * data.itemsize for stride in tensor.strides)
    return np.lib.stride_tricks.as_strided(
        data[tensor.offset :], tensor.shape, strides, writeable=False
    )
