"""How programs that contain a network are compiled."""

from collections.abc import Callable
from typing import Any

import jax

# Only a CPU's compiler reads these.
OPTIONS = {
    # XLA gives convolutions and products to a library (YNN) by default. Its
    # convolutions run on one thread, its sums over positions beat the loops that XLA
    # would write, and it has the only fast products of bfloat16.
    "xla_cpu_experimental_ynn_fusion_type": (
        "LIBRARY_FUSION_TYPE_REDUCE,LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
    ),
    # By default every operation comes as early as it can, so that many run at once,
    # and what they make stays in memory until it is needed. Here each operation uses
    # all cores.
    "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
}


def jit_network(function: Callable, **options: Any) -> Any:
    """`jax.jit` for a function that applies a network.

    It must not be called from another compiled function.

    Args:
      function: what is compiled.
      **options: of `jax.jit`.
    """
    return jax.jit(function, compiler_options=OPTIONS, **options)
