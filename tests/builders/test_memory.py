"""The memory of a build does not depend on how many images there are."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
from raw_files import write_dicom

MIB = 2**20
LIMIT = 1.5 * 2**30
# Less than what one image more for each of those added would take.
TOLERANCE = 60 * MIB
SHAPE = (4600, 2900)
# Prints the peaks of the build's own process and of any process below it, in bytes.
SCRIPT = """
import json, sys, threading
from pathlib import Path
from tfds_builders.building import build

def peak(status):
    fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return 1024 * int(fields.get("VmHWM", "0").split()[0])

def watch():
    while not ended.wait(0.02):
        for children in Path("/proc/self/task").glob("*/children"):
            for pid in children.read_text().split():
                try:
                    peaks.append(peak(Path("/proc", pid, "status")))
                except OSError:
                    pass

if __name__ == "__main__":
    peaks, ended = [], threading.Event()
    thread = threading.Thread(target=watch)
    thread.start()
    report = build("manifest/whole_h4608", sys.argv[1], sys.argv[2], num_workers=2)
    ended.set()
    thread.join()
    assert report.problems == 0
    print(json.dumps([peak(Path("/proc/self/status")), max(peaks)]))
"""


def write_films(folder, count):
    """Films of real size, every one another; a breast's half of each is grainy."""
    random = np.random.default_rng(0)
    film = np.zeros(SHAPE, np.uint16)
    film[:, : SHAPE[1] // 2] = random.integers(20000, 60000, (SHAPE[0], SHAPE[1] // 2))
    rows = [["path", "patient_id", "laterality", "view", "label", "split"]]
    for number in range(count):
        film[:8] = number
        write_dicom(folder / f"{number}.dcm", film)
        rows.append([f"{number}.dcm", f"p{number}", "LEFT", "CC", number % 2, "train"])
    with (folder / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)


@pytest.mark.slow
def test_three_times_the_images_take_the_same_memory(tmp_path):
    (tmp_path / "build.py").write_text(SCRIPT)
    peaks = []
    for count in (3, 9):
        write_films(tmp_path / str(count), count)
        done = subprocess.run(
            [
                *(sys.executable, tmp_path / "build.py"),
                *(tmp_path / str(count), tmp_path / f"{count}-out"),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        peaks.append(json.loads(done.stdout))

    few, many = np.array(peaks)
    assert (many < LIMIT).all()
    assert (many < few + TOLERANCE).all(), f"{few // MIB} MiB, then {many // MIB} MiB"
