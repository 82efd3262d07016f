"""PyTorch's files, read by PyTorch: what training programs write, and what is refused.

PyTorch is not in the environment of the other tests: `make test-peers` runs these.
"""

import argparse
import os

import numpy as np
import pytest

from mammo_jax.common.errors import UserError
from mammo_jax.weights.pretrained import convert
from mammo_jax.weights.weight_files import read_weights

torch = pytest.importorskip("torch", reason="run by `make test-peers`")
torchvision = pytest.importorskip("torchvision", reason="run by `make test-peers`")


def state(value=1.0):
    return {"conv1.weight": torch.full((2, 3), value), "bn1.bias": torch.zeros(2)}


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_state_dict_is_read_as_it_is(suffix, zipped, tmp_path):
    values = {
        "a": torch.arange(6.0).reshape(2, 3).T,
        "count": torch.tensor(7),
        "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        "trained": torch.nn.Parameter(torch.ones(2)),
    }
    path = tmp_path / f"model{suffix}"
    torch.save(values, path, _use_new_zipfile_serialization=zipped)
    found = read_weights(path)
    assert list(found) == list(values)
    np.testing.assert_array_equal(found["a"], [[0, 3], [1, 4], [2, 5]])
    np.testing.assert_array_equal(found["half"], [1.5, -2.0])
    assert found["count"] == 7


WRAPPED = {
    "torchvision's references": {
        "model": state(),
        "optimizer": {"state": {}},
        "epoch": 3,
        "args": argparse.Namespace(lr=0.1),
    },
    "timm": {"epoch": 3, "arch": "resnet50", "state_dict": state()},
    "timm's average first": {"state_dict_ema": state(), "state_dict": state(2.0)},
    "no average": {"state_dict_ema": None, "state_dict": state()},
    "several devices": {f"module.{name}": value for name, value in state().items()},
    "an average of torch.optim": {
        "model": state(2.0),
        "model_ema": {f"module.{name}": value for name, value in state().items()},
    },
    "wrapped twice": {"model": {"state_dict": state()}},
}


@pytest.mark.parametrize("wrapping", WRAPPED)
def test_the_state_dict_in_a_checkpoint_is_found(wrapping, tmp_path):
    torch.save(WRAPPED[wrapping], tmp_path / "model.pth")
    found = read_weights(tmp_path / "model.pth")
    assert found.keys() == state().keys()
    assert (found["conv1.weight"] == 1).all()


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_code_in_the_file_is_refused_and_not_run(tmp_path):
    torch.save({"a": Evil(str(tmp_path / "ran"))}, tmp_path / "model.pth")
    with pytest.raises(UserError, match=r"asks for posix\.mkdir.*save the weights"):
        read_weights(tmp_path / "model.pth")
    assert not (tmp_path / "ran").exists()


def test_a_whole_model_is_refused_with_a_way_on(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "model.pth")
    with pytest.raises(UserError, match=r"Linear.*\(model\.state_dict\(\)\)") as caught:
        read_weights(tmp_path / "model.pth")
    assert "weights_only" not in str(caught.value)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {"model": {"a": 1}}])
def test_a_file_without_weights_is_said_to_have_none(content, tmp_path):
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(UserError, match="holds no dictionary of tensors"):
        read_weights(tmp_path / "model.pth")


@pytest.mark.parametrize("zipped", [True, False])
def test_every_truncation_is_one_clear_error(zipped, tmp_path):
    path = tmp_path / "model.pth"
    torch.save(state(), path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for length in range(0, len(whole) - 1, 29):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"model\.pth is not a readable PyTorch"):
            read_weights(path)


@pytest.mark.parametrize("name", ["resnet50", "vgg16", "vgg19"])
def test_torchvision_s_own_networks_are_converted(name, tmp_path):
    network = getattr(torchvision.models, name)(weights=None)
    torch.save({"state_dict": network.state_dict()}, tmp_path / "model.pth")
    converted, _ = convert(name, read_weights(tmp_path / "model.pth"))
    sizes = [
        p.numel()
        for n, p in network.named_parameters()
        if n.split(".")[0]
        in ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "features")
    ]
    moments = ("/mean", "/var")
    assert sum(sizes) == sum(
        value.size for n, value in converted.items() if not n.endswith(moments)
    )
