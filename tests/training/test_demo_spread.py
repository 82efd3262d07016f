"""The spread of the demo: how it is measured, and what the demo says of it."""

import math
import statistics

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from benchmarks import tf32
from benchmarks.tf32 import round_to_tf32, rounded_convolutions
from mammo_jax import main
from mammo_jax.common.run_directory import PHANTOM_FILE, read_json, write_json
from mammo_jax.config import apply_preset, whole_config
from mammo_jax.cpu.convolution import convolve
from mammo_jax.training.demo_spread import (
    SPREAD_FILE,
    read_spread,
    settings_of,
    widen,
)


def demo(data_dir, seed=0):
    """The demo's configuration, with data that are noted as phantoms."""
    write_json(data_dir / PHANTOM_FILE, {})
    config = apply_preset(whole_config(), "phantom")
    config.seed, config.data.data_dir = seed, str(data_dir)
    return config


def test_the_table_is_of_the_demo_as_it_is(tmp_path):
    # Otherwise make it anew: benchmarks.demo_spread.
    assert read_json(SPREAD_FILE)["config"] == settings_of(demo(tmp_path))


def test_every_seed_of_the_demo_has_the_ten_runs(tmp_path):
    runs = read_json(SPREAD_FILE)["runs"]
    ways = [(run["seed"], run["rounding"]) for run in runs]
    assert ways == [(seed, way) for seed in range(5) for way in ("float32", "tf32")]
    aucs = [run["test_auc"] for run in runs]
    for seed in (0, 17):
        spread = read_spread(demo(tmp_path, seed))
        assert spread == [aucs[n : n + 2] for n in range(0, 10, 2)]


def test_another_configuration_and_other_images_have_no_spread(tmp_path):
    for field, value in {"batch_size": 8, "phantom.seed": 1, "patch.l2": 1.0}.items():
        config = demo(tmp_path)
        with config.unlocked():
            config.update_from_flattened_dict({field: value})
        assert read_spread(config) == []
    assert read_spread(whole_config()) == []
    real = demo(tmp_path)
    (tmp_path / PHANTOM_FILE).unlink()
    assert read_spread(real) == []


def test_variances_add_up_on_the_logit_scale():
    def logit(share):
        return math.log(share / (1 - share))

    # Without differences between roundings: those of four seeds, t of 3 degrees.
    means = [0.86, 0.9, 0.95, 0.93]
    training = 3.182446 * statistics.stdev(map(logit, means))
    low, high = widen(0.9, (0.85, 0.94), [[auc, auc] for auc in means])
    for found, end in ((low, 0.85), (high, 0.94)):
        squares = (logit(end) - logit(0.9)) ** 2 + training**2
        assert abs(logit(found) - logit(0.9)) == pytest.approx(math.sqrt(squares))
    assert low < 0.85 < 0.94 < high
    assert widen(0.9, (0.85, 0.94), [[0.9, 0.9]] * 3) == pytest.approx((0.85, 0.94))


@pytest.mark.parametrize("of_seeds", [0.2, 0.6])
def test_the_interval_holds_the_mean_over_trainings_in_simulation(of_seeds):
    # Seeds and roundings give a run's log-odds a variance of 0.36 in all; patients are
    # many. The run is one of another seed.
    rng, held = np.random.default_rng(0), 0
    for _ in range(1000):
        seeds = rng.normal(2.5, of_seeds, 6)
        way = math.sqrt(0.36 - of_seeds**2)
        odds = rng.normal(seeds[:, None], way, (6, 2))
        aucs = scipy.special.expit(odds)
        auc = float(aucs[5, 0])
        low, high = widen(auc, (auc - 1e-9, auc + 1e-9), aucs[:5].tolist())
        held += low <= scipy.special.expit(2.5) <= high
    assert 0.92 <= held / 1000 <= 0.98


def test_the_demo_prints_it(tmp_path, capsys):
    config = demo(tmp_path)
    main._show_spread({"auc": 0.9, "auc_95_low": 0.85, "auc_95_high": 0.94}, config)
    (line,) = capsys.readouterr().out.splitlines()
    low, high = widen(0.9, (0.85, 0.94), read_spread(config))
    assert "0.860 to 0.975 in 10 runs; 95 % interval of the mean" in line
    assert line.endswith(f" {low:.3f} to {high:.3f}")


@pytest.mark.parametrize(
    "figures", [(None, None, None), (0.9, None, None), (1.0, 0.95, 1.0)], ids=str
)
def test_the_demo_prints_nothing_where_there_is_no_interval(figures, tmp_path, capsys):
    names = ("auc", "auc_95_low", "auc_95_high")
    main._show_spread(dict(zip(names, figures, strict=True)), demo(tmp_path))
    main._show_spread({"auc": 0.9, "auc_95_low": 0.8, "auc_95_high": 1}, whole_config())
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


def test_bfloat16_is_not_rounded():
    image, kernel = (
        jnp.full(s, 1.5, jnp.bfloat16) for s in ((1, 4, 4, 1), (1, 1, 1, 1))
    )
    with rounded_convolutions():
        found = convolve(image, kernel, (1, 1), "SAME")
    np.testing.assert_array_equal(found, convolve(image, kernel, (1, 1), "SAME"))


@pytest.mark.parametrize("arguments", [[], ["nowhere.py"], ["."]], ids=str)
def test_a_program_that_is_not_there_shows_the_way(arguments, monkeypatch):
    monkeypatch.setattr("sys.argv", ["tf32", *arguments])
    with pytest.raises(SystemExit, match=r"-m benchmarks\.tf32 scripts"):
        tf32.main()


def test_a_program_runs_with_its_arguments_and_rounded(tmp_path, monkeypatch, capsys):
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\nfrom mammo_jax.cpu import xla_convolution\n"
        "print(sys.argv[1:], hasattr(xla_convolution.convolve, '__wrapped__'))\n"
    )
    monkeypatch.setattr("sys.argv", ["tf32", str(program), "--out=x"])
    tf32.main()
    assert capsys.readouterr().out == "['--out=x'] True\n"
