"""VGG blocks in bands of rows against the same blocks on the whole image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import with_values
from flax import nnx

from mammo_jax.models import vgg
from mammo_jax.models.vgg import VGGBlock


def make_block(depth, *, remat, dtype=jnp.float32):
    block = with_values(VGGBlock(2, 4, depth, norm=None, dtype=dtype, remat=remat))
    for index in range(1, depth + 1):
        # Zeros would hide that padding comes after the bias of the layer before.
        conv = getattr(block, f"conv{index}")
        conv.bias[...] = jnp.asarray([0.5, -0.5, 1.0, 2.0])
    return block


def outputs_and_gradients(block, x):
    graphdef, params = nnx.split(block)

    def loss(params, x):
        y = nnx.merge(graphdef, params, copy=True)(x, True)
        weights = jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape)
        return (y.astype(jnp.float32) * weights).sum(), y

    gradients, y = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(params, x)
    return y, *jax.tree.leaves(gradients)


def is_in_bands(block, shape):
    graphdef, params = nnx.split(block)

    def forward(params, x):
        return nnx.merge(graphdef, params)(x, True)

    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    return "scan" in str(jax.make_jaxpr(forward)(params, x))


# The last band is full, has padding, or ends in a row that pooling leaves out.
@pytest.mark.parametrize(
    ("depth", "bands", "height"), [(2, 2, 48), (2, 3, 46), (4, 2, 43), (4, 3, 43)]
)
def test_bands_give_the_outputs_and_gradients_of_the_whole_image(
    depth, bands, height, monkeypatch
):
    shape = (2, height, 10, 2)
    x = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
    expected = outputs_and_gradients(make_block(depth, remat=False), x)
    monkeypatch.setattr(vgg, "POSITIONS_AT_ONCE", -(-2 * height * 10 // bands))
    block = make_block(depth, remat=True)
    assert is_in_bands(block, shape)
    for found, wanted in zip(outputs_and_gradients(block, x), expected, strict=True):
        scale = float(jnp.abs(wanted).max())
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6 * scale)


def test_bands_in_bfloat16_round_as_the_whole_image_does(monkeypatch):
    shape = (1, 40, 12, 2)
    x = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.bfloat16)
    options = {"depth": 2, "dtype": jnp.bfloat16}
    expected, *_ = outputs_and_gradients(make_block(remat=False, **options), x)
    monkeypatch.setattr(vgg, "POSITIONS_AT_ONCE", 160)
    found, *_ = outputs_and_gradients(make_block(remat=True, **options), x)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(
        found.astype(jnp.float32), expected.astype(jnp.float32)
    )


def test_an_image_of_the_papers_size_is_one_band():
    block = make_block(2, remat=True)
    assert not is_in_bands(block, (1, 1152, 896, 2))
    assert is_in_bands(block, (1, 4608, 3584, 2))


def test_a_band_is_never_thinner_than_what_its_neighbours_need(monkeypatch):
    shape = (1, 9, 8, 2)
    x = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
    expected, *_ = outputs_and_gradients(make_block(2, remat=False), x)
    monkeypatch.setattr(vgg, "POSITIONS_AT_ONCE", 8)
    found, *_ = outputs_and_gradients(make_block(2, remat=True), x)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
