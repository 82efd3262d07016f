"""How the C library keeps memory that has been freed."""

import ctypes
import os
import sys

# The names of glibc's malloc.h: never give memory back to the system, ask for it in
# one growing heap, let every thread use that one, and put every freed block together
# with its neighbours.
_M_MXFAST, _M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = 1, -1, -4, -8
_MALLOC_SETTINGS = {
    _M_MXFAST: 0,
    _M_TRIM_THRESHOLD: -1,
    _M_MMAP_MAX: 0,
    _M_ARENA_MAX: 1,
}
_TUNABLES, _NO_CACHES = "GLIBC_TUNABLES", "glibc.malloc.tcache_count=0"


def keep_freed_memory() -> None:
    """Lets an image or a train step take the memory of the one before.

    Otherwise the C library gives large blocks back to the system, and to get them
    again, page by page, takes as long as all the work on an image, and about a
    quarter of the time of a train step on the CPU. For the whole process; early,
    before other threads have memory of their own.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):  # glibc
        for setting, value in _MALLOC_SETTINGS.items():
            library.mallopt(setting, value)


def start_without_thread_caches() -> None:
    """Starts this program again, once, without caches of small blocks in every thread.

    In such a cache lie the bytes that were cut off behind a large block, so that its
    place does not grow by them when it is freed. A step's memory, one block, is asked
    for with a few bytes more, does not fit into the place of the step before, and by
    chance a training on the CPU grew by a block (ResNet50 on patches from 1.6 to 2.1 GB
    within 20 steps). The caches can be turned off by the environment only; other C
    libraries than glibc do not read it.
    """
    settings = os.environ.get(_TUNABLES, "")
    if "glibc.malloc.tcache_count" in settings:
        return
    os.environ[_TUNABLES] = ":".join(filter(None, [settings, _NO_CACHES]))
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
