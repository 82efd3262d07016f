"""Devices of a run: a mesh over images (`data`) and their rows (`spatial`).

Every process reads its own images only. Within an image the rows may be spread over
the devices of one process; XLA exchanges the borders.
"""

import functools
import io
import logging
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.experimental.layout import Format, Layout
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mammo_jax.common.errors import UserError, refuse

T = TypeVar("T")
_log = logging.getLogger(__name__)
# Convolutions of a GPU read a kernel (height, width, input, output) output by output,
# channels last as their images. Where XLA has channels first, (3, 2, 0, 1) is better.
KERNELS_OF_A_GPU = (3, 0, 1, 2)
# Ampere and later multiply TF32 and bfloat16 in units of their own.
_LEAST_CAPABILITY = 8.0
_GPU_HELP = (
    "an NVIDIA GPU needs the extra cuda12 (driver 525 or newer, see nvidia-smi) or "
    "cuda13 (580 or newer), and JAX's plugin in the version of jaxlib"
)


def join_processes(
    coordinator: str | None, processes: int, process: int
) -> tuple[int, int]:
    """Makes this process one of the several that `--coordinator` brings together.

    Args:
      coordinator: HOST:PORT of process 0; `auto` asks the cluster; None if this
        process is alone.
      processes: number of processes.
      process: number of this one, from 0 on. All others than 0 are quiet.

    Returns:
      Number of this process, and of all. With `auto` JAX's devices are started for it.

    Raises:
      UserError: they do not find one another.
    """
    if coordinator is None:
        if processes != 1 or process:
            raise UserError("--processes and --process need --coordinator=HOST:PORT")
        return 0, 1
    try:
        if coordinator == "auto":
            jax.distributed.initialize()
        else:
            jax.distributed.initialize(
                *(coordinator, processes, process), coordinator_bind_address=coordinator
            )
    except (RuntimeError, ValueError, TypeError) as error:
        raise UserError(
            f"the processes do not find one another ({str(error).splitlines()[0]}); "
            "give all of them the same --coordinator=HOST:PORT and --processes, and "
            "each its own --process from 0 on"
        ) from error
    if coordinator == "auto":
        process, processes = jax.process_index(), jax.process_count()
    if process:
        os.environ["TQDM_DISABLE"] = "1"
        logging.getLogger("mammo_jax").setLevel(logging.WARNING)
    return process, processes


def start_devices() -> None:
    """Starts JAX's devices, with the cache of what is compiled for them.

    The cache is in ~/.cache/mammo_jax/xla, or where `JAX_COMPILATION_CACHE_DIR` in the
    environment says.

    Raises:
      UserError: there is none of the devices that JAX_PLATFORMS in the environment
        asks for, or a plugin fails.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = Path.home() / ".cache" / "mammo_jax" / "xla"
        jax.config.update("jax_compilation_cache_dir", str(cache))
    # A start compiles hundreds of small things, which JAX would not keep.
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    log = logging.getLogger("jax._src.xla_bridge")
    log.addFilter(_without_traceback)
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        asked = os.environ.get("JAX_PLATFORMS", "")
        raise UserError(
            f"JAX finds no device for JAX_PLATFORMS={asked} "
            f"({_one_line(error) or 'there is no such card'}); {_GPU_HELP}; "
            "with JAX_PLATFORMS=cpu a CPU computes"
        ) from error
    finally:
        log.removeFilter(_without_traceback)


def warn_of_old_card() -> None:
    """Says, before a training, where a card has no units for small floats."""
    device = jax.local_devices()[0]
    capability = getattr(device, "compute_capability", "")
    # AMD's cards have names there, such as gfx90a.
    if re.fullmatch(r"\d+\.\d+", capability) and float(capability) < _LEAST_CAPABILITY:
        _log.warning(
            "%s (compute capability %s) has no units for TF32 and bfloat16: training "
            "is several times slower than on cards from %s on, and "
            "config.model.compute_dtype=bfloat16 saves memory, but no time",
            *(device.device_kind, capability, _LEAST_CAPABILITY),
        )


def _without_traceback(record: logging.LogRecord) -> bool:
    """Makes one line of a plugin's failure, of which JAX shows where it happened."""
    if record.exc_info:
        record.msg = (
            "JAX's plugin for a GPU cannot be used, and a CPU computes (%s); %s"
        )
        record.args = (_one_line(record.exc_info[1]), _GPU_HELP)
        record.exc_info = None
    return True


def _one_line(error: object) -> str:
    return "; ".join(str(error).splitlines())


def make_mesh(data: int, spatial: int) -> Mesh:
    """Returns the first `data` x `spatial` devices; over several processes, all.

    Raises:
      UserError: there are not that many, or an image would span two processes.
    """
    wanted, there = data * spatial, jax.device_count()
    processes, local = jax.process_count(), jax.local_device_count()
    where = f"config.devices.data ({data}) x config.devices.spatial ({spatial})"
    several = processes > 1
    refuse(
        {
            f"{where} is more than the {there} devices there are": wanted > there,
            f"{where} must be the {there} devices of the {processes} processes "
            "together": several and wanted != there,
            f"config.devices.spatial ({spatial}) does not divide the {local} devices "
            "of a process; the rows of an image stay within one process": (
                several and local % spatial
            ),
        }
    )
    return jax.make_mesh(
        (data, spatial),
        ("data", "spatial"),
        axis_types=(AxisType.Auto, AxisType.Auto),
        devices=jax.devices()[:wanted],
    )


