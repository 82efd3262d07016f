"""How the C library gives out memory and takes it back.

A train step on the CPU works in one block of gigabytes, an image in blocks of tens of
megabytes. Given back to the system and asked for again, page by page, they cost as much
time as all the work on an image, and a quarter of that of a step. Kept, they need not
fit the next step: XLA says that a step is done before it frees the block, so that the
next may take another one, and a training of VGG16 on whole images held 3.6 GB or 6.5.
In huge pages to give back and ask again costs little, so large blocks are given back
where there are any, and kept where there are none.
"""

import ctypes
import os
import sys
from pathlib import Path

# The names of glibc's malloc.h. Every thread uses one heap, which does not shrink.
_M_MXFAST, _M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = 1, -1, -3
_M_MMAP_MAX, _M_ARENA_MAX = -4, -8
_ONE_HEAP = {_M_ARENA_MAX: 1, _M_TRIM_THRESHOLD: -1}
# The largest threshold there is, in bytes; blocks above it are given back.
_GIVE_BACK = {_M_MMAP_THRESHOLD: 32 << 20}
# Nothing is given back, and freed blocks are joined with their neighbours at once.
_KEEP = {_M_MMAP_MAX: 0, _M_MXFAST: 0}

_TUNABLES = "GLIBC_TUNABLES"
_HUGE_PAGES = "glibc.malloc.hugetlb=1"
# In the threads' caches lie the bytes that were cut off behind a large block, which
# then does not take up its old place.
_NO_CACHES = "glibc.malloc.tcache_count=0"
_FIRST_WITH_HUGE_PAGES = (2, 35)


def start_with_memory_settings() -> None:
    """Starts this program again, once, with settings that only the environment has.

    Other C libraries than glibc do not read them.
    """
    given = _settings()
    names = {_name_of(entry) for entry in given}
    wanted = _HUGE_PAGES if _has_huge_pages() else _NO_CACHES
    if _name_of(wanted) in names and wanted not in given:
        wanted = _NO_CACHES  # The user wants other pages.
    if _name_of(wanted) in names:
        return
    os.environ[_TUNABLES] = ":".join([*given, wanted])
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _settings() -> list[str]:
    return [entry for entry in os.environ.get(_TUNABLES, "").split(":") if entry]


def _name_of(setting: str) -> str:
    return setting.partition("=")[0]


def set_up_memory() -> None:
    """Makes it cheap for an image or a train step to get the memory of the one before.

    For the whole process; early, before other threads have memory of their own.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):  # not glibc
        return
    huge_pages = _HUGE_PAGES in _settings()
    for setting, value in (_ONE_HEAP | (_GIVE_BACK if huge_pages else _KEEP)).items():
        library.mallopt(setting, value)


def _has_huge_pages() -> bool:
    """Whether the kernel and the C library have them for who asks."""
    kernel = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    try:
        _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").split()
        return (
            tuple(map(int, version.split("."))) >= _FIRST_WITH_HUGE_PAGES
            and "[never]" not in kernel.read_text()
        )
    except (OSError, ValueError):
        return False
