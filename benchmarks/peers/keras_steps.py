"""The same networks in Keras on TensorFlow, the paper's framework.

Keras's ResNet50 has its strides in the first convolution of a unit and so about a
tenth fewer operations than the others'.
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


def _residual_block(x):
    for stride in (2, 1):
        shortcut = _conv_norm(x, 1024, 1, stride) if stride > 1 else x
        x = _relu(_conv_norm(x, 512, 1))
        x = _relu(_conv_norm(x, 512, 3, stride))
        x = _relu(keras.layers.add([_conv_norm(x, 1024, 1), shortcut]))
    return x


def _vgg_block(x):
    return keras.layers.MaxPooling2D()(_relu(_conv_norm(x, 512, 3)))


def prepare(workload: Workload) -> Steps:
    """`train_on_batch` and `predict_on_batch` of a compiled model."""
    make = {"resnet50": keras.applications.ResNet50, "vgg16": keras.applications.VGG16}
    size = (*SIZES[workload.task], 3)
    trunk = make[workload.trunk](include_top=False, weights=None, input_shape=size)
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
