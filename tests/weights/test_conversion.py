import jax.numpy as jnp
import numpy as np
import pytest

from mammo_jax.common.errors import UserError
from mammo_jax.models import (
    build_model,
    default_model_config,
    read_model_config,
    variables,
)
from mammo_jax.weights.conversion import take_over


def make_config(kind, trunk="resnet50", **changes):
    config = default_model_config()
    config.update({"trunk": trunk, "width": 0.05, "image_size": (96, 64)})
    top_changes = changes.pop("top", {})
    config.update(changes)
    top = {"kind": kind, "blocks": (), "pool": 1, "fc": (6, 4), "window": 2}
    if kind == "residual":
        top["blocks"] = ("4-4-8x1", "4-4-4x1")
    config.top.update(top | top_changes)
    config.num_classes = 5 if kind == "patch" else 2
    return config


def split_model(kind, seed, trunk="resnet50", **changes):
    config = make_config(kind, trunk, **changes)
    return variables.split(build_model(read_model_config(config), seed))


@pytest.mark.parametrize("trunk", ["resnet50", "vgg16"])
def test_every_trunk_variable_comes_from_the_patch_classifier(trunk):
    _, patch_params, patch_stats = split_model("patch", 1, trunk)
    _, whole_params, whole_stats = split_model("residual", 2, trunk)
    patch_stats = {name: value + 3 for name, value in patch_stats.items()}

    params, stats, report = take_over(
        patch_params, patch_stats, whole_params, whole_stats
    )

    assert params.keys() == whole_params.keys()
    assert stats.keys() == whole_stats.keys()
    for name in report.copied:
        source = (patch_params | patch_stats)[name]
        np.testing.assert_array_equal((params | stats)[name], source)
    for name in report.new:
        source = (whole_params | whole_stats)[name]
        np.testing.assert_array_equal((params | stats)[name], source)
    everything = set(whole_params) | set(whole_stats)
    assert set(report.copied) | set(report.new) == everything
    assert all(name.startswith("top/") for name in report.new)
    assert report.left_out == ("head/bias", "head/kernel")


def test_heatmap_design_takes_over_the_patch_head():
    _, patch_params, patch_stats = split_model("patch", 1)
    _, whole_params, whole_stats = split_model("heatmap", 2)
    params, _, report = take_over(patch_params, patch_stats, whole_params, whole_stats)
    np.testing.assert_array_equal(params["head/kernel"], patch_params["head/kernel"])
    assert report.left_out == ()


def test_converted_trunk_computes_the_same_features():
    patch = split_model("patch", 1)
    whole = split_model("residual", 2)
    params, stats, _ = take_over(*patch[1:], *whole[1:])
    x = jnp.asarray(np.random.default_rng(0).normal(0, 50, (1, 96, 64, 3)), "float32")
    features = [
        variables.merge(graphdef, p, s).trunk(x, False)
        for graphdef, p, s in [patch, (whole[0], params, stats)]
    ]
    np.testing.assert_array_equal(*features)


@pytest.mark.parametrize(
    ("other", "found"),
    [
        ({"trunk": "vgg16"}, r"missing .* unexpected \(trunk/block1/conv1/bias"),
        ({"width": 0.1}, r"misshapen .*is \(6,\), not \(3,\)"),
        ({"wiring": "torchvision"}, r"missing \(trunk/conv1/bias"),
    ],
)
def test_patch_classifier_of_another_network_is_refused(other, found):
    patch = split_model("patch", 1, **other)
    whole = split_model("residual", 2)
    with pytest.raises(UserError, match=f"patch classifier does not fit.*{found}"):
        take_over(*patch[1:], *whole[1:])


@pytest.mark.parametrize("kind", ["residual", "heatmap"])
def test_everything_comes_from_a_whole_image_classifier_of_the_same_design(kind):
    _, *source = split_model(kind, 1)
    _, *new = split_model(kind, 2)

    params, stats, report = take_over(*source, *new)

    assert report.source == "whole-image"
    assert set(report.copied) == set(new[0]) | set(new[1])
    assert report.new == report.left_out == ()
    for ours, theirs in ((params, source[0]), (stats, source[1])):
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            np.testing.assert_array_equal(value, theirs[name])


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("heatmap", {}, r"missing \(top/block1/.*unexpected \(head/bias"),
        ("residual", {"trunk": "vgg16"}, r"unexpected \(trunk/block1"),
        ("residual", {"top": {"blocks": ("4-4-8x2", "4-4-4x1")}}, "unexpected"),
        (
            "residual",
            {"top": {"blocks": ("4-4-8x1", "4-4-6x1")}},
            r"13 misshapen \(top/block2/unit1/bn3/bias is \(6,\), not \(4,\)",
        ),
    ],
)
def test_whole_image_classifier_of_another_design_is_refused(kind, changes, message):
    _, *source = split_model(kind, 1, **changes)
    _, *new = split_model("residual", 2)

    with pytest.raises(UserError, match=f"whole-image classifier does not.*{message}"):
        take_over(*source, *new)


def test_lost_variable_is_an_error_that_names_it():
    _, patch_params, patch_stats = split_model("patch", 1)
    _, whole_params, whole_stats = split_model("residual", 2)
    del patch_params["trunk/stage3/unit1/conv1/bias"]
    with pytest.raises(UserError, match=r"1 missing .trunk/stage3/unit1/conv1/bias"):
        take_over(patch_params, patch_stats, whole_params, whole_stats)
