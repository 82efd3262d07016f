"""Batch normalisation as a part of the layer below it, against the two layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tiny_runs import write_run

from mammo_jax.models import (
    build_model,
    class_map,
    default_model_config,
    flips,
    read_model_config,
    variables,
)
from mammo_jax.models.folding import fold
from mammo_jax.models.network_input import network_input
from mammo_jax.models.normalization import BatchNorm
from mammo_jax.weights.model_directory import load_model, load_variables

MEAN = 40.0
IMAGES = np.random.default_rng(0).integers(0, 65536, (2, 128, 96), dtype=np.uint16)
KINDS = {
    "keras2017": {"remat": True},
    "cut": {"wiring": "keras2017_cut", "stem": "gentle"},
    "heatmap": {"wiring": "keras", "top": {"kind": "heatmap"}},
    "patches": {"wiring": "torchvision", "top": {"kind": "patch"}, "num_classes": 5},
    "hybrid": {"trunk": "vgg19"},
    "vgg top": {"trunk": "vgg16", "top": {"kind": "vgg", "blocks": ("8x2",)}},
    "yaroslav": {"trunk": "yaroslav", "top": {"kind": "vgg", "blocks": ("8x1",)}},
}


def _model(name, **more):
    """A narrow model that has seen a batch: its statistics are those of the images."""
    config = default_model_config()
    config.update({"width": 1 / 16, "image_size": IMAGES.shape[1:]})
    config.top.update({"blocks": ("8-8-16x2",), "window": 2, "pool": 1})
    config.update({**KINDS[name], **more})
    model = build_model(read_model_config(config), 0)
    rng = np.random.default_rng(0)
    for path, norm in nnx.iter_modules(model):
        if isinstance(norm, BatchNorm):
            norm.momentum = 0.0
            size = len(norm.scale[...])
            # Small at a unit's end, as of trained ones: rounding grows less.
            scale = rng.uniform(0.5, 1.5, size) * (0.2 if "bn3" in path else 1)
            norm.scale = nnx.Param(jnp.asarray(scale, "float32"))
            norm.bias = nnx.Param(jnp.asarray(rng.normal(0, 0.3, size), "float32"))
        elif isinstance(norm, nnx.Conv) and norm.bias is not None:
            biases = rng.normal(0, 0.3, norm.bias[...].shape)
            norm.bias = nnx.Param(jnp.asarray(biases, "float32"))
    model(network_input(IMAGES, MEAN), True)
    return variables.split(model)


def _step(graphdef):
    step = class_map.make_class_map_step(
        graphdef,
        window=2,
        pixel_mean=MEAN,
        malignant_classes=(1,),
        flips=flips.NO_FLIP,
        at_once=True,
    )
    compiled = jax.jit(step)
    return lambda *values: jax.tree.map(np.asarray, compiled(*values, IMAGES))


def _class_maps(graphdef, params, stats):
    return _step(graphdef)(params, stats)


def _rounded_anew(values):
    """Values that differ in their last bit, as those of a folded network do."""
    rng = np.random.default_rng(1)
    return {
        name: value
        * rng.choice([1 - 2**-24, 1 + 2**-23], value.shape).astype("float32")
        for name, value in values.items()
    }


@pytest.mark.parametrize("name", KINDS)
def test_scores_and_maps_are_those_of_the_layers_themselves(name):
    graphdef, params, stats = _model(name)
    compute = _step(graphdef)
    expected = compute(params, stats)
    rounded = compute(_rounded_anew(params), _rounded_anew(stats))
    folded, fewer = fold(graphdef, params, stats)
    assert stats
    assert not [path for path in fewer if "/bn" in path]
    found = _class_maps(folded, fewer, {})
    # Scores that are all but certain would show nothing.
    assert 1e-3 < expected.scores.min() < expected.scores.max() < 1 - 1e-3
    # In a deep network of random values rounding alone may move more on a processor.
    noise = np.abs(rounded.scores - expected.scores).max()
    assert noise < 1e-4
    most = max(1e-5, 4 * noise)
    np.testing.assert_allclose(found.scores, expected.scores, atol=most, rtol=0)
    np.testing.assert_allclose(found.maps, expected.maps, atol=1e-4, rtol=1e-4)


def test_a_model_in_bfloat16_scores_as_in_its_own_evaluation(tmp_path):
    write_run(tmp_path / "run", compute_dtype="bfloat16")
    loaded = load_model(tmp_path / "run")
    graphdef, params, stats = load_variables(tmp_path / "run")
    assert stats
    found = _class_maps(loaded.graphdef, loaded.params, {})
    expected = _class_maps(graphdef, params, stats)
    np.testing.assert_array_equal(found.scores, expected.scores)


def test_a_folded_model_cannot_be_trained():
    graphdef, params = fold(*_model("hybrid"))
    model = variables.merge(graphdef, params, {})
    with pytest.raises(ValueError, match="cannot be trained"):
        model(network_input(IMAGES, MEAN), True)
