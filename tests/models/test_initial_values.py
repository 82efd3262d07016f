"""First values against Keras's definitions of its initialisers."""

import numpy as np
import pytest
import scipy.stats

from mammo_jax.models import abstract_model, build_model, read_model_config, variables
from mammo_jax.models.initial_values import draw_values

CONFIG = read_model_config({})
FAN_IN, FAN_OUT = 9 * 64, 9 * 128
NORMAL, UNIFORM = "top/block1/unit1/conv2/kernel", "trunk/stage3/unit1/conv2/kernel"


def draw(*paths, seed=0, shape=(3, 3, 64, 128)):
    _, params, _ = variables.split(abstract_model(CONFIG))
    like = params[UNIFORM].update(shape=shape)
    (found,) = draw_values(CONFIG, seed, dict.fromkeys(paths, like))
    return found


@pytest.mark.parametrize(
    ("path", "reference"),
    [
        # Keras 2.0.8: VarianceScaling(2, "fan_in", "normal") is TensorFlow's
        # truncated_normal with a stddev of sqrt(2 / fan_in).
        (NORMAL, scipy.stats.truncnorm(-2, 2, scale=np.sqrt(2 / FAN_IN))),
        (
            UNIFORM,
            scipy.stats.uniform(
                -np.sqrt(6 / (FAN_IN + FAN_OUT)), 2 * np.sqrt(6 / (FAN_IN + FAN_OUT))
            ),
        ),
    ],
)
def test_kernels_have_the_distribution_of_keras(path, reference):
    found = draw(path)[path]
    assert found.dtype == np.float32
    assert found.std() == pytest.approx(reference.std(), rel=0.01)
    low, high = reference.support()
    assert low <= found.min() < found.max() <= high
    assert scipy.stats.kstest(found.ravel(), reference.cdf).pvalue > 1e-3


def test_new_blocks_are_narrower_than_a_normal_that_is_not_cut_off():
    # The truncation takes variance away, for which that Keras does not make up.
    deviation = draw(NORMAL)[NORMAL].std()
    assert deviation == pytest.approx(0.8796 * np.sqrt(2 / FAN_IN), rel=0.01)


def test_a_value_depends_on_the_seed_and_the_path_alone():
    both = draw(NORMAL, UNIFORM)
    np.testing.assert_array_equal(draw(UNIFORM)[UNIFORM], both[UNIFORM])
    other = UNIFORM.replace("unit1", "unit2")
    assert not np.array_equal(draw(other)[other], both[UNIFORM])
    assert not np.array_equal(draw(UNIFORM, seed=1)[UNIFORM], both[UNIFORM])
    assert np.isfinite(draw(NORMAL, seed=3_000_000_000)[NORMAL]).all()


def test_a_seed_gives_the_same_values_on_every_machine():
    found = draw(NORMAL, UNIFORM, seed=7, shape=(1, 1, 2, 2))
    np.testing.assert_allclose(
        found[UNIFORM].ravel(), [-0.6863390, 0.3924940, 0.9418371, 0.9596378], rtol=1e-5
    )
    np.testing.assert_allclose(
        found[NORMAL].ravel(), [1.4541698, -0.5172175, 0.9215943, 0.1773809], rtol=1e-5
    )


def test_values_that_are_known_are_kept_and_change_no_other():
    _, params, stats = variables.split(abstract_model(CONFIG))
    known = np.ones(2, np.float32)
    group = {"trunk/conv1/bias": params["trunk/conv1/bias"], "head/kernel": known}
    found, others = draw_values(CONFIG, 5, group, {})
    assert found["head/kernel"] is known
    assert not found["trunk/conv1/bias"].any()
    assert others == {}
    for path, value in draw_values(CONFIG, 5, stats)[0].items():
        assert (value == path.endswith("/var")).all()


def test_residual_units_start_as_identities_where_asked_for():
    fields = {"width": 1 / 32, "zero_init_residual": True}
    for zero, config in (
        (True, read_model_config(fields)),
        (False, read_model_config(fields | {"zero_init_residual": False})),
    ):
        _, params, _ = variables.split(build_model(config, 0))
        scales = {path: x for path, x in params.items() if path.endswith("/scale")}
        last = {path for path in scales if path.endswith("/bn3/scale")}
        assert len(last) == 16 + 4
        for path, scale in scales.items():
            assert (scale == (0 if zero and path in last else 1)).all(), path


def test_a_variable_without_a_rule_is_named():
    with pytest.raises(ValueError, match="'top/gate' has no rule"):
        draw("top/gate")
