"""The authors' models built with Keras 3, and saved as Keras 2.0 saved its models."""

import json
import os

os.environ["KERAS_BACKEND"] = "jax"

import h5py
import keras
import numpy as np
from keras import layers

# Fields that Keras 2.0 did not have.
_NEWER = ("dtype", "groups", "keepdims", "synchronized", "sparse", "ragged", "optional")
VGG_BLOCKS = {
    "vgg16": ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)),
    "vgg19": ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4)),
}


class Builder:
    """Builds networks of random values, whose automatic names are shuffled numbers."""

    def __init__(self, seed=0, dropout=0.5, width=1.0):
        self.rng = np.random.default_rng(seed)
        self.numbers = iter(self.rng.permutation(2000).tolist())
        self.dropout, self.width = dropout, width

    def name(self, kind):
        return f"{kind}_{next(self.numbers)}"

    def scaled(self, count):
        return max(1, round(count * self.width))

    def bn(self, x, name=None):
        name = name or self.name("batch_normalization")
        return layers.BatchNormalization(epsilon=1e-3, momentum=0.99, name=name)(x)

    def relu(self, x):
        return layers.Activation("relu", name=self.name("activation"))(x)

    def conv(self, x, count, size, stride=1, name=None, padding="same", **more):
        name = name or self.name("conv2d")
        layer = layers.Conv2D(
            count, size, strides=stride, padding=padding, name=name, **more
        )
        return layer(x)

    def drop(self, x):
        if not self.dropout:
            return x
        return layers.Dropout(self.dropout, name=self.name("dropout"))(x)

    def pool(self, x, size=2, stride=2, name=None):
        name = name or self.name("max_pooling2d")
        return layers.MaxPooling2D(size, strides=stride, name=name)(x)

    def gap(self, x):
        return layers.GlobalAveragePooling2D(name=self.name("global_average"))(x)

    def dense(self, x, count, activation=None):
        return layers.Dense(count, activation=activation, name=self.name("dense"))(x)

    def resnet50(self, x):
        """Builds ResNet50 as Keras 2.0.8 has it; returns the last sum and its ReLU."""
        x = self.conv(x, self.scaled(64), 7, 2, "conv1")
        x = self.pool(self.relu(self.bn(x, "bn_conv1")), 3)
        for stage, units in zip((2, 3, 4, 5), (3, 4, 6, 3), strict=True):
            a = self.scaled(64 * 2 ** (stage - 2))
            c = self.scaled(256 * 2 ** (stage - 2))
            for unit in "abcdef"[:units]:
                place = f"{stage}{unit}_branch"
                stride = 2 if unit == "a" and stage > 2 else 1
                y = self.conv(x, a, 1, stride, f"res{place}2a", "valid")
                y = self.relu(self.bn(y, f"bn{place}2a"))
                y = self.conv(y, a, 3, 1, f"res{place}2b")
                y = self.relu(self.bn(y, f"bn{place}2b"))
                y = self.conv(y, c, 1, 1, f"res{place}2c", "valid")
                y = self.bn(y, f"bn{place}2c")
                if unit == "a":
                    x = self.conv(x, c, 1, stride, f"res{place}1", "valid")
                    x = self.bn(x, f"bn{place}1")
                before = layers.Add(name=self.name("add"))([y, x])
                x = self.relu(before)
        return before, x

    def vgg(self, x, trunk):
        for block, (count, depth) in enumerate(VGG_BLOCKS[trunk], 1):
            for number in range(1, depth + 1):
                name, count_ = f"block{block}_conv{number}", self.scaled(count)
                x = self.conv(x, count_, 3, 1, name, activation="relu")
            x = self.pool(x, name=f"block{block}_pool")
        return x

    def yaroslav(self, x):
        for count in (32, 64, 128, 256, 256, 512):
            for _ in range(2):
                x = self.conv(x, self.scaled(count), 3)
                x = self.relu(self.bn(x))
            x = self.pool(x)
        return x

    def trunk(self, name, size, last_relu=True):
        """Builds the trunk; returns its input and its features."""
        shape = (size, size, 1 if name == "yaroslav" else 3)
        image = keras.Input(shape, name=self.name("input"))
        if name == "resnet50":
            return image, self.resnet50(image)[last_relu]
        x = self.yaroslav(image) if name == "yaroslav" else self.vgg(image, name)
        return image, x

    def patch(self, name, size=224):
        image, x = self.trunk(name, size)
        if name == "resnet50":
            x = layers.AveragePooling2D(7, name="avg_pool")(x)
        return keras.Model(image, self.dense(self.drop(self.gap(x)), 5, "softmax"))

    def residual_block(self, x, a, b, c, units):
        """Builds units of stride 2, then 1; the shortcut is made last and put first."""
        for unit in range(units):
            stride = 1 if unit else 2
            y = self.bn(self.conv(x, a, 1, stride))
            y = self.bn(self.conv(self.drop(self.relu(y)), b, 3))
            y = self.bn(self.conv(self.drop(self.relu(y)), c, 1))
            if not unit:
                x = self.bn(self.conv(x, c, 1, stride, padding="valid"))
            x = layers.Add(name=self.name("add"))([x, y])
            x = self.drop(self.relu(x))
        return x

    def vgg_block(self, x, count, depth):
        for _ in range(depth):
            x = self.drop(self.relu(self.bn(self.conv(x, count, 3))))
        return self.pool(x)

    def blocks(self, x, kind, blocks):
        build = {"residual": self.residual_block, "vgg": self.vgg_block}[kind]
        for block in blocks:
            x = build(x, *block)
        return self.dense(self.drop(self.gap(x)), 2, "softmax")

    def heatmap(self, x, window, pool, fc, activation):
        name = self.name("average_pooling2d")
        x = layers.AveragePooling2D(window, strides=1, name=name)(x)
        x = self.pool(self.dense(x, 5, activation), pool, pool)
        flat = y = layers.Flatten(name=self.name("flatten"))(x)
        y = self.drop(y)
        for count in fc:
            y = self.drop(self.relu(self.bn(self.dense(y, count))))
        logits = [self.dense(y, 2), self.dense(flat, 2)]
        total = layers.Add(name=self.name("add"))(logits)
        return layers.Activation("softmax", name=self.name("activation"))(total)

    def whole(self, name, size, kind, *arguments, last_relu=True):
        """Builds a nested model of a trunk, and a top of a kind."""
        image, features = self.trunk(name, None, last_relu)
        trunk = keras.Model(image, features, name=self.name("model"))
        images = keras.Input((*size, image.shape[-1]), name=self.name("input"))
        build = self.heatmap if kind == "heatmap" else self.blocks
        more = arguments if kind == "heatmap" else (kind, *arguments)
        return keras.Model(images, build(trunk(images), *more))

    def draw(self, model):
        """Gives every array random values, at which the activations keep their size."""
        for layer in model._flatten_layers():
            if isinstance(layer, layers.BatchNormalization):
                size = layer.gamma.shape
                shift = self.rng.normal(0, 0.3, size), self.rng.normal(0, 0.3, size)
                scale = self.rng.uniform(0.5, 1, size), self.rng.uniform(0.5, 2, size)
                layer.set_weights([scale[0], shift[0], shift[1], scale[1]])
            elif isinstance(layer, layers.Conv2D | layers.Dense):
                shape = layer.kernel.shape
                gain = 2 if isinstance(layer, layers.Conv2D) else 1
                # Grey levels are about 70 around their mean.
                grey = 40 if shape[-2] in (1, 3) else 1
                spread = np.sqrt(gain / np.prod(shape[:-1])) / grey
                values = [self.rng.normal(0, spread, shape)]
                if layer.use_bias:
                    values.append(self.rng.normal(0, 0.1, shape[-1:]))
                layer.set_weights(values)
        return model


