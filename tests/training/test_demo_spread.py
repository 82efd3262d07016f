"""The benchmark of the demo's spread rounds as TF32 does, where convolutions read."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.demo_spread import round_to_tf32, rounded_convolutions
from mammo_jax.cpu.convolution import convolve


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
