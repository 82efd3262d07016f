"""Our torchvision wiring against that architecture, restated in plain PyTorch.

torchvision itself is not used: its releases are tied to single PyTorch releases.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from mammo_jax.models import build_model, variables
from mammo_jax.models.pretrained import convert
from mammo_jax.models.weight_files import read_weights
from mammo_jax.models.weight_names import to_our_layout

torch = pytest.importorskip("torch", reason="PyTorch is not installed; it is optional")

BATCH, SIZE = 4, 64


class Unit(torch.nn.Module):
    def __init__(self, channels_in, channels, stride):
        super().__init__()
        shape = [(channels_in, channels, 1), (channels, channels, 3)]
        shape.append((channels, 4 * channels, 1))
        for index, (inputs, outputs, size) in enumerate(shape, start=1):
            step = stride if index == 2 else 1
            conv = torch.nn.Conv2d(
                inputs, outputs, size, stride=step, padding=size // 2, bias=False
            )
            setattr(self, f"conv{index}", conv)
            setattr(self, f"bn{index}", torch.nn.BatchNorm2d(outputs))
        self.downsample = None
        if channels_in != 4 * channels:
            self.downsample = torch.nn.Sequential(
                torch.nn.Conv2d(channels_in, 4 * channels, 1, stride, bias=False),
                torch.nn.BatchNorm2d(4 * channels),
            )

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return torch.relu(y + (self.downsample(x) if self.downsample else x))


class ResNet(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(64)
        channels = 64
        for index, units in enumerate((3, 4, 6, 3)):
            inner = 64 * 2**index
            blocks = []
            for unit in range(units):
                stride = 2 if unit == 0 and index > 0 else 1
                blocks.append(Unit(channels, inner, stride))
                channels = 4 * inner
            setattr(self, f"layer{index + 1}", torch.nn.Sequential(*blocks))
        self.fc = torch.nn.Linear(2048, 1000)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.nn.functional.max_pool2d(x, 3, stride=2, padding=1)
        for index in range(1, 5):
            x = getattr(self, f"layer{index}")(x)
        return x


@pytest.fixture(scope="module")
def network(random_norm):
    torch.manual_seed(0)
    network = ResNet()
    rng = np.random.default_rng(0)
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            values = random_norm(rng, name, module.num_features)
            targets = (
                module.weight,
                module.bias,
                module.running_mean,
                module.running_var,
            )
            for target, value in zip(targets, values, strict=True):
                target.data.copy_(torch.tensor(value))
    return network


def save(network, path):
    if path.suffix == ".safetensors":
        arrays = {name: value.numpy() for name, value in network.state_dict().items()}
        safetensors.numpy.save_file(arrays, path)
    else:
        torch.save(
            network.state_dict(),
            path,
            _use_new_zipfile_serialization="old" not in path.name,
        )


@pytest.mark.parametrize("name", ["new.pth", "old.pth", "timm.safetensors"])
def test_every_file_format_gives_the_same_arrays(network, name, tmp_path):
    path = tmp_path / name
    save(network, path)
    found = read_weights(path)
    expected = network.state_dict()
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_array_equal(found[key], value.numpy())


def reference_step(network, x, weight, train):
    network.zero_grad()
    network.train(train)
    features = network(torch.tensor(x).permute(0, 3, 1, 2))
    (features * torch.tensor(weight).permute(0, 3, 1, 2)).sum().backward()
    values = {
        name: parameter.grad.numpy().copy()
        for name, parameter in network.named_parameters()
        if parameter.grad is not None
    }
    values |= {name: b.numpy().copy() for name, b in network.named_buffers()}
    return features.detach().permute(0, 2, 3, 1).numpy(), values


@pytest.mark.slow
@pytest.mark.parametrize("train", [False, True])
def test_features_gradients_and_statistics_equal_pytorch(
    network, train, tmp_path, assert_close
):
    save(network, tmp_path / "trunk.pth")
    before = read_weights(tmp_path / "trunk.pth")
    converted, scheme = convert("resnet50", before)
    config = {"wiring": scheme.wiring, "top": {"kind": "patch"}}
    graphdef, params, stats = variables.split(build_model(config, nnx.Rngs(0)))
    converted = jax.tree.map(jnp.asarray, converted)
    params = {name: converted.get(name, value) for name, value in params.items()}
    stats = {name: converted[name] for name in stats}
    rng = np.random.default_rng(1)
    x = rng.normal(0, 50, (BATCH, SIZE, SIZE, 3)).astype(np.float32)
    weight = rng.normal(0, 1, (BATCH, 2, 2, 2048)).astype(np.float32)

    def loss(params):
        model = variables.merge(graphdef, params, stats)
        features = model.trunk(jnp.asarray(x), train)
        return (features * weight).sum(), (features, variables.split(model)[2])

    (_, (features, new_stats)), gradients = jax.jit(
        jax.value_and_grad(loss, has_aux=True)
    )(params)
    expected, values = reference_step(network, x, weight, train)
    assert_close({"features": features}, {"features": expected})
    assert_close(
        {name: value for name, value in gradients.items() if name[:5] != "head/"},
        {
            name: to_our_layout(values[scheme.rename(name)], scheme)
            for name in params
            if name[:5] != "head/"
        },
        floor_share=0.05 if train else 0.0,
    )
    statistics = {}
    for name in new_stats:
        new, old = values[scheme.rename(name)], before[scheme.rename(name)]
        if train and name.endswith("/var"):
            # PyTorch keeps the unbiased variance: undo n / (n - 1).
            count = BATCH * positions(name) ** 2
            new = old * 0.9 + (new - old * 0.9) * (count - 1) / count
        statistics[name] = new
    assert_close(new_stats, statistics)


def positions(name):
    """Side of the map that a batch normalisation of a 64-pixel input sees."""
    layer = name.split("/")
    if layer[1] == "bn1":
        return 32
    stage = int(layer[1][-1])
    side = SIZE // 2**stage
    # The first unit's first convolution still has the previous stage's size.
    return side * 2 if stage > 2 and layer[2:4] == ["unit1", "bn1"] else side
