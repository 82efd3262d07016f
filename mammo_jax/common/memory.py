"""Settings of the C library that say what becomes of freed memory.

A train step on a CPU works in one block of gigabytes, reading a mammogram in blocks of
tens of megabytes. The two want different settings, which hold for a whole process. Both
are glibc's (its manual page mallopt(3)); other C libraries are left as they are.
"""

import ctypes

# Numbers of the parameters in glibc's malloc.h.
_M_MXFAST, _M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = 1, -1, -3
_M_MMAP_MAX, _M_ARENA_MAX = -4, -8


def give_back_large_blocks() -> None:
    """Gives blocks above 32 MiB back to the system when they are freed.

    For processes that compute with JAX. XLA says that a step is done before it frees
    the step's block, so the next step may take another one: were both kept, a step of
    all layers of VGG16 on whole images held 8.45 GB instead of 4.55.

    To be called early, before other threads have memory of their own.
    """
    _set({_M_MMAP_THRESHOLD: 32 << 20})  # in bytes, the largest that glibc accepts


def keep_freed_blocks() -> None:
    """Keeps all freed memory for the next image.

    For processes that read images, which ask for the same sizes again and again: films
    of 60 MB are read in half the time when the system need not clear every page anew.
    """
    # Freed blocks are joined with their neighbours at once, so that the next one fits.
    _set({_M_MMAP_MAX: 0, _M_MXFAST: 0})


def _set(parameters: dict[int, int]) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # The C library is glibc.
        # All threads share one heap, which does not shrink.
        one_heap = {_M_ARENA_MAX: 1, _M_TRIM_THRESHOLD: -1}
        for parameter, value in (one_heap | parameters).items():
            mallopt(parameter, value)
