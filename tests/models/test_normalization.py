"""Batch normalisation against Flax's own and its automatic gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import with_values
from flax import nnx

from mammo_jax.models.normalization import BatchNorm

EPSILON, MOMENTUM = 1e-3, 0.9


def draw(seed, *shape, mean=0.0):
    values = np.random.default_rng(seed).normal(mean, 1, shape)
    return jnp.asarray(values, jnp.float32)


def reference(channels):
    return nnx.BatchNorm(
        channels,
        epsilon=EPSILON,
        momentum=MOMENTUM,
        use_fast_variance=False,
        rngs=nnx.Rngs(0),
    )


def ours(channels):
    return with_values(BatchNorm(channels, epsilon=EPSILON, momentum=MOMENTUM))


def outcome(norm, call, x):
    """Output, gradients of input, scale and bias, and new running statistics."""
    norm.scale[...], norm.bias[...] = draw(1, 3), draw(2, 3)
    graphdef, state = nnx.split(norm)
    weights = draw(4, *x.shape)

    def loss(x, scale, bias):
        copy = nnx.merge(graphdef, state, copy=True)
        copy.scale[...], copy.bias[...] = scale, bias
        y = jnp.tanh(call(copy, x))
        return (y * weights).sum(), (y, copy.mean[...], copy.var[...])

    arguments = (x, norm.scale[...], norm.bias[...])
    gradients, rest = jax.grad(loss, (0, 1, 2), has_aux=True)(*arguments)
    return *gradients, *rest


@pytest.mark.parametrize("shape", [(4, 6, 5, 3), (16, 3), (2, 3)])
@pytest.mark.parametrize("mean", [0.0, 30.0])
@pytest.mark.parametrize("train", [True, False])
def test_it_equals_flax_with_its_gradients_and_statistics(shape, mean, train):
    x = draw(0, *shape, mean=mean)
    found = outcome(ours(3), lambda norm, x: norm(x, train), x)
    expected = outcome(
        reference(3), lambda norm, x: norm(x, use_running_average=not train), x
    )
    # Two batches of two values: the gradient is all but zero, what is left rounding.
    scale = np.abs(np.asarray(expected[0])).max()
    for one, other in zip(found, expected, strict=True):
        size = max(np.abs(np.asarray(other)).max(), scale)
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4 * size)


def test_what_is_kept_for_the_backward_pass_has_the_dtype_of_the_input():
    norm = ours(3)
    x = draw(0, 8, 8, 8, 3).astype(jnp.bfloat16)
    graphdef, state = nnx.split(norm)

    def call(x):
        return nnx.merge(graphdef, state, copy=True)(x, True)

    y, pull = jax.vjp(call, x)
    assert y.dtype == jnp.bfloat16
    large = [leaf for leaf in jax.tree.leaves(pull) if leaf.size >= x.size]
    assert [leaf.dtype for leaf in large] == [jnp.bfloat16]
    assert pull(y)[0].dtype == jnp.bfloat16


def test_batch_norm_of_bfloat16_keeps_float32_statistics():
    # bfloat16 has 8 bits: it cannot hold a mean of 100.3 better than to 0.25.
    values = np.random.default_rng(0).normal(100.3, 1, (4, 64, 64, 2))
    x = jnp.asarray(values, jnp.bfloat16)
    norm = with_values(BatchNorm(2, epsilon=1e-3, momentum=0.0))
    assert norm(x, True).dtype == jnp.bfloat16
    exact = np.asarray(x, np.float64)
    np.testing.assert_allclose(norm.mean[...], exact.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(norm.var[...], exact.var((0, 1, 2)), rtol=1e-3)
    assert norm.mean[...].dtype == jnp.float32
    assert norm(x, False).dtype == jnp.bfloat16


def test_devices_normalise_by_their_own_images_if_asked_to(monkeypatch):
    x = draw(3, 4, 5, 6, 3, mean=2.0)
    whole, first, second = ours(3), ours(3), ours(3)
    whole.per_device = True
    mesh = jax.sharding.AbstractMesh((2, 1), ("data", "spatial"))
    monkeypatch.setattr(jax.sharding, "get_abstract_mesh", lambda: mesh)
    found = whole(x, train=True)
    expected = jnp.concatenate([first(x[:2], train=True), second(x[2:], train=True)])
    np.testing.assert_allclose(found, expected, atol=1e-6)
    for name in ("mean", "var"):
        moved, *apart = (getattr(n, name)[...] for n in (whole, first, second))
        np.testing.assert_allclose(moved, sum(apart) / 2, atol=1e-6)


def test_per_device_changes_nothing_on_one_device():
    x = draw(3, 4, 5, 6, 3, mean=2.0)
    plain, per_device = ours(3), ours(3)
    per_device.per_device = True
    np.testing.assert_array_equal(plain(x, train=True), per_device(x, train=True))
