"""The checker that reads every annotation of the packages while the tests run."""

from typing import Any

import jax
from beartype import BeartypeConf, FrozenDict, beartype

# JAX and optax pass shapes and masks through what is declared as a tree of arrays,
# while they trace it; static checkers do not see that, and need not.
_TRACED = {dict[str, jax.Array]: dict[str, Any]}

# An int may stand where a float is declared, as for every type checker (PEP 484).
checked = beartype(
    conf=BeartypeConf(is_pep484_tower=True, hint_overrides=FrozenDict(_TRACED))
)
