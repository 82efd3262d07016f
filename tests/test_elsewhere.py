"""Imports and a small network where nothing of Linux is there, as on macOS."""

import os
import subprocess
import sys

# Takes away what Linux has and macOS has not, as far as Python shows it.
WITHOUT_LINUX = """
import ctypes, importlib.metadata, os, select, signal, sys

LINUX_ONLY = {
    os: "sched_ memfd_create posix_fadvise posix_fallocate eventfd pidfd_open getrandom"
    " copy_file_range splice O_TMPFILE O_DIRECT pipe2 setns unshare getxattr",
    select: "epoll EPOLL",
    signal: "SIGRTMIN SIGRTMAX sigtimedwait sigwaitinfo pidfd_send_signal",
}
for module, names in LINUX_ONLY.items():
    for name in dir(module):
        if name.startswith(tuple(names.split())):
            delattr(module, name)

class NoGlibc:
    def __init__(self, name, *rest, **more):
        assert name is None or "dnnl" not in str(name)

whole_library, files = ctypes.CDLL, importlib.metadata.files

def library(name, *rest, **more):
    return NoGlibc(name) if name is None else whole_library(name, *rest, **more)

def files_of(package):
    if "onednn" in package:
        raise importlib.metadata.PackageNotFoundError(package)
    return files(package)

def no_proc(event, arguments):
    if event == "open" and str(arguments[0]).startswith(("/proc/", "/sys/")):
        raise FileNotFoundError(arguments[0])

ctypes.CDLL, importlib.metadata.files = library, files_of
sys.addaudithook(no_proc)
assert not hasattr(os, "sched_getaffinity")
"""

IMPORT_EVERYTHING = """
import importlib, pkgutil
import mammo_jax, paper, tfds_builders

for package in (mammo_jax, paper, tfds_builders):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
"""

WORK = """
import jax, numpy as np
from mammo_jax.common.memory import give_back_large_blocks
from mammo_jax.common.parallel import parallel_map
from mammo_jax.cpu import onednn

give_back_large_blocks()
assert list(parallel_map(abs, [-1, -2, -3], None)) == [1, 2, 3]
net = mammo_jax.build_model(
    "vgg16", top=["4-4-8x1"], width=1 / 16, image_size=(64, 48)
)
step, state = mammo_jax.make_train_step(net, stages="whole", stage="stage2")
images = np.ones((2, 64, 48), np.uint16)
state, loss = step(state, {"image": images, "label": np.array([0, 1])})
assert np.isfinite(loss)
assert not onednn.is_faster()
"""


def test_nothing_of_linux_is_needed():
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_LINUX + IMPORT_EVERYTHING + WORK],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
