"""How freed memory is used again."""

import os
import subprocess
import sys

import pytest

from mammo_jax.common import memory

# Steps whose one block is asked for as XLA does, aligned, with small blocks that stay
# beside it; prints the peak of the process less what it had before, in blocks.
SCRIPT = """
import ctypes, random
from pathlib import Path
from mammo_jax.common.memory import set_up_memory, start_with_memory_settings

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(x for x in lines if x.startswith("VmHWM")).split()[1])

if __name__ == "__main__":
    start_with_memory_settings()
    set_up_memory()
    c = ctypes.CDLL(None)
    c.malloc.restype = ctypes.c_void_p
    c.free.argtypes = [ctypes.c_void_p]
    size, block, before = 64 * 2**20, ctypes.c_void_p(), peak()
    last = ctypes.c_void_p()
    for step in range(60):
        assert c.posix_memalign(ctypes.byref(block), 64, size) == 0
        if last:  # freed late: the next step's is already asked for
            c.free(last)
        ctypes.memset(block, 1, size)
        if LATE:
            last = ctypes.c_void_p(block.value)
        else:
            c.free(block)
        for _ in range(5):
            c.malloc(random.Random(step).randrange(16, 128))
    print((peak() - before) / size)
"""


needs_glibc = pytest.mark.skipif(
    not hasattr(os, "confstr")
    or "glibc" not in (os.confstr("CS_GNU_LIBC_VERSION") or ""),
    reason="the settings are those of glibc",
)


def blocks_of_sixty_steps(tmp_path, *, late=False, tunables=None):
    script = tmp_path / "steps.py"
    script.write_text(SCRIPT.replace("LATE", str(late)))
    environment = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    if tunables:
        environment["GLIBC_TUNABLES"] = tunables
    done = subprocess.run(
        [sys.executable, script],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


@needs_glibc
@pytest.mark.parametrize("huge_pages", [True, False])
def test_a_steps_block_takes_the_place_of_the_one_before(tmp_path, huge_pages):
    if huge_pages and not memory._has_huge_pages():
        pytest.skip("the kernel or the C library has no huge pages")
    # What the user sets is kept.
    tunables = None if huge_pages else "glibc.malloc.hugetlb=0"
    assert 0.9 < blocks_of_sixty_steps(tmp_path, tunables=tunables) < 1.1


@needs_glibc
@pytest.mark.skipif(not memory._has_huge_pages(), reason="there are no huge pages")
def test_a_block_that_is_freed_late_leaves_no_second_one(tmp_path):
    assert 0.9 < blocks_of_sixty_steps(tmp_path, late=True) < 1.1


@pytest.mark.parametrize(
    ("kernel", "library", "expected"),
    [
        ("always [madvise] never", "glibc 2.36", True),
        ("[always] madvise never", "glibc 3.0", True),
        ("always madvise [never]", "glibc 2.36", False),
        ("always [madvise] never", "glibc 2.31", False),
        ("always [madvise] never", None, False),
        (None, "glibc 2.36", False),
    ],
)
def test_huge_pages_need_kernel_and_library(monkeypatch, kernel, library, expected):
    def read_text(path):
        if kernel is None:
            raise FileNotFoundError(path)
        return kernel

    monkeypatch.setattr(memory.Path, "read_text", read_text)
    monkeypatch.setattr(memory.os, "confstr", lambda name: library)
    assert memory._has_huge_pages() is expected


def test_settings_of_the_user_are_kept(tmp_path):
    script = tmp_path / "show.py"
    script.write_text(
        "import os, sys\n"
        "from mammo_jax.common.memory import start_with_memory_settings\n"
        "start_with_memory_settings()\n"
        "print(os.environ['GLIBC_TUNABLES'], *sys.argv[1:])\n"
    )
    wanted = memory._HUGE_PAGES if memory._has_huge_pages() else memory._NO_CACHES
    for given, expected in (
        ("glibc.malloc.perturb=1", f"glibc.malloc.perturb=1:{wanted}"),
        (f"{memory._NO_CACHES[:-1]}3:{wanted}", f"{memory._NO_CACHES[:-1]}3:{wanted}"),
    ):
        done = subprocess.run(
            [sys.executable, script, "--flag", "a b"],
            env={**os.environ, "GLIBC_TUNABLES": given},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.split("\n")[0] == f"{expected} --flag a b"
