"""A group at rate zero costs no backward pass, at the paper's full size."""

import pytest

from benchmarks.model_costs import HYBRID, forward_flops, model_config
from benchmarks.train_steps import abstract_step, count_flops


def step_flops(config, stage):
    """XLA's count for one microbatch; lowered only, since nothing is compiled."""
    config.accum_steps = config.batch_size
    return count_flops(*abstract_step(config, stage))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trunk", "top"), [("resnet50", HYBRID), ("vgg16", "vgg_512x1")]
)
def test_training_the_new_layers_needs_at_most_45_percent_of_training_all(trunk, top):
    config = model_config(trunk, top)
    new_layers, all_layers = (step_flops(config, s) for s in ("stage1", "stage2"))
    print(f"{trunk}: {new_layers / all_layers:.3f}")
    assert new_layers <= 0.45 * all_layers
    # Not less than the forward pass, and a backward pass is twice that.
    forward = forward_flops(config)
    assert forward < new_layers
    assert all_layers == pytest.approx(3 * forward, rel=0.05)


@pytest.mark.parametrize("trunk", ["resnet50", "vgg16"])
def test_full_resolution_trains_one_image_at_a_time_after_a_patch_stage_like_it(trunk):
    config = model_config(trunk, HYBRID, "full_resolution")
    batch = abstract_step(config, "stage2").batch
    assert batch["image"].shape == (2, 1, 4608, 3584)
    for field in ("trunk", "compute_dtype", "remat"):
        assert config.patch.model[field] == config.model[field]
    # A patch of 224 at 1152 is one of 896 here.
    assert config.patch.model.top.window == config.model.top.window == 7 * 4608 // 1152
