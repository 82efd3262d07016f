"""Our trunks against Keras 3's, with the same random weights, through files."""

import functools
import os

os.environ["KERAS_BACKEND"] = "jax"

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest

from mammo_jax.cpu import onednn, xla_convolution
from mammo_jax.models import abstract_model, build_model, read_model_config, variables
from mammo_jax.weights.pretrained import convert
from mammo_jax.weights.weight_files import read_weights
from mammo_jax.weights.weight_names import SCHEMES

# Keras 3 has not taken up NumPy 2's copy keyword in its variables.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)


def keras_resnet(wiring):
    """Keras 3's ResNet50; its layers edited into the wiring of Keras 2.0.8."""
    model = keras.applications.ResNet50(weights=None, include_top=False)
    if wiring == "keras":
        return model
    changes = {
        "conv1_pad": {"padding": 0},
        "conv1_conv": {"padding": "same"},
        "pool1_pad": {"padding": 0},
    }

    def rewired(layer):
        config = layer.get_config()
        config.update(changes.get(layer.name, {}))
        if isinstance(layer, keras.layers.BatchNormalization):
            config["epsilon"] = 1e-3
        return type(layer).from_config(config)

    return keras.models.clone_model(model, clone_function=rewired)


def make_keras(trunk, wiring, random_norm):
    # With other weights a unit may lie at the kink of its ReLU, where rounding decides.
    keras.utils.set_random_seed(0)
    if trunk == "resnet50":
        model = keras_resnet(wiring)
    else:
        maker = {"vgg16": keras.applications.VGG16, "vgg19": keras.applications.VGG19}
        model = maker[trunk](weights=None, include_top=False)
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights(random_norm(rng, layer.name, layer.gamma.shape[0]))
        elif isinstance(layer, keras.layers.Conv2D):
            # Not Keras's zeros, which would hide a bias that goes astray.
            layer.bias.assign(rng.normal(0, 0.2, layer.bias.shape))
    return model


def our_variables(model, trunk, wiring, folder):
    """Keras's weights by way of a file and our converter."""
    path = folder / "trunk.weights.h5"
    model.save_weights(path)
    converted, scheme = convert(trunk, read_weights(path))
    converted = jax.tree.map(jnp.asarray, converted)
    assert scheme.wiring == ("keras" if trunk == "resnet50" else "")
    config = {"trunk": trunk, "top": {"kind": "patch"}}
    if wiring:
        config["wiring"] = wiring
    graphdef, params, stats = variables.split(build_model(read_model_config(config), 0))
    params = {name: converted.get(name, value) for name, value in params.items()}
    stats = {name: converted.get(name, value) for name, value in stats.items()}
    return graphdef, params, stats, scheme


# At 64x64 the last stage has 2x2 positions, and a unit at the kink of a ReLU, whose
# side rounding chooses, moves a gradient by more than 1e-4.
SIZE = (96, 96)
# What padding and rounding differ in shows at odd sizes only.
ODD_SIZE = (75, 97)
CASES = [
    ("resnet50", "keras", True, SIZE),
    ("resnet50", "keras", False, SIZE),
    ("resnet50", "keras2017", True, SIZE),
    ("resnet50", "keras2017", False, ODD_SIZE),
    ("vgg16", "", True, SIZE),
    ("vgg16", "", False, ODD_SIZE),
    ("vgg19", "", True, SIZE),
    ("vgg19", "", False, ODD_SIZE),
]


def plain_gradients(x, kernel, gradient, geometry):
    """Those of the convolution as Keras has it."""
    forward = functools.partial(xla_convolution.plain, geometry=geometry)
    return jax.vjp(forward, x, kernel)[1](gradient)


@pytest.mark.slow
@pytest.mark.parametrize(("trunk", "wiring", "train", "size"), CASES)
def test_features_gradients_and_statistics_equal_keras(
    trunk, wiring, train, size, tmp_path, random_norm, assert_close, monkeypatch
):
    # With other kernels than Keras's the sums are rounded otherwise, and a unit at the
    # kink of a ReLU may fall on its other side: no gradient of such a network is then
    # equal to 1e-4. `test_convolution` compares the kernels.
    monkeypatch.setattr(onednn, "is_faster", lambda: False)
    monkeypatch.setattr(xla_convolution, "convolve", xla_convolution.plain)
    monkeypatch.setattr(xla_convolution, "gradients", plain_gradients)
    reference = make_keras(trunk, wiring, random_norm)
    graphdef, params, stats, scheme = our_variables(reference, trunk, wiring, tmp_path)
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.normal(0, 50, (4, *size, 3)), jnp.float32)
    shape = reference.compute_output_shape(x.shape)
    weight = jnp.asarray(rng.normal(0, 1, shape), jnp.float32)

    def our_loss(params):
        model = variables.merge(graphdef, params, stats)
        features = model.trunk(x, train)
        return (features * weight).sum(), (features, variables.split(model)[2])

    moving = [v.value for v in reference.non_trainable_variables]

    def keras_loss(trainable):
        features, moving2 = reference.stateless_call(
            trainable, moving, x, training=train
        )
        return (features * weight).sum(), (features, moving2)

    (_, (features, new_stats)), gradients = jax.jit(
        jax.value_and_grad(our_loss, has_aux=True)
    )(params)
    trainable = [v.value for v in reference.trainable_variables]
    (_, (expected, moving2)), expected_gradients = jax.jit(
        jax.value_and_grad(keras_loss, has_aux=True)
    )(trainable)

    assert features.shape == expected.shape == weight.shape
    assert_close({"features": features}, {"features": expected})
    for variables_, values, ours in (
        (reference.trainable_variables, expected_gradients, gradients),
        (reference.non_trainable_variables, moving2, new_stats),
    ):
        theirs = {v.path: value for v, value in zip(variables_, values, strict=True)}
        ours = {
            scheme.rename(name): value
            for name, value in ours.items()
            if name.startswith("trunk/")
        }
        assert ours.keys() == theirs.keys()
        if ours:
            assert_close(ours, theirs, floor_share=0.05 if train else 0.0)
    monkeypatch.undo()
    for kernels, faster in (("oneDNN", True), ("XLA in our order", False)):
        monkeypatch.setattr(onednn, "is_faster", lambda faster=faster: faster)
        # A function of its own, or JAX would take the trace of the other kernels.
        _, (found, _) = jax.jit(lambda params: our_loss(params))(params)
        assert_close(
            {f"features, {kernels}": found}, {f"features, {kernels}": expected}
        )


@pytest.mark.parametrize("trunk", ["resnet50", "vgg16", "vgg19"])
def test_parameter_counts_equal_keras(trunk):
    # keras.applications, include_top=False; the statistics are not parameters.
    expected = {"resnet50": 23_534_592, "vgg16": 14_714_688, "vgg19": 20_024_384}
    config = {"trunk": trunk, "top": {"kind": "patch"}}
    model = abstract_model(read_model_config(config))
    _, params, _ = variables.split(model)
    sizes = {n: np.prod(v.shape) for n, v in params.items() if n.startswith("trunk/")}
    assert sum(sizes.values()) == expected[trunk]


def test_every_scheme_names_every_trunk_variable_once():
    for trunk, schemes in SCHEMES.items():
        for scheme in schemes:
            config = {"trunk": trunk, "top": {"kind": "patch"}}
            if scheme.wiring:
                config["wiring"] = scheme.wiring
            model = abstract_model(read_model_config(config))
            _, params, stats = variables.split(model)
            ours = [n for n in params | stats if n.startswith("trunk/")]
            assert len({scheme.rename(name) for name in ours}) == len(ours)
