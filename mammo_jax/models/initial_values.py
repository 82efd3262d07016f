"""The first values of a network's variables: a table from their names to their rules.

A network is built without values, which takes a moment; values are drawn where they are
needed, with NumPy. With JAX, XLA would compile a program for every shape, and give
other numbers on other kinds of devices.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from mammo_jax.models.model_config import ModelConfig

Shape = tuple[int, ...]
Values = Float[np.ndarray, "..."]
Rule = Callable[[np.random.Generator, Shape], Values]
# Keras cuts a normal distribution off at two standard deviations.
_CUT_OFF = 2.0


def glorot_uniform(rng: np.random.Generator, shape: Shape) -> Values:
    """Draws evenly from +-sqrt(6 / (fan in + fan out)), Keras's default."""
    limit = np.float32(np.sqrt(6 / sum(_fans(shape))))
    return limit * (2 * rng.random(shape, np.float32) - 1)


def he_normal(rng: np.random.Generator, shape: Shape) -> Values:
    """Draws from a normal of variance 2 / fan in, cut off at two deviations.

    As Keras 2.0.8 does, which does not make up for the variance that the cut takes
    away: the values' standard deviation is 0.88 times that of the normal.
    """
    values = rng.standard_normal(shape, np.float32)
    while (outside := np.abs(values) > _CUT_OFF).any():
        values[outside] = rng.standard_normal(np.count_nonzero(outside), np.float32)
    return values * np.float32(np.sqrt(2 / _fans(shape)[0]))


def _fans(shape: Shape) -> tuple[int, int]:
    """Counts the inputs and the outputs of a unit."""
    receptive = int(np.prod(shape[:-2]))
    return receptive * shape[-2], receptive * shape[-1]


# (pattern that is searched in a variable's path, rule); the first match counts.
RULES: tuple[tuple[str, Rule], ...] = (
    (r"^top/block\d+/.+/kernel$", he_normal),
    (r"kernel$", glorot_uniform),
    (r"(scale|var)$", lambda rng, shape: np.ones(shape, np.float32)),
    (r"(bias|mean)$", lambda rng, shape: np.zeros(shape, np.float32)),
)
# Residual units are identities as long as their last normalisation scales by zero.
_ZERO_INIT_RESIDUAL: tuple[str, Rule] = (
    r"/unit\d+/bn3/scale$",
    lambda rng, shape: np.zeros(shape, np.float32),
)


def draw_values(
    config: ModelConfig, seed: int, *groups: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Draws the variables that have no value yet, with NumPy.

    A variable's value depends on the seed (0 or more), its path and its shape alone,
    and is the same on every device. Of the groups, a network's variables by their
    paths, those that are a `jax.ShapeDtypeStruct` are drawn, the others kept.

    Raises:
      ValueError: no rule's pattern matches a path.
    """
    rules = (_ZERO_INIT_RESIDUAL,) * config.zero_init_residual + RULES

    def value(path: str, variable: Any) -> Any:
        if not isinstance(variable, jax.ShapeDtypeStruct):
            return variable
        name = int.from_bytes(hashlib.sha256(path.encode()).digest()[:16], "little")
        rng = np.random.default_rng((seed, name))
        rule = next((rule for pattern, rule in rules if re.search(pattern, path)), None)
        if rule is None:
            raise ValueError(f"variable {path!r} has no rule for its first value")
        return rule(rng, variable.shape).astype(variable.dtype)

    return [{path: value(path, x) for path, x in group.items()} for group in groups]
