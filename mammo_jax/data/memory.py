"""How the C library keeps memory that has been freed."""

import ctypes

# The names of glibc's malloc.h: never give memory back to the system, ask for it in
# one growing heap, and let every thread use that one.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
_MALLOC_SETTINGS = {_M_TRIM_THRESHOLD: -1, _M_MMAP_MAX: 0, _M_ARENA_MAX: 1}


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