def keras2_graph(model):
    """Returns the model's `model_config` as Keras 2.0 writes it."""
    return {"class_name": "Model", "config": _model(model.get_config())}


def _model(config):
    return {
        "name": config["name"],
        "layers": [_layer(layer) for layer in config["layers"]],
        "input_layers": [config["input_layers"]],
        "output_layers": [config["output_layers"]],
    }


def _layer(layer):
    kind, config = layer["class_name"], layer["config"]
    if kind == "Functional":
        kind, config = "Model", _model(config)
    config = {key: value for key, value in config.items() if key not in _NEWER}
    if "batch_shape" in config:
        config["batch_input_shape"] = config.pop("batch_shape")
    calls = [list(_tensors(node["args"])) for node in layer["inbound_nodes"]]
    return {
        "name": layer["name"],
        "class_name": kind,
        "config": config,
        "inbound_nodes": calls,
    }


def _tensors(value):
    if isinstance(value, dict):
        yield [*value["config"]["keras_history"], {}]
    else:
        for one in value:
            yield from _tensors(one)


def save_keras2(model, path, *, as_text=str.encode, training=True, change=None):
    """Saves by Keras 3's legacy writer, and writes Keras 2.0's attributes over its own.

    Args:
      model: what to save.
      path: of the .h5 file.
      as_text: what attributes are stored as, from str.
      training: also what a compiled model stores.
      change: edits the graph before it is written.
    """
    model.save(path, include_optimizer=False)
    graph = json.loads(json.dumps(keras2_graph(model)))
    if change:
        change(graph)
    with h5py.File(path, "r+") as file:
        for name in list(file.attrs):
            del file.attrs[name]
        root = file["model_weights"]
        texts = {"keras_version": "2.0.8", "backend": "tensorflow"}
        for place in (file, root):
            for name, text in texts.items():
                place.attrs[name] = as_text(text)
        file.attrs["model_config"] = as_text(json.dumps(graph))
        if training:
            file.attrs["training_config"] = as_text(json.dumps({"loss": "mse"}))
            file.create_group("optimizer_weights").attrs["weight_names"] = [b"gone"]
        root.attrs["layer_names"] = [as_text(layer.name) for layer in model.layers]
        for layer in model.layers:
            group, names = root[layer.name], []
            for path_ in group.attrs["weight_names"]:
                old = path_ if isinstance(path_, str) else path_.decode()
                names.append("/".join(old.split("/")[-2:]) + ":0")
                group.move(old, names[-1])
            group.attrs["weight_names"] = [as_text(name) for name in names]
