import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import with_values
from flax import nnx

from mammo_jax.config import apply_preset, whole_config
from mammo_jax.models import (
    TOPS,
    abstract_model,
    build_model,
    default_model_config,
    read_model_config,
    variables,
)
from mammo_jax.models.classifier import feature_size
from mammo_jax.models.layer_table import layer_table, output_sizes
from mammo_jax.models.resnet import WIRINGS
from mammo_jax.models.tops import ConnectedTop, patch_logits


def config_of(
    trunk="resnet50", top="residual_512-512-1024x2", *, top_changes=(), **changes
):
    config = default_model_config()
    config.update({"trunk": trunk} | changes)
    config.top.update(TOPS[top] | dict(top_changes))
    return read_model_config(config)


def sizes_of(config, image_size=(1152, 896)):
    model = abstract_model(config)
    return output_sizes(model, image_size)


@pytest.mark.parametrize("wiring", WIRINGS)
@pytest.mark.parametrize("stem", ["standard", "gentle"])
def test_resnet_feature_sizes_of_the_paper(wiring, stem):
    sizes = sizes_of(config_of(wiring=wiring, stem=stem))
    assert sizes["trunk/stage5/unit3/conv3"] == (36, 28, 2048)
    assert sizes["top/block1/unit2/conv3"] == (18, 14, 1024)
    assert sizes["top/block2/unit2/conv3"] == (9, 7, 1024)


@pytest.mark.parametrize("trunk", ["vgg16", "vgg19"])
def test_vgg_feature_sizes_of_the_paper(trunk):
    sizes = sizes_of(config_of(trunk, "vgg_512x1"))
    assert sizes["trunk/block5/conv1"] == (72, 56, 512)
    assert sizes["trunk/block5/pool"] == (36, 28, 512)
    assert sizes["top/block1/conv1"] == (36, 28, 512)
    assert sizes["top/block1/pool"] == (18, 14, 512)
    assert sizes["top/block2/pool"] == (9, 7, 512)


