"""Cache of compiled steps, which makes a second start fast."""

import os
from pathlib import Path


def use_compilation_cache() -> None:
    """Keeps compiled steps in ~/.cache/mammo_jax/xla.

    `JAX_COMPILATION_CACHE_DIR` in the environment names another folder.
    """
    import jax

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = Path.home() / ".cache" / "mammo_jax" / "xla"
        jax.config.update("jax_compilation_cache_dir", str(cache))
    # A start compiles hundreds of small things, which JAX would not keep.
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
