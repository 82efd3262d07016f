"""Freed memory is used again, or given back, and never piles up."""

import os
import subprocess
import sys

import pytest

PEAK = """
import ctypes, sys
from pathlib import Path
from mammo_jax.common import memory

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(x for x in lines if x.startswith("VmHWM")).split()[1])

"""

# Steps whose one block is asked for as XLA does, aligned, with small blocks that stay
# beside it; prints the growth of the process's peak, in blocks.
STEPS = """
import random
memory.SETTING()
c = ctypes.CDLL(None)
c.malloc.restype = ctypes.c_void_p
c.free.argtypes = [ctypes.c_void_p]
size, block, before = 64 * 2**20, ctypes.c_void_p(), peak()
last = None
for step in range(20):
    assert c.posix_memalign(ctypes.byref(block), 64, size) == 0
    if last:  # freed late: the next step's is already asked for
        c.free(last)
    ctypes.memset(block, 1, size)
    if LATE:
        last = block.value
    else:
        c.free(block)
    for _ in range(5):
        c.malloc(random.Random(step).randrange(16, 128))
print((peak() - before) / size)
"""

# Images of changing sizes, each with an array of floats, as a reader has them; prints
# the growth of the process's peak over all rounds but the first, in images, and the
# pages of 4 KiB that the system had to clear meanwhile for every image.
IMAGES = """
import resource
import numpy as np
memory.SETTING()
rng = np.random.default_rng(0)
sides = rng.integers(5000, 6000, 6)

def read(side):
    pixels = np.ones((side, 4000), np.uint16)
    return float((pixels[::2] * np.float32(2))[0, 0])

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

for _ in range(2):
    for side in sides:
        read(side)
before, faults_before = peak(), faults()
for _ in range(3):
    for side in rng.permutation(sides):
        read(side)
print((peak() - before) / (2 * 6000 * 4000), (faults() - faults_before) / (3 * 6))
"""

needs_glibc = pytest.mark.skipif(
    not hasattr(os, "confstr")
    or "glibc" not in (os.confstr("CS_GNU_LIBC_VERSION") or ""),
    reason="the settings are those of glibc",
)


def figures(program):
    environment = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    environment["NUMPY_MADVISE_HUGEPAGE"] = "0"  # so that pages can be counted
    done = subprocess.run(
        [sys.executable, "-c", PEAK + program],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return [float(figure) for figure in done.stdout.split()]


@needs_glibc
@pytest.mark.parametrize("late", [False, True])
def test_many_steps_hold_one_block(late):
    program = STEPS.replace("SETTING", "give_back_large_blocks")
    (blocks,) = figures(program.replace("LATE", str(late)))
    assert 0.9 < blocks < 1.1


@needs_glibc
def test_the_next_image_takes_the_memory_of_the_one_before():
    pages = 6000 * 4000 * 2 / 4096
    growth, cleared = figures(IMAGES.replace("SETTING", "keep_freed_blocks"))
    assert growth < 0.5
    assert cleared < 0.1 * pages
    # The measure can tell: blocks that are given back are cleared every time.
    _, cleared = figures(IMAGES.replace("SETTING", "give_back_large_blocks"))
    assert cleared > 0.5 * pages


def test_another_c_library_is_left_alone(monkeypatch):
    from mammo_jax.common import memory

    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    memory.give_back_large_blocks()
    memory.keep_freed_blocks()
