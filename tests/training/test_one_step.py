"""One optimiser step of a whole-image model, computed anew by Keras."""

import os

os.environ["KERAS_BACKEND"] = "jax"

import jax
import keras
import numpy as np
import pytest

from mammo_jax.models import build_model, default_model_config, read_model_config
from mammo_jax.models.groups import GROUPS
from mammo_jax.models.vgg import DEPTHS
from mammo_jax.training.stage_step import make_train_step

# Keras 3 has not taken up NumPy 2's copy keyword in its variables.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)

SIZE, MEAN, RATE, L2 = 64, 50.0, 1e-3, 0.01
TOP = "top/block1"


def _keras_model() -> keras.Model:
    """VGG16 of few channels, a VGG block with normalisation, average, softmax.

    Layers carry the names of ours, with dots for slashes.
    """

    def conv(name: str, channels: int, penalty: float):
        regularizer = keras.regularizers.L2(penalty) if penalty else None
        return keras.layers.Conv2D(
            channels,
            3,
            padding="same",
            kernel_regularizer=regularizer,
            name=name.replace("/", "."),
        )

    x = inputs = keras.Input((SIZE, SIZE, 3))
    for block, (channels, depth) in enumerate(
        zip((4, 8, 16, 32, 32), DEPTHS["vgg16"], strict=True), start=1
    ):
        for layer in range(1, depth + 1):
            x = conv(f"trunk/block{block}/conv{layer}", channels, 0)(x)
            x = keras.layers.ReLU()(x)
        x = keras.layers.MaxPooling2D(2)(x)
    for layer in (1, 2):
        x = conv(f"{TOP}/conv{layer}", 8, L2)(x)
        norm = keras.layers.BatchNormalization(
            epsilon=1e-3, momentum=0.99, name=f"{TOP}/bn{layer}".replace("/", ".")
        )
        x = keras.layers.ReLU()(norm(x))
    x = keras.layers.MaxPooling2D(2)(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    outputs = keras.layers.Dense(
        2,
        activation="softmax",
        kernel_regularizer=keras.regularizers.L2(L2),
        name="top.output",
    )(x)
    return keras.Model(inputs, outputs)


_KERAS_NAMES = {
    "gamma": "scale",
    "beta": "bias",
    "moving_mean": "mean",
    "moving_variance": "var",
}


def _by_our_names(model: keras.Model) -> dict[str, keras.Variable]:
    names = {}
    for layer in model.layers:
        for weight in layer.weights:
            ending = _KERAS_NAMES.get(weight.name, weight.name)
            names[f"{layer.name.replace('.', '/')}/{ending}"] = weight
    return names


def _ours():
    config = default_model_config()
    config.trunk, config.width, config.num_classes = "vgg16", 1 / 16, 2
    config.top.kind, config.top.blocks = "vgg", ("8x2",)
    rates = dict.fromkeys(GROUPS, RATE)
    stages = {"stage1": {"epochs": 1, "rates": rates, "l2": L2}}
    return make_train_step(
        build_model(read_model_config(config), 0), stages=stages, pixel_mean=MEAN
    )


@pytest.mark.slow
def test_a_step_is_that_of_keras():
    train_step, state = _ours()
    model = _keras_model()
    theirs = _by_our_names(model)
    values = {**state.params, **state.batch_stats}
    assert theirs.keys() == values.keys()
    for name, variable in theirs.items():
        variable.assign(np.asarray(values[name]))
    before = jax.tree.map(np.asarray, state.params)

    rng = np.random.default_rng(0)
    grey = rng.integers(0, 65536, (6, SIZE, SIZE), dtype=np.uint16)
    labels = np.array([0, 0, 0, 0, 1, 1], np.int32)
    # Every class weighs the same: 6 images over the count of its class.
    weights = np.where(labels == 1, 6 / 2, 6 / 4)
    batch = {
        "image": grey[None],
        "label": labels[None],
        "channel_shift": np.zeros((1, 6, 3), np.float32),
    }
    after, loss = train_step(state, batch)

    model.compile(
        optimizer=keras.optimizers.Adam(RATE, epsilon=1e-8),
        loss="sparse_categorical_crossentropy",
    )
    inputs = np.repeat(grey[..., None] * (255 / 65535) - MEAN, 3, -1)
    keras_loss = model.train_on_batch(
        inputs.astype(np.float32), labels, sample_weight=weights
    )
    kernels = [
        name for name in before if name.startswith("top/") and name.endswith("/kernel")
    ]
    penalty = L2 * sum(float((before[name] ** 2).sum()) for name in kernels)
    np.testing.assert_allclose(float(loss) + penalty, keras_loss, rtol=1e-5)

    found = {**after.params, **after.batch_stats}
    differing, count = 0, 0
    for name, variable in _by_our_names(model).items():
        expected = np.asarray(variable)
        if name.startswith(f"{TOP}/conv") and name.endswith("bias"):
            # Normalisation takes it away: its gradient is rounding, which Adam turns
            # into a step of the rate, up or down.
            limit = 2.01 * RATE
        else:
            limit = 0.02 * RATE
        difference = np.abs(np.asarray(found[name]) - expected)
        wrong = int(np.sum(difference > limit + 1e-5 * np.abs(expected)))
        # A gradient near zero has no sign in float32: one in a hundred may differ, and
        # one of the few values of a bias.
        assert wrong <= max(1, 0.01 * expected.size), f"{name}: {wrong} values differ"
        assert difference.max() <= 2.01 * RATE + 1e-5 * np.abs(expected).max(), name
        differing, count = differing + wrong, count + expected.size
    assert differing <= 0.002 * count
