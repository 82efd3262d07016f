"""PyTorch's file layouts, written by hand; no PyTorch is needed."""

import collections
import os
import zipfile

import numpy as np
import pytest
from torch_layouts import Storage, Tensor, write_legacy, write_zip

from mammo_jax.errors import UserError
from mammo_jax.models.torch_files import read_state_dict


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
