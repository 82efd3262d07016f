"""Max-pooling and its gradient against JAX's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from mammo_jax.cpu.pooling import max_pool


def reference(x, size, stride, padding):
    return nnx.max_pool(x, (size, size), strides=(stride, stride), padding=padding)


def value_and_gradient(function, x, size, stride, padding):
    y, pull = jax.vjp(lambda x: function(x, size, stride, padding), x)
    weights = np.random.default_rng(1).normal(size=y.shape)
    return y, *pull(jnp.asarray(weights, y.dtype))


# Of small windows; of large ones, XLA takes longer for one program than for its parts.
compiled = jax.jit(value_and_gradient, static_argnums=(0, 2, 3, 4))


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(5, 12), st.integers(5, 12)),
    window=st.integers(1, 5),
    stride=st.integers(1, 5),
    padding=st.sampled_from(["SAME", "VALID"]),
    levels=st.sampled_from([2, 1000]),
)
def test_value_and_gradient_equal_those_of_jax(size, window, stride, padding, levels):
    # Few levels: many windows hold their largest value more than once.
    values = np.random.default_rng(0).integers(-levels, levels, (2, *size, 3))
    x = jnp.asarray(values, jnp.float32)
    found = compiled(max_pool, x, window, stride, padding)
    expected = compiled(reference, x, window, stride, padding)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_stems_pool_with_explicit_padding(dtype):
    values = -1 - np.random.default_rng(0).random((2, 16, 12, 4))
    x = jnp.asarray(values, dtype)
    padding = ((1, 1), (1, 1))
    found = value_and_gradient(max_pool, x, 3, 2, padding)
    expected = value_and_gradient(reference, x, 3, 2, padding)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == dtype
        np.testing.assert_allclose(
            np.asarray(one, np.float32), np.asarray(other, np.float32), rtol=2e-2
        )


@pytest.mark.parametrize("platform", ["cuda", "cpu"])
def test_no_platform_scatters_the_gradient(platform):
    def loss(x):
        return (max_pool(x, 3, 2, "SAME") ** 2).sum()

    def text_of(function):
        traced = jax.jit(function).trace(jnp.zeros((1, 8, 8, 2)))
        return traced.lower(lowering_platforms=(platform,)).as_text()

    assert "scatter" not in text_of(jax.grad(loss))
    assert ("reduce_window" in text_of(loss)) == (platform == "cuda")


def test_a_window_with_more_places_than_a_byte_can_number():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 40, 38, 2)), jnp.float32)
    found = value_and_gradient(max_pool, x, 17, 9, "SAME")
    expected = value_and_gradient(reference, x, 17, 9, "SAME")
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)
