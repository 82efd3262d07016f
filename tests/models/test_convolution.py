"""Convolution and its gradients against JAX's own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from mammo_jax.models.convolution import convolve

NHWC = ("NHWC", "HWIO", "NHWC")


def plain(x, kernel, strides, padding):
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=NHWC)


def normal(seed, *shape, dtype=jnp.float32):
    values = np.random.default_rng(seed).normal(size=shape)
    return jnp.asarray(values, dtype)


def value_and_gradients(function, x, kernel, strides, padding):
    y, pull = jax.vjp(lambda x, k: function(x, k, strides, padding), x, kernel)
    return (y, *pull(normal(3, *y.shape, dtype=y.dtype)))


def assert_close(found, expected, tolerance):
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
        np.testing.assert_allclose(one, other, atol=tolerance * np.abs(other).max())


@st.composite
def kernels_and_paddings(draw):
    """Kernel sizes, and paddings that leave something to see to every window."""
    size = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    pads = tuple(tuple(draw(st.integers(0, k - 1)) for _ in "ab") for k in size)
    return size, draw(st.sampled_from(["SAME", "VALID", pads]))


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(3, 9), st.integers(3, 9)),
    kernel_and_padding=kernels_and_paddings(),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    batch=st.integers(1, 2),
)
def test_value_and_gradients_equal_those_of_jax(
    size, kernel_and_padding, strides, batch
):
    kernel_size, padding = kernel_and_padding
    x, kernel = normal(0, batch, *size, 2), normal(1, *kernel_size, 2, 3)
    found = value_and_gradients(convolve, x, kernel, strides, padding)
    expected = value_and_gradients(plain, x, kernel, strides, padding)
    assert_close(found, expected, 1e-5)


LAYERS = {
    "stem": ((2, 64, 48, 3), (7, 7, 3, 8), 2, "SAME"),
    "stem, padded": ((2, 64, 48, 3), (7, 7, 3, 8), 2, ((3, 3), (3, 3))),
    "3x3": ((2, 28, 20, 16), (3, 3, 16, 24), 1, "SAME"),
    "3x3, strided": ((2, 28, 20, 16), (3, 3, 16, 24), 2, ((1, 1), (1, 1))),
    "1x1": ((2, 28, 20, 16), (1, 1, 16, 24), 1, "VALID"),
    "1x1, strided": ((2, 28, 21, 16), (1, 1, 16, 24), 2, "VALID"),
    "1x1, its sum in parts": ((2, 64, 48, 16), (1, 1, 16, 24), 1, "VALID"),
}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.bfloat16, 2e-2)]
)
def test_layers_of_the_networks_equal_those_of_jax(layer, dtype, tolerance):
    shape, kernel_shape, stride, padding = LAYERS[layer]
    x = normal(0, *shape, dtype=dtype)
    kernel = normal(1, *kernel_shape, dtype=dtype)
    strides = (stride, stride)
    found = value_and_gradients(convolve, x, kernel, strides, padding)
    expected = value_and_gradients(plain, x, kernel, strides, padding)
    assert_close(found, expected, tolerance)


def loop_over_microbatches(function, x, kernel, strides, padding):
    def add(total, micro):
        value = jax.grad(lambda k: (function(micro, k, strides, padding) ** 2).sum())
        return total + value(kernel), None

    return lax.scan(add, jnp.zeros_like(kernel), x)[0]


@pytest.mark.parametrize("layer", LAYERS)
def test_a_loop_over_microbatches_has_the_same_gradient(layer):
    shape, kernel_shape, stride, padding = LAYERS[layer]
    x, kernel = normal(0, 2, *shape), normal(1, *kernel_shape)
    found = loop_over_microbatches(convolve, x, kernel, (stride, stride), padding)
    expected = loop_over_microbatches(plain, x, kernel, (stride, stride), padding)
    assert_close([found], [expected], 1e-5)


def operations(platform, function, layer):
    """The convolutions and products that a platform's compiler is given."""
    shape, kernel_shape, stride, padding = LAYERS[layer]

    def loss(x, kernel):
        return (function(x, kernel, (stride, stride), padding) ** 2).sum()

    traced = jax.jit(jax.grad(loss, (0, 1))).trace(
        jnp.zeros(shape), jnp.zeros(kernel_shape)
    )
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    kinds = ("stablehlo.convolution", "stablehlo.dot_general")
    return sorted(
        line.split("=", 1)[1].split("(", 1)[1].split(",", 2)[-1]
        for line in text.splitlines()
        if any(kind in line for kind in kinds)
    )


@pytest.mark.parametrize("layer", LAYERS)
def test_a_gpu_gets_the_plain_convolution_and_its_gradients(layer):
    expected = operations("cuda", plain, layer)
    assert operations("cuda", convolve, layer) == expected
    assert operations("cpu", convolve, layer) != expected


def test_it_can_be_recomputed_in_the_backward_pass():
    shape, kernel_shape, stride, padding = LAYERS["3x3, strided"]
    x, kernel = normal(0, *shape), normal(1, *kernel_shape)
    layer = functools.partial(convolve, strides=(stride, stride), padding=padding)
    found = jax.grad(lambda k: (jax.checkpoint(layer)(x, k) ** 2).sum())(kernel)
    expected = jax.grad(lambda k: (plain(x, k, (stride, stride), padding) ** 2).sum())(
        kernel
    )
    assert_close([found], [expected], 1e-5)
