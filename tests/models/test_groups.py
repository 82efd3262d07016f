import pytest

from mammo_jax.models import (
    build_model,
    default_model_config,
    groups_of,
    read_model_config,
    variables,
)


def groups(trunk, kind="residual"):
    config = default_model_config()
    config.update({"trunk": trunk, "width": 0.05, "image_size": (64, 64)})
    blocks = ("4-4-4x1", "4-4-4x1") if kind == "residual" else ()
    config.top.update(
        {"kind": kind, "blocks": blocks, "window": 1, "pool": 1, "fc": (4, 4)}
    )
    _, params, _ = variables.split(build_model(read_model_config(config), 0))
    return {path: groups_of(path, trunk) for path in params}


# Section 2.2: the layers below the unfrozen top, of those with a kernel.
@pytest.mark.parametrize(
    ("trunk", "top", "bottom_layers", "top_layers"),
    [
        ("resnet50", "trunk/stage5/unit3/", 50, 3),
        ("vgg16", "trunk/block5/", 10, 3),
        ("vgg19", "trunk/block5/", 12, 4),
    ],
)
def test_trunk_is_cut_where_the_paper_cuts_it(trunk, top, bottom_layers, top_layers):
    kernels = {p: g for p, g in groups(trunk).items() if p.endswith("/kernel")}
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
        groups_of("neck/kernel", "vgg16")
