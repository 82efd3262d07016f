"""Programs compiled for CUDA cards: their memory, their kernels, what these move."""

import jax
import pytest

from benchmarks import cuda_target, gpu_programs
from benchmarks.model_costs import (
    HYBRID,
    Costs,
    model_config,
    print_table,
    training_bytes,
)
from mammo_jax.common.errors import UserError
from mammo_jax.cpu.pooling import max_pool
from mammo_jax.models import compiling


def compiles_for_cuda(test):
    """Marks a test that needs the compiler for CUDA."""
    needs_compiler = pytest.mark.skipif(
        not cuda_target.is_available(),
        reason="the compiler for CUDA is not installed: see benchmarks/cuda_target.py",
    )
    return pytest.mark.slow(needs_compiler(test))


def test_a_model_that_does_not_fit_is_an_error_after_the_whole_table(tmp_path, capsys):
    fits = Costs("vgg16", "vgg_512x1", (1152, 896), 10, 1e9, 3e9, (4e9, 5e9, 6.4e9))
    large = fits._replace(trunk="vgg19", by_card=(4e9, 5e9, 6.5e9))
    readme = tmp_path / "README.md"
    readme.write_text("<!-- model costs -->\n<!-- end of model costs -->\n")

    print_table([fits], readme)
    with pytest.raises(UserError, match=r"need more than 6\.44 GB: vgg19 vgg_512x1"):
        print_table([large, fits], readme)

    assert capsys.readouterr().out.count("\n") == 7
    assert "| 3.00 | 4.00 | 5.00 | 6.50 |\n| vgg16 | vgg 512x1 |" in readme.read_text()


@compiles_for_cuda
@pytest.mark.parametrize("card", cuda_target.CARDS)
@pytest.mark.parametrize("preset", ["paper", "full_resolution"])
@pytest.mark.parametrize(
    ("trunk", "top"), [("resnet50", HYBRID), ("vgg16", "vgg_512x1")]
)
def test_training_fits_what_jax_takes_of_8_gb(trunk, top, preset, card):
    config = model_config(trunk, top, preset)
    found = training_bytes(config, cuda_target.CARDS[card])
    print(f"{trunk} {top} {preset} on {card}: {found / 1e9:.2f} GB")
    assert found <= cuda_target.MOST_BYTES


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


@compiles_for_cuda
@pytest.mark.parametrize("card", ["GeForce RTX 3070", "H100"])
def test_normalisation_while_scoring_is_part_of_the_convolutions(card):
    name = "score resnet50, whole, float32, 1 x 2"
    before, now = gpu_programs.measure(name, cuda_target.CARDS[card])
    print(f"{card}: {before} before, folded {now}")
    assert now.kernels < 0.65 * before.kernels
    assert now.moved < 0.65 * before.moved
    assert now.planned < 0.9 * before.planned


@compiles_for_cuda
def test_kernels_lie_as_the_step_reads_them_and_are_cast_once():
    name = "train resnet50, whole, bfloat16, 2 x 1"
    before, now = gpu_programs.measure(name, cuda_target.CARD)
    print(f"{before} before, {now} now")
    assert now.kernels < 0.97 * before.kernels
    assert now.moved < 0.97 * before.moved
    assert now.planned < before.planned


PROGRAM = """
%body.2 (p.1: (s32[], f32[2,3])) -> (s32[], f32[2,3]) {
  %p.1 = (s32[], f32[2,3]{1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%p.1), index=0
  %x.1 = f32[2,3]{1,0} get-tuple-element(%p.1), index=1
  %y.1 = f32[2,3]{1,0} fusion(%x.1), kind=kLoop, calls=%inner
  ROOT %t.1 = (s32[], f32[2,3]{1,0}) tuple(%i.1, %y.1)
}

ENTRY %main.3 (a.1: bf16[5], b.1: f32[2,3]) -> f32[2,3] {
  %a.1 = bf16[5]{0} parameter(0)
  %b.1 = f32[2,3]{1,0} parameter(1)
  %c.1 = (bf16[5]{0}, u8[900]{0}) custom-call(%a.1, %b.1), custom_call_target="conv"
  %d.1 = bf16[5]{0} get-tuple-element(%c.1), index=0
  %t.2 = (s32[], f32[2,3]{1,0}) tuple(%d.1, %b.1)
  %w.1 = (s32[], f32[2,3]{1,0}) while(%t.2), condition=%cond, body=%body.2, \
backend_config={"known_trip_count":{"n":"4"}}
  ROOT %r.1 = f32[2,3]{1,0} get-tuple-element(%w.1), index=1
}
"""


def test_a_loop_counts_as_often_as_it_runs_and_scratch_is_not_moved():
    kernels, moved = gpu_programs.count_work(PROGRAM.replace("\\\n", ""))
    assert kernels == 1 + 4
    assert moved == (10 + 24 + 10) + 4 * (24 + 24)


def test_exchanges_count_as_often_as_they_run():
    reduced = PROGRAM.replace(
        "fusion(%x.1), kind=kLoop, calls=%inner", "all-reduce(%x.1)"
    )
    found = gpu_programs.list_exchanges(reduced.replace("\\\n", ""))
    assert found == [24] * 4
