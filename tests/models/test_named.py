"""Networks by name: the same as from a configuration, and wrong names are refused."""

import jax
import numpy as np
import pytest

from mammo_jax.common.errors import UserError
from mammo_jax.models import named, read_model_config, variables
from mammo_jax.models.classifier import build_model

SMALL = {"width": 1 / 32, "image_size": (64, 64)}


@pytest.mark.parametrize(
    ("top", "fields"),
    [
        ("vgg_128-64x1", {"kind": "vgg", "blocks": ("128x1", "64x1")}),
        (["4-4-8x1"], {"kind": "residual", "blocks": ("4-4-8x1",)}),
        (("8x1",), {"kind": "vgg", "blocks": ("8x1",)}),
        ("patch", {"kind": "patch"}),
    ],
)
def test_a_name_gives_the_network_of_its_configuration(top, fields):
    found = variables.split(named.build_model("vgg16", top=top, seed=3, **SMALL))
    classes = 5 if top == "patch" else 2
    config = {"trunk": "vgg16", "top": fields, "num_classes": classes, **SMALL}
    expected = variables.split(build_model(read_model_config(config), 3))
    assert found[0] == expected[0]
    assert isinstance(found[1]["trunk/block1/conv1/kernel"], jax.Array)
    jax.tree.map(np.testing.assert_array_equal, found[1:], expected[1:])


@pytest.mark.parametrize(
    ("trunk", "settings", "message"),
    [
        (
            "resnet51",
            {},
            "model.trunk is 'resnet51'; it must be one of resnet50",
        ),
        ("vgg16", {"top": "vgg_3x3"}, "top is 'vgg_3x3'; it must be one of patch, res"),
        ("vgg16", {"top": ["4x1", "4-4-8x1"]}, "'4x1' is not a residual block"),
        ("vgg16", {"top": []}, "blocks is empty"),
        ("vgg16", {"top": None}, "top is None; it must be one of patch, res"),
        ("vgg16", {"top": {"kind": "vgg"}}, "top is {'kind': 'vgg'}; it must be one"),
        ("vgg16", {"depth": 3}, "depth"),
        ("vgg16", {"seed": -1}, "seed is -1; it must be a whole number"),
        ("vgg16", {"seed": "0"}, "seed is '0'"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_wrong_names_are_refused_with_the_choices(trunk, settings, message):
    with pytest.raises(UserError, match=message) as caught:
        named.build_model(trunk, **settings)
    assert "\n" not in str(caught.value)
