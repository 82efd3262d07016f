"""How programs that contain a network are compiled."""

from collections.abc import Callable
from typing import Any

import jax

# On the CPU, XLA gives convolutions and products to a library (YNN) by default. Its
# convolutions run on one thread, its sums over positions beat the loops that XLA would
# write, and it has the only fast products of bfloat16. No other platform reads this.
OPTIONS = {
    "xla_cpu_experimental_ynn_fusion_type": (
        "LIBRARY_FUSION_TYPE_REDUCE,LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
    )
}


def jit_network(function: Callable, **options: Any) -> Any:
    """`jax.jit` for a function that applies a network.

    It must not be called from another compiled function.

    Args:
      function: what is compiled.
      **options: of `jax.jit`.
    """
    return jax.jit(function, compiler_options=OPTIONS, **options)
