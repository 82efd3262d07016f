"""PyTorch's file layouts, written by hand; no PyTorch is needed."""

import collections
import contextlib
import copy
import os
import pickle
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest
from torch_layouts import (
    Storage,
    Tensor,
    pickled,
    write_legacy,
    write_pickle_zip,
    write_state_dict,
    write_zip,
)

from mammo_jax.common.errors import UserError
from mammo_jax.weights import torch_files
from mammo_jax.weights.torch_files import _rebuild_tensor, read_state_dict


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
        # 32 GB out of 96 bytes.
        (0, (1 << 33,), (0,)),
        (0, (1 << 62, 4), (0, 1)),
        (0, (1,), (1 << 62,)),
        (0, ("a", 2), (1, 1)),
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


LENGTH_OF_A_TERABYTE = struct.pack("<Q", 1 << 40)


@pytest.mark.parametrize("opcode", [pickle.BYTEARRAY8, pickle.BINBYTES8, pickle.FRAME])
def test_a_length_that_the_file_does_not_have_allocates_nothing(opcode, tmp_path):
    hostile = b"\x80\x05" + opcode + LENGTH_OF_A_TERABYTE + b"."
    write_pickle_zip(tmp_path / "new.pth", hostile)
    (tmp_path / "old.pth").write_bytes(hostile)
    for name in ("new.pth", "old.pth"):
        with pytest.raises(UserError, match=f"{name} is not a readable PyTorch"):
            read_state_dict(tmp_path / name)


def test_storages_that_share_their_bytes_in_the_archive_are_refused(tmp_path):
    shared = Storage("0", np.zeros(1 << 16, "<f4"))
    content = {
        str(i): Tensor(Storage(str(i), shared.array), 0, (1 << 16,), (1,))
        for i in range(3)
    }
    path = tmp_path / "model.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", pickled(content))
        archive.writestr("model/data/0", shared.array.tobytes())
        first = archive.getinfo("model/data/0")
        for i in (1, 2):
            again = copy.copy(first)
            again.filename = again.orig_filename = f"model/data/{i}"
            archive.filelist.append(again)
            archive.NameToInfo[again.filename] = again
    with pytest.raises(UserError, match=r"model\.pth is not a readable PyTorch"):
        read_state_dict(path)


@pytest.mark.parametrize("write", [write_zip, write_legacy])
def test_every_change_of_a_byte_is_read_or_one_clear_error(write, example, tmp_path):
    path = tmp_path / "model.pth"
    write(path, *example)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for position in range(len(whole)):
        content = bytearray(whole)
        content[position] = rng.integers(256)
        path.write_bytes(content)
        with contextlib.suppress(UserError):
            read_state_dict(path)


def opcodes(*parts):
    """A pickle of hand-made opcodes; a pair of texts is a name of a module."""
    return b"\x80\x02" + b"".join(
        part if isinstance(part, bytes) else f"c{part[0]}\n{part[1]}\n".encode()
        for part in parts
    )


BFLOAT16 = ("torch", "BFloat16Storage")
REBUILD = ("torch._utils", "_rebuild_tensor_v2")


@pytest.mark.parametrize(
    "changed",
    [
        # A dtype's own state, in which its size stands.
        (BFLOAT16, b"(K\x03U\x01<NNNK@K\x01K\x00tb."),
        (REBUILD, b"}U\x0c__defaults__K\x01sb."),
        (REBUILD, b"N}U\x0c__defaults__K\x01s\x86b."),
    ],
)
def test_a_pickle_changes_nothing_of_the_program(changed, tmp_path):
    before = _rebuild_tensor.__defaults__, np.dtype(ml_dtypes.bfloat16).itemsize
    write_pickle_zip(tmp_path / "model.pth", opcodes(*changed))
    with pytest.raises(UserError, match="changes what is no dictionary"):
        read_state_dict(tmp_path / "model.pth")
    after = _rebuild_tensor.__defaults__, np.dtype(ml_dtypes.bfloat16).itemsize
    assert after == before


def test_notes_of_a_state_dict_are_left_out(example, tmp_path):
    content, storages = example
    content._metadata = {"": {"version": 1}}
    write_zip(tmp_path / "model.pth", content, storages)
    assert list(read_state_dict(tmp_path / "model.pth")) == list(content)


def test_a_key_that_is_no_text_is_refused_before_it_is_written_out(tmp_path):
    # Every tuple holds the one before twice: written out it has 2 ** 100 parts.
    doubled = b")" + b"q\x00h\x00\x86" * 100
    key = b"(U\x07storage" + opcodes(("torch", "FloatStorage"))[2:] + doubled
    write_pickle_zip(tmp_path / "model.pth", opcodes(key, b"U\x03cpuK\x01tQ."))
    with pytest.raises(UserError, match="refers to no tensor"):
        read_state_dict(tmp_path / "model.pth")


def test_a_pickle_without_an_end_is_not_read_to_the_files_end(tmp_path, monkeypatch):
    monkeypatch.setattr(torch_files, "_MAX_PICKLE_BYTES", 1000)
    path = tmp_path / "model.pth"
    path.write_bytes(b"\x80\x02" + b"N0" * 1000 + b"N.")
    with pytest.raises(UserError, match="EOFError"):
        read_state_dict(path)


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, "f2", "f8", "u1", "?"])
def test_types_of_elements_are_read(dtype, tmp_path):
    expected = np.array([[0, 1, 1], [1, 0, 1]], dtype)
    write_state_dict(tmp_path / "model.pth", {"weight": expected})
    found = read_state_dict(tmp_path / "model.pth")["weight"]
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def test_another_type_of_elements_is_named(tmp_path):
    write_state_dict(tmp_path / "model.pth", {"weight": np.ones(3, "c8")})
    with pytest.raises(UserError, match="holds a ComplexFloatStorage, and only"):
        read_state_dict(tmp_path / "model.pth")
