import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mammo_jax.models import variables
from mammo_jax.models.initializers import (
    GLOROT_UNIFORM,
    HE_NORMAL,
    Keys,
    draw_values,
)
from mammo_jax.models.normalization import BatchNorm


def test_batch_norm_of_bfloat16_keeps_float32_statistics():
    # bfloat16 has 8 bits: it cannot hold a mean of 100.3 better than to 0.25.
    values = np.random.default_rng(0).normal(100.3, 1, (4, 64, 64, 2))
    x = jnp.asarray(values, jnp.bfloat16)
    norm = BatchNorm(2, epsilon=1e-3, momentum=0.0, keys=Keys())
    norm = variables.draw(norm, 0)
    assert norm(x, True).dtype == jnp.bfloat16
    exact = np.asarray(x, np.float64)
    np.testing.assert_allclose(norm.mean[...], exact.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(norm.var[...], exact.var((0, 1, 2)), rtol=1e-3)
    assert norm.mean[...].dtype == jnp.float32
    assert norm(x, False).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("initializer", "reference"),
    [
        (GLOROT_UNIFORM, nnx.initializers.glorot_uniform()),
        (HE_NORMAL, nnx.initializers.he_normal()),
    ],
)
def test_host_initialisers_have_the_distribution_of_jax(initializer, reference):
    shape = (3, 3, 64, 128)
    first, second = ({"kernel": initializer(number, shape)} for number in (0, 1))
    (found,) = draw_values(0, first)
    expected = reference(jax.random.key(0), shape)
    for quantile in (0.001, 0.1, 0.5, 0.9, 0.999):
        scale = float(jnp.std(expected))
        difference = np.quantile(found["kernel"], quantile) - jnp.quantile(
            expected, quantile
        )
        assert abs(float(difference)) < 0.02 * scale
    for seed, group, same in ((0, first, True), (0, second, False), (1, first, False)):
        (again,) = draw_values(seed, group)
        assert np.array_equal(found["kernel"], again["kernel"]) == same


def test_values_that_are_known_are_kept_and_change_no_other():
    group = {f"kernel{n}": HE_NORMAL(n, (3, 3, 2, 4)) for n in range(3)}
    (all_drawn,) = draw_values(5, group)
    known = np.ones((3, 3, 2, 4), np.float32)
    (found,) = draw_values(5, group | {"kernel1": known})
    assert found["kernel1"] is known
    for name in ("kernel0", "kernel2"):
        np.testing.assert_array_equal(found[name], all_drawn[name])
    assert draw_values(5, {"kernel1": known}, {}) == [{"kernel1": known}, {}]
