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
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies

from benchmarks.pages import split_at_markers
from mammo_jax.common.command_line import make_parser
from mammo_jax.common.errors import UserError
from mammo_jax.models.compiling import gpu_options

PLUGIN = "jax_plugins.xla_cuda12"
# What JAX's allocator takes of a card of 8 GB: three quarters.
MOST_BYTES = 6.44e9
NOT_INSTALLED = (
    "the compiler for CUDA is not installed: give make .cuda-target/.installed, then "
    "JAX_PLATFORMS=cpu PYTHONPATH=.cuda-target before the command"
)

# Cards as the CUDA C++ Programming Guide (by compute capability) and their data sheets
# describe them.
_DESCRIPTION = """
gpu_device_info {{
  cuda_compute_capability {{ major: {major} minor: {minor} }}
  device_memory_size: {memory}
  core_count: {cores}
  fpus_per_core: 128
  clock_rate_ghz: {gigahertz}
  memory_bandwidth: {bandwidth}
  l2_cache_size: {cache}
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: {threads}
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: {most_shared}
  shared_memory_per_core: {shared}
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 8 }}
runtime_version {{ major: 12 minor: 8 patch: 0 }}
device_description_str: "{name}"
"""
# Threads and shared memory of a core.
_OF_8X = {"threads": 1536, "most_shared": 101376, "shared": 102400}
_OF_9X = {"threads": 2048, "most_shared": 232448, "shared": 233472}
CARD = _DESCRIPTION.format(
    name="NVIDIA GeForce RTX 3070",
    major=8,
    minor=6,
    memory=8589934592,
    cores=46,
    gigahertz=1.73,
    bandwidth=448000000000,
    cache=4194304,
    **_OF_8X,
)
ADA = _DESCRIPTION.format(
    name="NVIDIA GeForce RTX 4060",
    major=8,
    minor=9,
    memory=8589934592,
    cores=24,
    gigahertz=2.46,
    bandwidth=272000000000,
    cache=25165824,
    **_OF_8X,
)
HOPPER = _DESCRIPTION.format(
    name="NVIDIA H100 80GB HBM3",
    major=9,
    minor=0,
    memory=84929347584,
    cores=132,
    gigahertz=1.98,
    bandwidth=3352320000000,
    cache=52428800,
    **_OF_9X,
)
CARDS = {"GeForce RTX 3070": CARD, "GeForce RTX 4060": ADA, "H100": HOPPER}

# Triton's products are tuned on the card itself. Without one their tiles are guessed,
# which fails for some shapes; cuBLAS has no tiles to guess.
_OPTIONS: dict[str, Any] = {"xla_gpu_enable_triton_gemm": False}


def parse_page(description: str | None, marker: str) -> Path | None:
    """The page of a command that compiles and may write a table into a page.

    Raises:
      UserError: there is no compiler, or the page has no such markers.
    """
    parser = make_parser(description)
    parser.add_argument(
        "--page", type=Path, help="write the table between the markers of this file"
    )
    page: Path | None = parser.parse_args().page
    if not is_available():
        raise UserError(NOT_INSTALLED)
    if page:
        split_at_markers(page, marker)  # Before the minutes of compiling.
    return page


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
