"""Memory of the train step of all layers, compiled for a CUDA card of 8 GB."""

import re

import jax
import pytest

from benchmarks import cuda_target
from benchmarks.model_costs import (
    HYBRID,
    Costs,
    model_config,
    print_table,
    training_bytes,
)
from mammo_jax.common.errors import UserError
from mammo_jax.cpu.pooling import max_pool
from mammo_jax.models import (
    build_model,
    class_map,
    compiling,
    flips,
    read_model_config,
    variables,
)
from mammo_jax.models.folding import fold


def compiles_for_cuda(test):
    """Marks a test that needs the compiler for CUDA."""
    needs_compiler = pytest.mark.skipif(
        not cuda_target.is_available(),
        reason="the compiler for CUDA is not installed: see benchmarks/cuda_target.py",
    )
    return pytest.mark.slow(needs_compiler(test))


def test_a_model_that_does_not_fit_is_an_error_after_the_whole_table(tmp_path, capsys):
    fits = Costs("vgg16", "vgg_512x1", (1152, 896), 10, 1e9, 3e9, 6.9e9)
    original = Costs("vgg16", "vgg_512x1", (4608, 3584), 10, 1e9, 7.4e9, None)
    large = fits._replace(trunk="vgg19", peak_bytes_whole_batch=7.1e9)
    readme = tmp_path / "README.md"
    readme.write_text("<!-- model costs -->\n<!-- end of model costs -->\n")

    print_table([fits, original], readme)
    with pytest.raises(UserError, match="need more than 7 GB: vgg19 vgg_512x1"):
        print_table([large, fits], readme)

    assert capsys.readouterr().out.count("\n") == 8
    assert "| 3.00 | 7.10 |\n| vgg16 | vgg 512x1 |" in readme.read_text()


@compiles_for_cuda
@pytest.mark.parametrize(
    ("trunk", "top", "preset", "gigabytes"),
    [
        ("resnet50", HYBRID, "paper", 7.0),
        ("vgg16", "vgg_512x1", "paper", 7.0),
        ("resnet50", HYBRID, "full_resolution", 7.5),
        ("vgg16", "vgg_512x1", "full_resolution", 7.5),
    ],
)
def test_training_fits_the_card(trunk, top, preset, gigabytes):
    found = training_bytes(model_config(trunk, top, preset)) / 1e9
    print(f"{trunk} {top} {preset}: {found:.2f} GB")
    assert found <= gigabytes


@compiles_for_cuda
def test_a_newer_card_needs_no_more_at_full_resolution():
    config = model_config("resnet50", HYBRID, "full_resolution")
    assert training_bytes(config, cuda_target.HOPPER) / 1e9 <= 7.5


@compiles_for_cuda
def test_vgg16_is_recomputed_in_bands_at_full_resolution_only_if_asked_to():
    config = model_config("vgg16", "vgg_512x1", "full_resolution")
    config.model.remat = False
    # Far over the card: 12.8 GB since the max-pool's gradient needs no scatter.
    assert training_bytes(config) > 1.5 * 7.5e9


@compiles_for_cuda
def test_a_gpu_knows_the_options_that_it_is_given(monkeypatch):
    options = compiling.DETERMINISTIC
    monkeypatch.setattr(cuda_target, "_OPTIONS", cuda_target._OPTIONS | options)
    function = jax.jit(jax.grad(lambda x: max_pool(x, 3, 2, "SAME").sum()))
    x = jax.ShapeDtypeStruct((2, 64, 64, 8), "float32")
    assert "scatter" not in cuda_target.compile_for_cuda(function, x).as_text()


def _scoring_costs(card, *model):
    """Kernels of the program that scores two images, and its memory in GB."""
    graphdef, *values = model
    step = class_map.make_class_map_step(
        graphdef,
        window=None,
        pixel_mean=0.0,
        malignant_classes=(1,),
        flips=flips.NO_FLIP,
        at_once=False,
    )
    images = jax.ShapeDtypeStruct((2, 1152, 896), "uint16")
    compiled = cuda_target.compile_for_cuda(jax.jit(step), *values, images, card=card)
    kernels = re.findall(r" (?:fusion|custom-call)\(", compiled.as_text())
    return len(kernels), compiling.peak_bytes(compiled) / 1e9


@compiles_for_cuda
@pytest.mark.parametrize("card", ["CARD", "HOPPER"])
def test_normalisation_while_scoring_is_part_of_the_convolutions(card):
    config = read_model_config(model_config("resnet50", HYBRID).model)
    model = variables.split(build_model(config, 0))
    costs = [
        _scoring_costs(getattr(cuda_target, card), *one)
        for one in (model, (*fold(*model), {}))
    ]
    print(f"{card}: kernels and GB before {costs[0]}, folded {costs[1]}")
    (kernels, memory), (fewer, less) = costs
    assert fewer < 0.65 * kernels
    assert less < 0.9 * memory
