"""Distances between two networks' features, gradients and statistics."""

import numpy as np
import pytest

# Relative, float32.
TOLERANCE = 1e-4

# Names of the batch normalisations that end a residual unit or its shortcut.
_UNIT_ENDS = ("_3_bn", "_0_bn", "bn3", "downsample.1")


def _random_norm(rng, layer, channels):
    """Draws scale, shift, mean and variance that keep units away from the ReLU's kink.

    With shifts around 0 so many units sit at the kink that the gradients of a
    random ResNet50 differ by 1 to 4 % between float32 and float64 in PyTorch alone.
    Here a unit is well above it or well below it, and residual sums are above it.
    """
    signs = np.where(rng.random(channels) < 0.7, 1, -1)
    signs = 1 if layer.endswith(_UNIT_ENDS) else signs
    scale = rng.uniform(0.3, 0.7, channels)
    shift = signs * rng.uniform(3.5, 4.5, channels)
    mean = rng.normal(0, 0.2, channels)
    variance = rng.uniform(15, 45, channels)
    return [value.astype(np.float32) for value in (scale, shift, mean, variance)]


def _relative_errors(found, expected, floor_share):
    norms = {name: np.linalg.norm(expected[name]) for name in found}
    vectors = [norms[name] for name in found if np.ndim(expected[name]) == 1]
    floor = floor_share * max(vectors, default=0.0)
    return {
        name: np.linalg.norm(np.asarray(value) - np.asarray(expected[name]))
        / max(norms[name], floor * (np.ndim(value) == 1))
        for name, value in found.items()
    }


def _assert_close(found, expected, floor_share=0.0):
    """Fails with the names that are furthest apart.

    An error is the norm of the difference over the norm. With batch statistics some
    gradients are zero but for rounding: of a shift that the next normalisation takes
    away again. `floor_share` of the largest vector's norm is then the least that a
    vector is measured by.
    """
    errors = _relative_errors(found, expected, floor_share)
    worst = sorted(errors, key=errors.get, reverse=True)[:3]
    report = ", ".join(
        f"{name} {errors[name]:.1e} (norm {np.linalg.norm(expected[name]):.1e})"
        for name in worst
    )
    print(f"furthest apart of {len(errors)}: {report}")
    assert errors[worst[0]] < TOLERANCE, report


@pytest.fixture(scope="session")
def random_norm():
    return _random_norm


@pytest.fixture(scope="session")
def assert_close():
    return _assert_close
