"""Compiles for a CUDA card on a machine that has none.

The wheels jax-cuda12-plugin and jax-cuda12-pjrt hold the compiler; neither a driver
nor CUDA itself is needed. The memory that a program will take is then XLA's own
plan of its buffers, made in the knowledge of the card's memory. What a running GPU
adds is not in it: cuDNN's scratch space for the algorithms it picks, and fragmentation,
both within what JAX takes of the card, and the CUDA context (some hundred MB) beside
that.

Where these wheels are installed JAX says on every start that it found no driver, so
give them an environment of their own, or a folder:

  pip install --no-deps --target=FOLDER jax-cuda12-plugin jax-cuda12-pjrt
  PYTHONPATH=FOLDER JAX_PLATFORMS=cpu python -m benchmarks.model_costs
"""

import functools
import importlib.util
import re
from typing import Any

import jax
from jax.experimental import topologies

from mammo_jax.models.compiling import gpu_options

PLUGIN = "jax_plugins.xla_cuda12"
# What JAX's allocator takes of a card of 8 GB: three quarters.
MOST_BYTES = 6.44e9
NOT_INSTALLED = (
    "the compiler for CUDA is not installed: give make .cuda-target/.installed, then "
    "JAX_PLATFORMS=cpu PYTHONPATH=.cuda-target before the command"
)

# A card of 8 GB: GeForce RTX 3070, as the CUDA C++ Programming Guide (compute
# capability 8.6) and
# its data sheet describe it.
CARD = """
gpu_device_info {
  cuda_compute_capability { major: 8 minor: 6 }
  device_memory_size: 8589934592
  core_count: 46
  fpus_per_core: 128
  clock_rate_ghz: 1.73
  memory_bandwidth: 448000000000
  l2_cache_size: 4194304
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 1536
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 101376
  shared_memory_per_core: 102400
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 8 }
runtime_version { major: 12 minor: 8 patch: 0 }
device_description_str: "NVIDIA GeForce RTX 3070"
"""
# A card of 8 GB of compute capability 8.9: GeForce RTX 4060, likewise.
ADA = """
gpu_device_info {
  cuda_compute_capability { major: 8 minor: 9 }
  device_memory_size: 8589934592
  core_count: 24
  fpus_per_core: 128
  clock_rate_ghz: 2.46
  memory_bandwidth: 272000000000
  l2_cache_size: 25165824
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 1536
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 101376
  shared_memory_per_core: 102400
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 8 }
runtime_version { major: 12 minor: 8 patch: 0 }
device_description_str: "NVIDIA GeForce RTX 4060"
"""
# A card of compute capability 9.0: H100, likewise.
HOPPER = """
gpu_device_info {
  cuda_compute_capability { major: 9 }
  device_memory_size: 84929347584
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 8 }
runtime_version { major: 12 minor: 8 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""

CARDS = {"GeForce RTX 3070": CARD, "GeForce RTX 4060": ADA, "H100": HOPPER}

# Triton's products are tuned on the card itself. Without one their tiles are guessed,
# which fails for some shapes; cuBLAS has no tiles to guess.
_OPTIONS: dict[str, Any] = {"xla_gpu_enable_triton_gemm": False}


def is_available() -> bool:
    """Whether the wheels that hold the compiler are installed."""
    try:
        return importlib.util.find_spec(PLUGIN) is not None
    except ModuleNotFoundError:
        return False


def _capability(card: str) -> str:
    major, minor = (re.search(rf"{name}: (\d+)", card) for name in ("major", "minor"))
    return f"{major[1] if major else ''}.{minor[1] if minor else 0}"


def mesh(card: str = CARD, number: int = 1) -> jax.sharding.Mesh:
    """A mesh of such cards, which share the images."""
    return topologies.make_mesh(_cards(card, number), (number, 1), ("data", "spatial"))


@functools.cache  # Those of two calls would not be the same cards.
def _cards(card: str, number: int) -> topologies.TopologyDescription:
    return topologies.get_topology_desc(
        platform="cuda", target_config=card, topology=f"1x1x{number}"
    )


def compile_for_cuda(
    function: Any, *arguments: Any, card: str = CARD, number: int = 1
) -> jax.stages.Compiled:
    """Compiles a jitted function for a card.

    Args:
      function: from `jax.jit`.
      arguments: trees of arrays or of `jax.ShapeDtypeStruct`; layouts are kept.
      card: a value of `CARDS`.
      number: cards of the program; what has no sharding is whole on each.
    """
    cards = mesh(card, number)
    here = jax.sharding.NamedSharding(cards, jax.sharding.PartitionSpec())

    def place(x: Any) -> jax.ShapeDtypeStruct:
        sharding = getattr(x, "sharding", None)
        is_here = sharding is not None and sharding.device_set <= {*cards.devices.flat}
        asked = x.format if is_here else here
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=asked)

    placed = jax.tree.map(place, arguments)
    # A program that was kept could not be loaded: that takes the card itself.
    kept = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        options = gpu_options(_capability(card), alone=number == 1) | _OPTIONS
        return function.lower(*placed).compile(compiler_options=options)
    finally:
        jax.config.update("jax_enable_compilation_cache", kept)
