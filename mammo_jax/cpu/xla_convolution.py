"""Convolutions and their gradients in the form that XLA's CPU compiler is fast at.

XLA calls its fast kernels for convolutions whose dimensions are in the usual order
(batch, rows, columns, channels). The transposed ones that automatic differentiation
writes are brought into that order only outside of loops; inside the loop over
microbatches the gradients of a 3x3 kernel ran at a fiftieth of the speed. So the
gradients are written here in the usual order. A 1x1 convolution is a matrix product.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from mammo_jax.cpu.geometry import LAYOUT, Geometry, Padding, Sizes

# Positions above which a matrix product that sums over them is taken in parts: XLA's
# CPU kernels share only the rows and columns of the result among the cores.
_POSITIONS_PER_PART = 1024
_PARTS = 4


def convolve(x: Array, kernel: Array, geometry: Geometry) -> Array:
    """Convolves (batch, rows, columns, in) with a kernel (rows, columns, in, out)."""
    if _is_pointwise(kernel, geometry.padding):
        return _product(x, kernel, geometry.strides)
    return plain(x, kernel, geometry)


def plain(x: Array, kernel: Array, geometry: Geometry) -> Array:
    """Convolves by XLA's own operation."""
    return lax.conv_general_dilated(
        x, kernel, geometry.strides, geometry.padding, dimension_numbers=LAYOUT
    )


def gradients(
    x: Array, kernel: Array, gradient: Array, geometry: Geometry
) -> tuple[Array, Array]:
    """Returns the gradients by `x` and by `kernel` from the one by the result."""
    strides, padding = geometry
    if _is_pointwise(kernel, padding):
        return _product_gradients(x, kernel, gradient, strides)
    size, kernel_size = (x.shape[1], x.shape[2]), (kernel.shape[0], kernel.shape[1])
    return (
        _input_gradient(size, kernel, gradient, strides, padding),
        _kernel_gradient(x, kernel_size, gradient, strides, padding),
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
    """Multiplies with sums in float32; XLA has no fast bfloat16 ones on the CPU."""
    exact = jnp.einsum(subscripts, left, right, preferred_element_type=jnp.float32)
    return exact.astype(left.dtype)


def _input_gradient(
    size: Sizes, kernel: Array, gradient: Array, strides: Sizes, padding: Padding
) -> Array:
    """Convolves the gradient, spread by the strides, with the kernel turned round."""
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
        dimension_numbers=LAYOUT,
    )


def _kernel_gradient(
    x: Array, size: Sizes, gradient: Array, strides: Sizes, padding: Padding
) -> Array:
    """Convolves the input, its channels as a batch, with the gradient as a kernel."""
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
        dimension_numbers=LAYOUT,
    )
    return by_channel.transpose(1, 2, 0, 3)
