"""The README's lines of Python run, on a tiny model and phantoms."""

import csv

import numpy as np
import pytest
from doc_pages import ROOT, blocks
from raw_files import write_dicom
from tiny_runs import write_run


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with what the README's lines name."""
    write_run(tmp_path / "runs" / "demo")
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 4096, (256, 192)).astype(np.uint16)
    (tmp_path / "exam").mkdir()
    write_dicom(tmp_path / "exam" / "0001.dcm", pixels, BitsStored=12, HighBit=11)
    with (tmp_path / "predictions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        columns = (
            "image_index malignant_pred malignant_label patient_id laterality view"
        )
        writer.writerow(columns.split())
        for number, score in enumerate(rng.random(40)):
            label = int(score + rng.normal(0, 0.3) > 0.5)
            writer.writerow((f"i{number}", score, label, f"p{number}", "LEFT", "CC"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_readmes_python_runs(folder):
    (block,) = blocks(ROOT / "README.md", "python")
    lines = [line for line in block.splitlines() if line and not line.startswith("#")]
    assert len(lines) <= 10
    names = {}
    exec(block, names)
    assert 0 <= names["result"].score <= 1
    assert names["result"].map.ndim == 2
    assert 0 <= names["report"]["auc"]["value"] <= 1