@pytest.mark.parametrize(("stride", "height"), [(16, 576), (8, 288)])
@pytest.mark.parametrize("trunk", ["resnet50", "vgg16", "vgg19"])
def test_small_images_give_the_papers_positions_at_a_smaller_stride(
    trunk, stride, height
):
    model = abstract_model(config_of(trunk, stride=stride))
    assert feature_size(model.trunk, (height, height * 7 // 9)) == (36, 28)
    patch = height * 7 // 36  # 224 of 1152
    assert feature_size(model.trunk, (patch, patch)) == (7, 7)


@pytest.mark.parametrize("preset", ["paper", "phantom", "full_resolution"])
def test_a_patch_is_the_same_part_of_a_mammogram_as_in_the_paper(preset):
    config = apply_preset(whole_config(), preset).model
    trunk = abstract_model(read_model_config(config)).trunk
    height, width = config.image_size
    rows, columns = feature_size(trunk, (height, width))
    window = feature_size(trunk, (height * 7 // 36,) * 2)
    assert (rows / window[0], columns / window[0]) == (36 / 7, 28 / 7)


def test_a_shorter_trunk_computes_what_the_whole_one_does_on_the_way():
    whole, short = (
        build_model(config_of(top="patch", width=0.05, stride=stride), 0).trunk
        for stride in (32, 16)
    )
    images = jnp.asarray(
        np.random.default_rng(0).normal(0, 50, (1, 64, 96, 3)), jnp.float32
    )
    whole.stages = whole.stages[:-1]
    np.testing.assert_array_equal(short(images, False), whole(images, False))


def test_pools_are_rows_of_the_table():
    lines = layer_table(config_of("resnet50", "heatmap_5x5")).splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in lines}
    assert rows["trunk/pool"] == ["287x223x64"]
    # Of Keras 2.0.8's wiring; the others pad: 288x224. The heatmap is 30x22.
    assert rows["head"][0] == "30x22x5"
    assert rows["top/pool"] == ["6x4x5"]


def test_the_gentle_stem_doubles_the_first_layers_and_no_more():
    standard, gentle = (
        sizes_of(config_of(wiring="torchvision", stem=stem))
        for stem in ("standard", "gentle")
    )
    doubled = "trunk/stage2/unit2/conv2"
    assert standard[doubled] == (288, 224, 64)
    assert gentle[doubled] == (576, 448, 64)
    assert standard["trunk/stage3/unit1/conv3"] == gentle["trunk/stage3/unit1/conv3"]


@pytest.mark.parametrize("wiring", WIRINGS)
def test_the_gentle_stem_takes_the_same_weights(wiring):
    shapes = []
    for stem in ("standard", "gentle"):
        config = config_of(wiring=wiring, stem=stem)
        model = abstract_model(config)
        _, params, stats = variables.split(model)
        shapes.append({n: v.shape for n, v in (params | stats).items()})
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("trunk", ["resnet50", "vgg16", "vgg19"])
def test_a_patch_of_224_gives_7x7_features_and_the_heatmap_is_30x22(trunk):
    config = config_of(trunk, "patch", width=0.05)
    model = build_model(config, 0)
    assert feature_size(model.trunk, (224, 224)) == (7, 7)
    features = jnp.zeros((1, *feature_size(model.trunk, (1152, 896)), 8))
    head = nnx.Linear(8, 5, rngs=nnx.Rngs(0))
    assert patch_logits(features, head, 7).shape == (1, 30, 22, 5)


@pytest.mark.parametrize(
    ("row", "flattened", "fc"),
    [
        ("heatmap_5x5", 6 * 4 * 5, (64, 32)),
        ("heatmap_2x2", 15 * 11 * 5, (512, 256)),
        ("heatmap_1x1", 30 * 22 * 5, (2048, 1024)),
    ],
)
def test_heatmap_rows_of_the_paper_have_their_sizes(row, flattened, fc):
    model = abstract_model(config_of(top=row))
    _, params, _ = variables.split(model)
    assert params["top/fc1/kernel"].shape == (flattened, fc[0])
    assert params["top/fc2/kernel"].shape == fc
    assert params["top/output/kernel"].shape == (fc[1], 2)
    assert params["top/shortcut/kernel"].shape == (flattened, 2)


@pytest.mark.parametrize("row", [row for row in TOPS if row != "patch"])
@pytest.mark.parametrize("trunk", ["resnet50", "vgg16", "vgg19"])
def test_every_row_of_the_paper_is_built_on_every_trunk(trunk, row):
    config = config_of(trunk, row, width=0.05)
    table = layer_table(config)
    assert "new_layers" in table
    assert table.splitlines()[-1].split()[:2] == ["total", "statistics"]


def test_heatmap_position_equals_the_patch_classifier_on_that_window():
    rng = np.random.default_rng(0)
    features = jnp.asarray(rng.normal(size=(1, 10, 9, 8)), jnp.float32)
    head = nnx.Linear(8, 5, rngs=nnx.Rngs(0))
    logits = patch_logits(features, head, 7)
    window = features[:, 2:9, 1:8]
    np.testing.assert_allclose(
        logits[:, 2, 1], head(window.mean((1, 2))), rtol=1e-5, atol=1e-6
    )


def test_heatmap_top_is_the_sum_of_its_two_ways():
    sizes = {"pool": 2, "fc": (7, 3), "num_classes": 2}
    # Which leaves probabilities as they are.
    top = with_values(ConnectedTop((4, 6), activation="relu", **sizes))
    rng = np.random.default_rng(0)
    heatmap = rng.uniform(size=(3, 4, 6, 5)).astype(np.float32)
    pooled = heatmap.reshape(3, 2, 2, 3, 2, 5).max((2, 4)).reshape(3, -1)

    def dense(layer, x):
        return x @ np.asarray(layer.kernel[...]) + np.asarray(layer.bias[...])

    # Fresh running statistics: mean 0, variance 1.
    keep = 1 / np.sqrt(1 + 1e-3)
    hidden = np.maximum(dense(top.fc1, pooled) * keep, 0)
    hidden = np.maximum(dense(top.fc2, hidden) * keep, 0)
    expected = dense(top.output, hidden) + dense(top.shortcut, pooled)
    np.testing.assert_allclose(
        top(jnp.asarray(heatmap), False), expected, rtol=1e-5, atol=1e-6
    )


def test_relu_and_softmax_heatmaps_differ_and_share_their_variables():
    small = {"window": 1, "pool": 1, "fc": (6, 4)}
    images = jnp.asarray(
        np.random.default_rng(0).normal(0, 50, (2, 96, 64, 3)), jnp.float32
    )
    logits, names = [], []
    for activation in ("softmax", "relu"):
        config = config_of(
            top="heatmap_5x5",
            top_changes=small | {"activation": activation},
            width=0.02,
            image_size=(96, 64),
        )
        graphdef, params, stats = variables.split(build_model(config, 0))

        def forward(params, stats, images, graphdef=graphdef):
            return variables.merge(graphdef, params, stats)(images, train=False)

        logits.append(jax.jit(forward)(params, stats, images))
        names.append(params.keys())
    assert names[0] == names[1]
    assert float(jnp.abs(logits[0] - logits[1]).max()) > 1e-3


def test_the_command_names_its_options():
    done = subprocess.run(
        [sys.executable, "-m", "mammo_jax.models", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "--config" in done.stdout
    assert "traceback" in done.stdout
    assert "--workdir" not in done.stdout


def printed_rows(*arguments):
    """Of the command's table: the words after the first of every line."""
    done = subprocess.run(
        [sys.executable, "-m", "mammo_jax.models", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=Path(__file__).parents[2],
        # As a user has it: JAX looks for other processors, and is not to speak of it.
        env={k: v for k, v in os.environ.items() if k != "JAX_PLATFORMS"},
    )
    assert done.returncode == 0, done.stderr
    assert "Unable to initialize backend" not in done.stderr
    return {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()}


def test_the_command_prints_the_papers_best_model():
    rows = printed_rows("--config=configs/whole_res.py")
    assert rows["trunk/conv1"] == ["576x448x64", "bottom", "9,472"]
    assert rows["trunk/stage5/unit3/conv3"][:2] == ["36x28x2048", "top_of_trunk"]
    assert rows["top/block2/unit2/conv3"][:2] == ["9x7x1024", "new_layers"]
    assert rows["top/output"][:2] == ["2", "new_layers"]


def test_the_command_prints_the_patch_classifier_that_a_forest_reads():
    rows = printed_rows(
        "--config=configs/paper_rows.py:resnet50_s10_forest",
        "--config.model.width=0.0625",
    )
    assert rows["head"] == ["30x22x5", "head", "645"]
    assert rows["random"][:4] == ["forest", "of", "500", "trees,"]