def replicated(mesh: Mesh | None) -> NamedSharding | None:
    """Returns the sharding of arrays that are whole on every device; None for one."""
    return None if mesh is None else NamedSharding(mesh, PartitionSpec())


def on_mesh(mesh: Mesh | None) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Lets a function that is traced know the axes of the mesh."""

    def decorate(function: Callable[..., T]) -> Callable[..., T]:
        if mesh is None:
            return function

        @functools.wraps(function)
        def traced(*arguments: Any) -> T:
            with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
                return function(*arguments)

        return traced

    return decorate


@functools.cache
def _batch_sharding(mesh: Mesh, key: str, leading: int) -> NamedSharding:
    rows = ("spatial",) if key == "image" else ()
    return NamedSharding(mesh, PartitionSpec(*[None] * leading, "data", *rows))


def put_batch(
    mesh: Mesh, batch: Mapping[str, np.ndarray], *, leading: int
) -> dict[str, jax.Array]:
    """Joins the processes' parts of a batch to one array over the mesh for every key.

    Args:
      mesh: see `make_mesh`.
      batch: this process's part.
      leading: axes before the images': 1 for microbatches, else 0.
    """
    return {
        key: jax.make_array_from_process_local_data(
            _batch_sharding(mesh, key, leading), value
        )
        for key, value in batch.items()
    }


def abstract_batch(
    mesh: Mesh, batch: Mapping[str, jax.ShapeDtypeStruct], *, leading: int
) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes and types that `put_batch` gives for all parts together."""
    return {
        key: jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=_batch_sharding(mesh, key, leading)
        )
        for key, x in batch.items()
    }


def put_replicated(mesh: Mesh, tree: Any) -> Any:
    """Puts arrays on every device, whole and committed.

    A fresh array is committed to no device, the result of a step is; without this
    the second step would compile again.
    """
    sharding = replicated(mesh)
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), tree
    )


def is_main_process() -> bool:
    """Returns True if this process writes the logs and tables."""
    return jax.process_index() == 0


def largest_of_processes(mine: int) -> int:
    """Returns the largest number that any process has; all of them must ask."""
    return int(multihost_utils.process_allgather(np.array(mine)).max())


def text_of_main_process(text: str) -> str:
    """Returns the text that process 0 has; all of them must ask."""
    if jax.process_count() == 1:
        return text
    own = np.frombuffer(text.encode() * is_main_process(), np.uint8)
    padded = np.pad(own, (0, largest_of_processes(own.size) - own.size))
    return bytes(multihost_utils.broadcast_one_to_all(padded)).decode()


def wait_for_all(name: str) -> None:
    """Blocks until every process has come here."""
    multihost_utils.sync_global_devices(name)


def gather_rows(mine: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Joins a table whose rows were dealt out to the processes, in order.

    Args:
      mine: this process's columns: rows p, p + n, ... of process p of n. No
        objects.
    """
    if jax.process_count() == 1:
        return dict(mine)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **mine)
    own = np.frombuffer(buffer.getvalue(), np.uint8)
    sizes = multihost_utils.process_allgather(np.array(own.size)).tolist()
    padded = np.pad(own, (0, max(sizes) - own.size))
    parts = [
        np.load(io.BytesIO(part[:size]), allow_pickle=False)
        for part, size in zip(
            multihost_utils.process_allgather(padded), sizes, strict=True
        )
    ]
    lengths = [len(next(iter(part.values()))) for part in parts]
    numbers = [
        np.arange(length) * len(parts) + process
        for process, length in enumerate(lengths)
    ]
    order = np.argsort(np.concatenate(numbers))
    return {key: np.concatenate([part[key] for part in parts])[order] for key in mine}


def formats(
    tree: Any, sharding: jax.sharding.Sharding, *, default: bool = False
) -> Any:
    """Returns each array's sharding, with the layout that programs read best.

    On a GPU those of four dimensions, kernels, have a layout of their own, without
    which each call of a program would transpose them; with `default` it is JAX's.
    """
    if not _is_of_gpus(sharding):
        return jax.tree.map(lambda x: sharding, tree)
    order = (0, 1, 2, 3) if default else KERNELS_OF_A_GPU
    kernel = Format(Layout(major_to_minor=order), sharding)
    return jax.tree.map(lambda x: kernel if len(x.shape) == 4 else sharding, tree)


def _is_of_gpus(sharding: jax.sharding.Sharding) -> bool:
    device: Any = next(iter(sharding.device_set))
    return bool(device.platform == "gpu")


def lay_out(tree: T, forms: Any) -> T:
    """Copies arrays into the layouts that `formats` gave; without one, returns them."""
    if not any(isinstance(form, Format) for form in jax.tree.leaves(forms)):
        return tree
    laid: T = jax.jit(_same, out_shardings=forms)(tree)
    return laid


def _same(tree: T) -> T:
    return tree


def abstract(mesh: Mesh, tree: Any) -> Any:
    """Returns shapes and types of arrays that are to be whole on every device."""
    sharding = replicated(mesh)
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
    )
