"""Compilation of programs that contain a network."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax

from mammo_jax.common.errors import UserError

_CPU = {
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
# This scheduler moves operations to hide what devices send one another. On a single
# device there is nothing to hide, and from JAX 0.11 on it doubles the memory of
# recomputed layers on a card of compute capability 9.0: ResNet50 at 4608x3584 is
# planned with 11.2 GB, and without it with 5.5 GB.
_ONE_GPU = {"xla_gpu_enable_latency_hiding_scheduler": False}
# By the first number of the compute capability. On 8.x float32's convolutions would be
# laid out with channels first, and the units for TF32 read channels last. No card has
# timed it yet: `benchmarks.card` does, with this table and without.
BY_CAPABILITY: dict[str, dict[str, Any]] = {"8": {"xla_gpu_force_conv_nhwc": True}}
DETERMINISTIC = {"xla_gpu_exclude_nondeterministic_ops": True}


def compiler_options(deterministic: bool = False) -> dict[str, Any]:
    """Returns the options of XLA that fit the devices of this process."""
    if jax.default_backend() == "cpu":
        return dict(_CPU)
    if jax.default_backend() != "gpu":
        return {}
    capability = getattr(jax.local_devices()[0], "compute_capability", "")
    options = gpu_options(capability, alone=jax.device_count() == 1)
    return options | (DETERMINISTIC if deterministic else {})


def gpu_options(capability: str, *, alone: bool) -> dict[str, Any]:
    """Returns the options for cards of a compute capability, such as "8.6".

    AMD's cards have names there, such as "gfx90a". `alone`: the only device of a run.
    """
    own = BY_CAPABILITY.get(capability.partition(".")[0], {})
    return own | (_ONE_GPU if alone else {})


def peak_bytes(compiled: jax.stages.Compiled) -> int:
    """Returns the memory that a compiled program is planned to take while it runs.

    Arguments, results and the one block that XLA plans everything else into. Results
    that take an argument's place are not counted again.
    """
    memory: Any = compiled.memory_analysis()
    return int(
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
    )


@contextlib.contextmanager
def explained_memory(compiled: Any) -> Iterator[None]:
    """Says, where a device has too little memory for a step, what helps.

    Args:
      compiled: the step; None while it is being compiled.

    Raises:
      UserError: that is so; with the step's plan, if there is one.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        plan = ""
        if isinstance(compiled, jax.stages.Compiled):
            plan = f" (planned: {peak_bytes(compiled) / 1e9:.1f} GB)"
        raise UserError(
            f"the device has too little memory for a step{plan}; in this order, give "
            "--config.accum_steps=2 (or more, up to --config.batch_size), "
            "--config.model.compute_dtype=bfloat16, --config.model.remat=True, a "
            "smaller --config.batch_size"
        ) from error


def jit_network(
    function: Callable[..., Any], *, deterministic: bool = False, **options: Any
) -> Any:
    """Compiles a function of arrays that applies a network, as `jax.jit` does.

    It must not be called from another compiled function. With `deterministic` a GPU
    gets no operation whose result may change from call to call.
    """
    options["compiler_options"] = compiler_options(deterministic)
    return jax.jit(function, **options)
