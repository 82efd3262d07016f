"""Convolution, with gradients in the form that XLA's CPU compiler is fast at.

On the CPU, XLA calls its fast kernels for convolutions whose dimensions are in the
usual order (batch, rows, columns, channels). The transposed ones that automatic
differentiation writes are brought into that order only outside of loops; inside the
loop over microbatches the gradients of a 3x3 kernel ran at a fiftieth of the speed.
So the gradients are written here in the usual order. A 1x1 convolution is a matrix
product there. Every other platform compiles the plain convolution and its own
gradients.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

_NHWC = ("NHWC", "HWIO", "NHWC")

# Rows of a matrix product that sums over positions: with more, its sum is taken in
# parts, since XLA's CPU kernels share only the rows and columns of the result.
_POSITIONS_PER_PART = 1024
_PARTS = 4

Sizes = tuple[int, int]
Padding = tuple[tuple[int, int], tuple[int, int]]


def convolve(
    inputs: Float[Array, "batch height width channel"],
    kernel: Float[Array, "rows columns channel channel2"],
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    *,
    feature_group_count: int = 1,
    lhs_dilation: Sequence[int] = (1, 1),
    rhs_dilation: Sequence[int] = (1, 1),
    **_: object,
) -> Float[Array, "batch height2 width2 channel2"]:
    """`lax.conv_general_dilated` on NHWC, without dilation or groups.

    Args:
      inputs: the images or features.
      kernel: of the same dtype.
      strides: of rows and columns.
      padding: as in `lax.conv_general_dilated`.
      feature_group_count: 1.
      lhs_dilation: 1 and 1.
      rhs_dilation: 1 and 1.
      **_: what else `nnx.Conv` passes, at its defaults.

    Raises:
      ValueError: there are groups or dilations.
    """
    if feature_group_count != 1 or {*lhs_dilation, *rhs_dilation} != {1}:
        raise ValueError("convolve has neither groups nor dilations")
    rows, columns = strides
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(
            inputs.shape[1:3], kernel.shape[:2], (rows, columns), padding
        )
    top_bottom, left_right = padding
    return _convolve(
        inputs, kernel, (rows, columns), (tuple(top_bottom), tuple(left_right))
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve(x: Array, kernel: Array, strides: Sizes, padding: Padding) -> Array:
    plain = functools.partial(_plain, strides=strides, padding=padding)
    if not _is_pointwise(kernel, padding):
        return plain(x, kernel)
    product = functools.partial(_product, strides=strides)
    return lax.platform_dependent(x, kernel, cpu=product, default=plain)


def _forward(x: Array, kernel: Array, strides: Sizes, padding: Padding):
    return _convolve(x, kernel, strides, padding), (x, kernel)


def _backward(
    strides: Sizes, padding: Padding, kept: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    def plain(x: Array, kernel: Array, gradient: Array) -> tuple[Array, Array]:
        forward = functools.partial(_plain, strides=strides, padding=padding)
        return jax.vjp(forward, x, kernel)[1](gradient)

    def ordered(x: Array, kernel: Array, gradient: Array) -> tuple[Array, Array]:
        if _is_pointwise(kernel, padding):
            return _product_gradients(x, kernel, gradient, strides)
        return (
            _input_gradient(
                (x.shape[1], x.shape[2]), kernel, gradient, strides, padding
            ),
            _kernel_gradient(
                x, (kernel.shape[0], kernel.shape[1]), gradient, strides, padding
            ),
        )

    return lax.platform_dependent(*kept, gradient, cpu=ordered, default=plain)


_convolve.defvjp(_forward, _backward)


def _plain(x: Array, kernel: Array, strides: Sizes, padding: Padding) -> Array:
    return lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=_NHWC
    )


def _is_pointwise(kernel: Array, padding: Padding) -> bool:
    return kernel.shape[:2] == (1, 1) and padding == ((0, 0), (0, 0))


def _product(x: Array, kernel: Array, strides: Sizes) -> Array:
    rows, columns = strides
    return _dot("bhwi,io->bhwo", x[:, ::rows, ::columns], kernel[0, 0])


def _product_gradients(
    x: Array, kernel: Array, gradient: Array, strides: Sizes
) -> tuple[Array, Array]:
    rows, columns = strides
    seen = x[:, ::rows, ::columns]
    of_seen = _dot("bhwo,io->bhwi", gradient, kernel[0, 0])
    beyond = [(x.shape[axis] - 1) % strides[axis - 1] for axis in (1, 2)]
    of_x = lax.pad(
        of_seen,
        jnp.zeros((), x.dtype),
        (
            (0, 0, 0),
            (0, beyond[0], rows - 1),
            (0, beyond[1], columns - 1),
            (0, 0, 0),
        ),
    )
    positions = seen.size // seen.shape[-1]
    whole_parts = positions % _PARTS == 0 and positions >= _PARTS * _POSITIONS_PER_PART
    parts = _PARTS if whole_parts else 1
    of_kernel = jnp.einsum(
        "pni,pno->pio",
        seen.reshape(parts, -1, seen.shape[-1]),
        gradient.reshape(parts, -1, gradient.shape[-1]),
        preferred_element_type=jnp.float32,
    ).sum(0)
    return of_x, of_kernel.astype(kernel.dtype)[None, None]


def _dot(subscripts: str, left: Array, right: Array) -> Array:
    """A product whose sums are float32; XLA has no fast bfloat16 ones on the CPU."""
    exact = jnp.einsum(subscripts, left, right, preferred_element_type=jnp.float32)
    return exact.astype(left.dtype)


def _input_gradient(
    size: Sizes, kernel: Array, gradient: Array, strides: Sizes, padding: Padding
) -> Array:
    """The gradient spread by the strides, convolved with the kernel turned round."""
    pads = []
    for axis in (0, 1):
        before = kernel.shape[axis] - 1 - padding[axis][0]
        spread = (gradient.shape[axis + 1] - 1) * strides[axis] + 1
        pads.append((before, size[axis] + kernel.shape[axis] - 1 - spread - before))
    return lax.conv_general_dilated(
        gradient,
        kernel[::-1, ::-1].swapaxes(2, 3),
        (1, 1),
        pads,
        lhs_dilation=strides,
        dimension_numbers=_NHWC,
    )


def _kernel_gradient(
    x: Array, size: Sizes, gradient: Array, strides: Sizes, padding: Padding
) -> Array:
    """The input, its channels as a batch, convolved with the gradient as a kernel."""
    pads = [(0, 0, 0)]
    for axis in (0, 1):
        before = padding[axis][0]
        seen = (gradient.shape[axis + 1] - 1) * strides[axis] + size[axis]
        pads.append((before, seen - before - x.shape[axis + 1], 0))
    padded = lax.pad(x, jnp.zeros((), x.dtype), (*pads, (0, 0, 0)))
    by_channel = lax.conv_general_dilated(
        padded.transpose(3, 1, 2, 0),
        gradient.transpose(1, 2, 0, 3),
        (1, 1),
        "VALID",
        rhs_dilation=strides,
        dimension_numbers=_NHWC,
    )
    return by_channel.transpose(1, 2, 0, 3)
