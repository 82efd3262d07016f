"""Our torchvision wiring against torchvision's ResNet50."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from mammo_jax.models import abstract_model, build_model, read_model_config, variables
from mammo_jax.weights.pretrained import convert
from mammo_jax.weights.weight_files import read_weights

torch = pytest.importorskip("torch", reason="run by `make test-peers`")
torchvision = pytest.importorskip("torchvision", reason="run by `make test-peers`")

BATCH, SIZE = 4, 64


def features_of(network, x):
    x = network.maxpool(network.relu(network.bn1(network.conv1(x))))
    for layer in (network.layer1, network.layer2, network.layer3, network.layer4):
        x = layer(x)
    return x


@pytest.fixture(scope="module")
def network(random_norm):
    torch.manual_seed(0)
    network = torchvision.models.resnet50(weights=None)
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


def test_parameter_counts_equal_torchvision(network):
    expected = {n: p.numel() for n, p in network.named_parameters() if n[:3] != "fc."}
    config = {"wiring": "torchvision", "top": {"kind": "patch"}}
    model = abstract_model(read_model_config(config))
    _, params, _ = variables.split(model)
    sizes = [value.size for name, value in params.items() if name[:6] == "trunk/"]
    assert len(sizes) == len(expected)
    assert sum(sizes) == sum(expected.values()) == 23_508_032


def reference_step(network, x, weight, train):
    """In float64, so that what is rounded is ours alone."""
    network = copy.deepcopy(network).double().train(train)
    x, weight = x.astype(np.float64), weight.astype(np.float64)
    features = features_of(network, torch.tensor(x).permute(0, 3, 1, 2))
    (features * torch.tensor(weight).permute(0, 3, 1, 2)).sum().backward()
    values = {
        name: parameter.grad.numpy().copy()
        for name, parameter in network.named_parameters()
        if parameter.grad is not None
    }
    values |= {name: b.numpy().copy() for name, b in network.named_buffers()}
    return features.detach().permute(0, 2, 3, 1).numpy(), values


def smoothed(network):
    """The same network with SiLU in the place of ReLU."""
    network = copy.deepcopy(network)
    for module in network.modules():
        if isinstance(getattr(module, "relu", None), torch.nn.ReLU):
            module.relu = torch.nn.SiLU()
    return network


@pytest.mark.slow
@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("train", [False, True])
def test_features_gradients_and_statistics_equal_pytorch(
    network, train, smooth, tmp_path, assert_close, monkeypatch
):
    # At a ReLU's kink rounding decides, and the two round otherwise: gradients are
    # compared without kinks.
    if smooth:
        network = smoothed(network)
        monkeypatch.setattr(jax.nn, "relu", jax.nn.silu)
    save(network, tmp_path / "trunk.pth")
    before = read_weights(tmp_path / "trunk.pth")
    converted, scheme = convert("resnet50", before)
    config = {"wiring": scheme.wiring, "top": {"kind": "patch"}}
    graphdef, params, stats = variables.split(build_model(read_model_config(config), 0))
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
    if smooth:
        trunk = [name for name in params if name[:5] != "head/"]
        theirs = {n: scheme.to_our_layout(values[scheme.rename(n)]) for n in trunk}
        assert_close(
            {name: gradients[name] for name in trunk},
            theirs,
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
