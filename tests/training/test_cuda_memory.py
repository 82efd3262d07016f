"""Memory of the train step of all layers, compiled for a CUDA card of 8 GB."""

import pytest

from benchmarks import cuda_target
from benchmarks.model_costs import HYBRID, model_config, training_bytes

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not cuda_target.is_available(),
        reason="the compiler for CUDA is not installed: see benchmarks/cuda_target.py",
    ),
]


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


def test_vgg16_is_recomputed_in_bands_at_full_resolution_only_if_asked_to():
    config = model_config("vgg16", "vgg_512x1", "full_resolution")
    config.model.remat = False
    assert training_bytes(config) > 2 * 7.5e9
