"""Max-pooling, with a gradient by comparison.

XLA's own gradient finds the largest value of every window one position after the other
on a CPU, and on a GPU adds up with atomic operations, in an order that changes from run
to run. Here the windows' values are compared as whole arrays, one per place in the
window. The pooling itself is XLA's own, except on a CPU.
"""

import functools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

Pads = tuple[tuple[int, int], tuple[int, int]]


def max_pool(
    x: Float[Array, "batch height width channel"],
    size: int,
    stride: int,
    padding: str | Sequence[tuple[int, int]] = "VALID",
) -> Float[Array, "batch height2 width2 channel"]:
    """Takes the largest value of each square window; padding never wins.

    The first of equal values in a window gets the whole gradient.
    """
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(
            x.shape[1:3], (size, size), (stride, stride), padding
        )
    top_bottom, left_right = padding
    return _max_pool(x, size, stride, (tuple(top_bottom), tuple(left_right)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _max_pool(x: Array, size: int, stride: int, pads: Pads) -> Array:
    largest: Array = lax.platform_dependent(
        x,
        cpu=lambda x: functools.reduce(jnp.maximum, _places(x, size, stride, pads)),
        default=functools.partial(_windowed, size=size, stride=stride, pads=pads),
    )
    return largest


def _forward(
    x: Array, size: int, stride: int, pads: Pads
) -> tuple[Array, tuple[Array, Array]]:
    y = _max_pool(x, size, stride, pads)
    number = jnp.uint8 if size**2 <= 256 else jnp.int32
    # The gradient reads the shape of x alone.
    return y, (x, _first_place(_places(x, size, stride, pads), y).astype(number))


def _backward(
    size: int, stride: int, pads: Pads, kept: tuple[Array, Array], gradient: Array
) -> tuple[Array]:
    x, first = kept
    return (_gradient(x.shape, first, gradient, size, stride, pads),)


_max_pool.defvjp(_forward, _backward)


def _windowed(x: Array, size: int, stride: int, pads: Pads) -> Array:
    padded = jnp.pad(x, ((0, 0), *pads, (0, 0)), constant_values=-jnp.inf)
    largest: Array = nnx.max_pool(  # type: ignore[no-untyped-call]
        padded, window_shape=(size, size), strides=(stride, stride)
    )
    return largest


def _places(x: Array, size: int, stride: int, pads: Pads) -> Iterator[Array]:
    """Yields the values at each place of all windows, in the result's shape."""
    padded = _pad(x, -jnp.inf, pads)
    rows, columns = (
        (length - size) // stride * stride + 1 for length in padded.shape[1:3]
    )
    for row in range(size):
        for column in range(size):
            yield padded[
                :, row : row + rows : stride, column : column + columns : stride
            ]


def _first_place(places: Iterator[Array], largest: Array) -> Array:
    """Returns the first place in each window that holds its largest value."""
    values = list(places)
    first = jnp.full(largest.shape, len(values) - 1, jnp.int32)
    for place in reversed(range(len(values) - 1)):
        first = jnp.where(values[place] == largest, place, first)
    return first


def _pad(x: Array, value: float, pads: Sequence[tuple[int, int]]) -> Array:
    edges = ((0, 0, 0), *((*pad, 0) for pad in pads), (0, 0, 0))
    return lax.pad(x, jnp.asarray(value, x.dtype), edges)


def _gradient(
    shape: Sequence[int],
    first: Array,
    gradient: Array,
    size: int,
    stride: int,
    pads: Pads,
) -> Array:
    """Returns the input's gradient: what every place of all windows sends back.

    The positions of the input fall into `stride` x `stride` phases; a place of the
    window always meets the same one.
    """
    reach = (size - 1) // stride
    exact = gradient.astype(jnp.float32)
    phases = [[jnp.float32(0)] * stride for _ in range(stride)]
    for place in range(size**2):
        row, column = divmod(place, size)
        shift = [(k // stride, reach - k // stride) for k in (row, column)]
        sent = _pad(jnp.where(first == place, exact, 0), 0.0, shift)
        row, column = row % stride, column % stride
        phases[row][column] = phases[row][column] + sent
    batch, rows, columns, channels = gradient.shape
    plane = (batch, rows + reach, columns + reach, channels)
    planes = jnp.stack(
        [
            jnp.stack([jnp.broadcast_to(phase, plane) for phase in row], axis=3)
            for row in phases
        ],
        axis=2,
    )
    joined = planes.reshape(batch, plane[1] * stride, plane[2] * stride, channels)
    # The edges are cut to the input; no window sees what the sum lacks there.
    edges = [
        (-pad[0], length + pad[0] - joined.shape[axis])
        for axis, pad, length in zip((1, 2), pads, shape[1:3], strict=True)
    ]
    return _pad(joined, 0.0, edges).astype(gradient.dtype)
