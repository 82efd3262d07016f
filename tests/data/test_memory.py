"""How freed memory is used again."""

import os
import subprocess
import sys

import pytest

# Steps whose one block is asked for as XLA does, aligned, with small blocks that stay
# beside it; prints the peak of the process less what it had before, in blocks.
SCRIPT = """
import ctypes, random
from pathlib import Path
from mammo_jax.data.memory import keep_freed_memory, start_without_thread_caches

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(x for x in lines if x.startswith("VmHWM")).split()[1])

if __name__ == "__main__":
    start_without_thread_caches()
    keep_freed_memory()
    c = ctypes.CDLL(None)
    c.malloc.restype = ctypes.c_void_p
    c.free.argtypes = [ctypes.c_void_p]
    size, block, before = 64 * 2**20, ctypes.c_void_p(), peak()
    for step in range(60):
        assert c.posix_memalign(ctypes.byref(block), 64, size) == 0
        ctypes.memset(block, 1, size)
        c.free(block)
        for _ in range(5):
            c.malloc(random.Random(step).randrange(16, 128))
    print((peak() - before) / size)
"""


@pytest.mark.skipif(
    not hasattr(os, "confstr")
    or "glibc" not in (os.confstr("CS_GNU_LIBC_VERSION") or ""),
    reason="the settings are those of glibc",
)
def test_a_steps_block_takes_the_place_of_the_one_before(tmp_path):
    script = tmp_path / "steps.py"
    script.write_text(SCRIPT)
    environment = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    done = subprocess.run(
        [sys.executable, script],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert 0.9 < float(done.stdout) < 1.1


def test_settings_of_the_user_are_kept(tmp_path):
    script = tmp_path / "show.py"
    script.write_text(
        "import os, sys\n"
        "from mammo_jax.data.memory import start_without_thread_caches\n"
        "start_without_thread_caches()\n"
        "print(os.environ['GLIBC_TUNABLES'], *sys.argv[1:])\n"
    )
    for given, expected in (
        (
            "glibc.malloc.perturb=1",
            "glibc.malloc.perturb=1:glibc.malloc.tcache_count=0",
        ),
        ("glibc.malloc.tcache_count=3", "glibc.malloc.tcache_count=3"),
    ):
        done = subprocess.run(
            [sys.executable, script, "--flag", "a b"],
            env={**os.environ, "GLIBC_TUNABLES": given},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.split("\n")[0] == f"{expected} --flag a b"
