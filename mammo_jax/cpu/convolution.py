"""Convolution by the kernels that are fastest on a platform, with its gradients.

On a CPU with AVX-512, oneDNN convolves (`mammo_jax.cpu.onednn`). Where it is not
installed, on other CPUs, on a mesh of several devices
(`mammo_jax.common.devices.on_mesh`), with negative padding, and for an unknown number
of images, as in a program that is exported, XLA does, with its operations in an order
that it is fast at (`mammo_jax.cpu.xla_convolution`). Every other platform compiles
the plain convolution and its own gradients.
"""

import functools
import itertools
from collections.abc import Sequence

import jax
from jax import lax
from jaxtyping import Array, Float

from mammo_jax.cpu import onednn, xla_convolution
from mammo_jax.cpu.geometry import Geometry


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
    """Convolves as `lax.conv_general_dilated` does on NHWC, without dilation or groups.

    The kernel has the inputs' dtype; padding is as there. Other arguments, which
    `nnx.Conv` passes, are at their defaults.

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
    (top, bottom), (left, right) = padding
    return _convolve(
        inputs, kernel, Geometry((rows, columns), ((top, bottom), (left, right)))
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve(x: Array, kernel: Array, geometry: Geometry) -> Array:
    kernels = onednn if _onednn_can(x, geometry) else xla_convolution
    y: Array = lax.platform_dependent(
        x,
        kernel,
        cpu=functools.partial(kernels.convolve, geometry=geometry),
        default=functools.partial(xla_convolution.plain, geometry=geometry),
    )
    return y


def _onednn_can(x: Array, geometry: Geometry) -> bool:
    if not (onednn.is_faster() and onednn.computes_in(x.dtype)):
        return False
    known = all(isinstance(size, int) for size in x.shape)
    mesh = jax.sharding.get_abstract_mesh()
    alone = mesh.empty or mesh.size == 1
    return known and alone and min(itertools.chain(*geometry.padding)) >= 0


def _forward(
    x: Array, kernel: Array, geometry: Geometry
) -> tuple[Array, tuple[Array, Array]]:
    return _convolve(x, kernel, geometry), (x, kernel)


def _backward(
    geometry: Geometry, kept: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    def plain(x: Array, kernel: Array, gradient: Array) -> tuple[Array, Array]:
        forward = functools.partial(xla_convolution.plain, geometry=geometry)
        of_x, of_kernel = jax.vjp(forward, x, kernel)[1](gradient)
        return of_x, of_kernel

    kernels = onednn if _onednn_can(kept[0], geometry) else xla_convolution
    of_x, of_kernel = lax.platform_dependent(
        *kept,
        gradient,
        cpu=functools.partial(kernels.gradients, geometry=geometry),
        default=plain,
    )
    return of_x, of_kernel


_convolve.defvjp(_forward, _backward)
