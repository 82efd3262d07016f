"""The first values of a network's variables: Keras's two initialisers, and constants.

A network is built of variables that are not drawn yet, which takes a moment; values
are drawn where they are needed, with NumPy. With JAX, XLA would compile a program for
every shape, and give other numbers on other kinds of devices.
"""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, UInt32

# Standard deviation of a unit normal that is cut off at two.
_TRUNCATED_STD = 0.87962566103423978
_CUT_OFF = 2.0

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


class Keys:
    """Numbers a network's variables in the order in which they are made.

    Takes the place of an `nnx.Rngs`, whose keys have the same numbers.
    """

    def __init__(self) -> None:
        self._numbers = itertools.count()

    def params(self) -> int:
        """The next number."""
        return next(self._numbers)


class Undrawn(jax.ShapeDtypeStruct):
    """Shape and dtype of a variable that has no value yet, and where it will come from.

    Attributes:
      number: of its key; see `Keys`.
      draw: from a random generator and the shape to the value.
    """

    def __init__(self, shape: tuple[int, ...], dtype: Any, number: int, draw: Draw):
        super().__init__(shape, dtype)
        self.number, self.draw = number, draw


def draw_values(seed: int, *groups: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Groups of variables with first values (NumPy) in place of those `Undrawn`.

    A variable's value depends on the seed, its number and its shape alone.
    """
    undrawn = [x for group in groups for x in group.values() if isinstance(x, Undrawn)]
    # The root outside of what is compiled, which takes no seed above 2**31.
    root = jax.random.key(seed)
    keys = iter(
        np.asarray(_keys(root, np.array([x.number for x in undrawn], np.int32)))
    )
    return [
        {
            name: _draw(x, next(keys)) if isinstance(x, Undrawn) else x
            for name, x in group.items()
        }
        for group in groups
    ]


def _draw(x: Undrawn, key: np.ndarray) -> np.ndarray:
    return x.draw(np.random.default_rng(key), x.shape).astype(x.dtype)


@jax.jit
def _keys(root: Array, numbers: Int[Array, " keys"]) -> UInt32[Array, "keys 2"]:
    folded = jax.vmap(lambda number: jax.random.fold_in(root, number))(numbers)
    return jax.random.key_data(folded)


def _undrawn(draw: Draw) -> Callable[..., Any]:
    """An initialiser in the sense of Flax, whose key is one of `Keys`."""

    def initializer(
        key: int, shape: tuple[int, ...], dtype: Any = jnp.float32
    ) -> Undrawn:
        return Undrawn(shape, dtype, key, draw)

    return initializer


def _uniform(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    fan_in, fan_out = _fans(shape)
    limit = np.sqrt(3) * np.sqrt(2 / (fan_in + fan_out))
    return rng.uniform(-limit, limit, shape)


def _truncated_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    import scipy.special  # Late: a third of a second that a trained model needs not.

    std = np.sqrt(2 / _fans(shape)[0])
    low, high = scipy.special.ndtr([-_CUT_OFF, _CUT_OFF])
    return scipy.special.ndtri(rng.uniform(low, high, shape)) * std / _TRUNCATED_STD


def _fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """The inputs and outputs that a unit has."""
    receptive = int(np.prod(shape[:-2]))
    return receptive * shape[-2], receptive * shape[-1]


def _constant(value: float) -> Draw:
    return lambda rng, shape: np.full(shape, value)


# Of a constant that takes no number.
NO_KEY = 0
# As `jax.nn.initializers.glorot_uniform` and `he_normal`.
GLOROT_UNIFORM, HE_NORMAL = _undrawn(_uniform), _undrawn(_truncated_normal)
ZEROS, ONES = _undrawn(_constant(0.0)), _undrawn(_constant(1.0))
