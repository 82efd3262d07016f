"""Runs a program whose convolutions round as a GPU's do: to the 10 bits of TF32.

  python -m benchmarks.tf32 scripts/reproduce.py --preset=phantom --out=runs/again

Everything else is computed as usual, on a CPU.
"""

import contextlib
import functools
import itertools
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32

from mammo_jax.cpu import onednn, xla_convolution

# Bits of a float32's fraction that TF32 has not.
_DROPPED = 13


def round_to_tf32(x: Float32[Array, "..."]) -> Float32[Array, "..."]:
    """Rounds to a fraction of 10 bits, ties to even."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    odd = (bits >> _DROPPED) & 1
    kept = (bits + (2 ** (_DROPPED - 1) - 1) + odd) >> _DROPPED << _DROPPED
    return jax.lax.bitcast_convert_type(kept, jnp.float32)


@contextlib.contextmanager
def rounded_convolutions() -> Iterator[None]:
    """Rounds what convolutions, and their gradients, take as inputs on a CPU."""

    def rounded(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*arrays: Array, **geometry: Any) -> Any:
            # bfloat16 has fewer bits than TF32.
            read = (round_to_tf32(x) if x.dtype == jnp.float32 else x for x in arrays)
            return function(*read, **geometry)

        return call

    with contextlib.ExitStack() as stack:
        for kernels, name in itertools.product(
            (onednn, xla_convolution), ("convolve", "gradients")
        ):
            function = rounded(getattr(kernels, name))
            stack.enter_context(mock.patch.object(kernels, name, function))
        yield


def main() -> None:
    """Runs the program that its arguments name, with the arguments behind it."""
    if len(sys.argv) < 2 or not Path(sys.argv[1]).is_file():
        sys.exit(__doc__)
    sys.argv = sys.argv[1:]
    with rounded_convolutions():
        runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
