import pytest

from mammo_jax.models import (
    build_model,
    default_model_config,
    groups_of,
    read_model_config,
    variables,
)


def groups(trunk, kind="residual", stride=32):
    config = default_model_config()
    config.update(
        {"trunk": trunk, "stride": stride, "width": 0.05, "image_size": (64, 64)}
    )
    blocks = ("4-4-4x1", "4-4-4x1") if kind == "residual" else ()
    config.top.update(
        {"kind": kind, "blocks": blocks, "window": 1, "pool": 1, "fc": (4, 4)}
    )
    _, params, _ = variables.split(build_model(read_model_config(config), 0))
    return {path: groups_of(path, trunk, stride) for path in params}


# Section 2.2: the layers below the unfrozen top, of those with a kernel.
@pytest.mark.parametrize(
    ("trunk", "stride", "top", "bottom_layers", "top_layers"),
    [
        ("resnet50", 32, "trunk/stage5/unit3/", 50, 3),
        ("vgg16", 32, "trunk/block5/", 10, 3),
        ("vgg19", 32, "trunk/block5/", 12, 4),
        # Shorter trunks: their last unit or block.
        ("resnet50", 16, "trunk/stage4/unit6/", 40, 3),
        ("resnet50", 8, "trunk/stage3/unit4/", 21, 3),
        ("vgg16", 16, "trunk/block4/", 7, 3),
    ],
)
def test_trunk_is_cut_where_the_paper_cuts_it(
    trunk, stride, top, bottom_layers, top_layers
):
    found = groups(trunk, stride=stride)
    kernels = {p: g for p, g in found.items() if p.endswith("/kernel")}
    members = {g: [p for p in kernels if kernels[p] == g] for g in kernels.values()}
    assert len(members["bottom"]) == bottom_layers
    assert len(members["top_of_trunk"]) == top_layers
    assert all(path.startswith(top) for path in members["top_of_trunk"])


def test_head_and_new_layers_have_their_own_groups():
    found = groups("resnet50", "heatmap")
    assert found["head/kernel"] == "head"
    assert found["top/fc1/bias"] == "new_layers"
    assert found["trunk/conv1/kernel"] == "bottom"


def test_unknown_path_is_an_error_that_names_it():
    with pytest.raises(ValueError, match="neck/kernel"):
        groups_of("neck/kernel", "vgg16", 32)
