"""Made-up weights as Keras's, torchvision's and other libraries' files hold them."""

import h5py
import numpy as np

from mammo_jax.weights.pretrained import trunk_shapes


def library_weights(architecture, scheme, width=1.0):
    """Draws small distinct values under the names and in the layout of a library."""
    weights = {}
    shapes = trunk_shapes(architecture, scheme.wiring, width)
    for index, (name, shape) in enumerate(shapes.items()):
        if scheme.library.transpose and len(shape) == 4:
            shape = (shape[3], shape[2], shape[0], shape[1])
        weights[scheme.rename(name)] = np.full(shape, 1 + index / 8, np.float32)
    return weights


def write_legacy_keras(weights, path):
    """Writes weights as Keras 2 did: layers in order, arrays named and ordered."""
    layers = {}
    order = ["kernel", "gamma", "bias", "beta", "moving_mean", "moving_variance"]
    for key, value in weights.items():
        layer, _, name = key.rpartition("/")
        layers.setdefault(layer, {})[name] = value
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"input_1", *(n.encode() for n in layers)]
        file.create_group("input_1").attrs["weight_names"] = []
        for layer, arrays in layers.items():
            group = file.create_group(layer)
            names = sorted(arrays, key=order.index)
            keys = [f"{layer}/{layer}_{name}_1:0" for name in names]
            group.attrs["weight_names"] = [key.encode() for key in keys]
            for key, name in zip(keys, names, strict=True):
                group[key] = arrays[name]
