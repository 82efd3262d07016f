"""The same networks in Keras on TensorFlow, the paper's framework.

ResNet50 is put together here, since Keras's own has its strides in the first
convolution of a unit and so about a tenth fewer operations than the others'.
"""

import os

os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import numpy as np

from benchmarks.peers.workload import CLASSES, LEARNING_RATE, SIZES, Steps, Workload


def _conv_norm(x, filters: int, size: int, stride: int = 1):
    x = keras.layers.Conv2D(filters, size, stride, padding="same", use_bias=False)(x)
    return keras.layers.BatchNormalization()(x)


def _relu(x):
    return keras.layers.Activation("relu")(x)


def _residual_stage(x, filters: int, outputs: int, units: int, stride: int):
    for unit in range(units):
        step = stride if unit == 0 else 1
        shortcut = _conv_norm(x, outputs, 1, step) if unit == 0 else x
        x = _relu(_conv_norm(x, filters, 1))
        x = _relu(_conv_norm(x, filters, 3, step))
        x = _relu(keras.layers.add([_conv_norm(x, outputs, 1), shortcut]))
    return x


def _residual_block(x):
    return _residual_stage(x, 512, 1024, 2, 2)


def _resnet50(size: tuple[int, ...]) -> keras.Model:
    images = keras.Input(size)
    x = _relu(_conv_norm(images, 64, 7, 2))
    x = keras.layers.MaxPooling2D(3, 2, padding="same")(x)
    for stage, units in enumerate((3, 4, 6, 3)):
        filters = 64 << stage
        x = _residual_stage(x, filters, 4 * filters, units, 2 if stage else 1)
    return keras.Model(images, x)


def _vgg16(size: tuple[int, ...]) -> keras.Model:
    return keras.applications.VGG16(include_top=False, weights=None, input_shape=size)


def _vgg_block(x):
    return keras.layers.MaxPooling2D()(_relu(_conv_norm(x, 512, 3)))


def prepare(workload: Workload) -> Steps:
    """`train_on_batch` and `predict_on_batch` of a compiled model."""
    size = (*SIZES[workload.task], 3)
    trunk = {"resnet50": _resnet50, "vgg16": _vgg16}[workload.trunk](size)
    trunk.trainable = workload.stage == "all"
    block = {"resnet50": _residual_block, "vgg16": _vgg_block}[workload.trunk]
    x = trunk.output
    if workload.task == "whole":
        x = block(block(x))
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dense(CLASSES[workload.task], activation="softmax")(x)
    model = keras.Model(trunk.input, x)
    model.compile(
        keras.optimizers.Adam(LEARNING_RATE),
        "sparse_categorical_crossentropy",
        # XLA's CPU convolutions are slower than TensorFlow's own.
        jit_compile=False,
    )
    random = np.random.default_rng(0)
    images = random.normal(size=(workload.batch, *size)).astype(np.float32)
    labels = np.zeros(workload.batch, np.int32)
    return Steps(
        lambda: model.train_on_batch(images, labels),
        lambda: model.predict_on_batch(images),
    )
