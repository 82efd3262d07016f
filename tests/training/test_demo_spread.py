"""The spread of the demo: how it is measured, and what the demo says of it."""

import math
import statistics

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.tf32 import round_to_tf32, rounded_convolutions
from mammo_jax import main
from mammo_jax.common.run_directory import read_json
from mammo_jax.config import apply_preset, whole_config
from mammo_jax.cpu.convolution import convolve
from mammo_jax.training.demo_spread import (
    SPREAD_FILE,
    read_spread,
    settings_of,
    widen,
)


def demo(seed=0):
    config = apply_preset(whole_config(), "phantom")
    config.seed = seed
    return config


def test_the_table_is_of_the_demo_as_it_is():
    # Otherwise make it anew: benchmarks.demo_spread.
    assert read_json(SPREAD_FILE)["config"] == settings_of(demo())


def test_the_table_has_ten_runs_which_the_demo_may_have_with_any_seed():
    runs = read_json(SPREAD_FILE)["runs"]
    ways = {(run["rounding"], run["seed"]) for run in runs}
    assert ways == {(way, seed) for way in ("float32", "tf32") for seed in range(5)}
    for seed in (0, 17):
        config = demo(seed)
        config.data.data_dir = "elsewhere"
        assert read_spread(config) == [run["test_auc"] for run in runs]


def test_another_configuration_has_no_spread():
    for field, value in {"batch_size": 8, "phantom.seed": 1, "patch.l2": 1.0}.items():
        config = demo()
        with config.unlocked():
            config.update_from_flattened_dict({field: value})
        assert read_spread(config) == []
    assert read_spread(whole_config()) == []


def test_both_variances_add_up_on_the_logit_scale():
    def logit(share):
        return math.log(share / (1 - share))

    spread = [0.86, 0.9, 0.95, 0.93]
    training = 3.182446 * statistics.stdev(map(logit, spread))  # t, 3 degrees, 97.5 %
    low, high = widen(0.9, (0.85, 0.94), spread)
    for found, end in ((low, 0.85), (high, 0.94)):
        squares = (logit(end) - logit(0.9)) ** 2 + training**2
        assert abs(logit(found) - logit(0.9)) == pytest.approx(math.sqrt(squares))
    assert low < 0.85 < 0.94 < high
    assert widen(0.9, (0.85, 0.94), [0.9] * 3) == pytest.approx((0.85, 0.94))


def test_the_demo_prints_it(capsys):
    test = {"auc": 0.9, "auc_95_low": 0.85, "auc_95_high": 0.94}
    main._show_spread(test, demo())
    (line,) = capsys.readouterr().out.splitlines()
    low, high = widen(0.9, (0.85, 0.94), read_spread(demo()))
    assert "in 10 runs; with that the 95 % interval is" in line
    assert line.endswith(f" {low:.3f} to {high:.3f}")
    main._show_spread(test, whole_config())
    main._show_spread({"auc": 1.0, "auc_95_low": None, "auc_95_high": None}, demo())
    assert capsys.readouterr().out == ""


def test_rounding_keeps_ten_bits_ties_to_even():
    rng = np.random.default_rng(0)
    x = (rng.normal(size=1000) * 10.0 ** rng.integers(-20, 20, 1000)).astype(np.float32)
    x = np.concatenate([x, np.float32([0, -1, 1 + 2**-11, 1 + 3 * 2**-11])])
    fraction, exponent = np.frexp(
        x
    )  # fraction from 0.5 on: 11 bits are 10 and the first
    expected = np.ldexp(np.rint(fraction * 2**11) / 2**11, exponent)
    np.testing.assert_array_equal(round_to_tf32(x), expected)


def test_convolutions_and_their_gradients_read_rounded_inputs():
    rng = np.random.default_rng(0)
    shapes = ((1, 6, 6, 2), (3, 3, 2, 4), (1, 6, 6, 4))
    image, kernel, gradient = (
        jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes
    )

    def results(image, kernel, gradient):
        y, transposed = jax.vjp(
            lambda x, k: convolve(x, k, (1, 1), "SAME"), image, kernel
        )
        return y, *transposed(gradient)

    expected = results(*map(round_to_tf32, (image, kernel, gradient)))
    exact = results(image, kernel, gradient)
    with rounded_convolutions():
        found = results(image, kernel, gradient)
    for ours, theirs, unrounded in zip(found, expected, exact, strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert not np.array_equal(ours, unrounded)
