"""A build on Apache Beam's direct runner. It needs Beam: make test-peers."""

import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow_datasets as tfds

pytest.importorskip("apache_beam", reason="run by `make test-peers`")

from mammo_jax.datasets.records import split_outlines
from mammo_jax.phantom import write_cbis_ddsm
from tfds_builders.building import build

pytestmark = pytest.mark.filterwarnings("default")


SCRIPT = Path(__file__).parents[2] / "scripts" / "build_dataset.py"


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms") / "raw"
    write_cbis_ddsm(folder, cases=8, seed=3, height=160, num_workers=1)
    return folder


def contents(report):
    """Every example of every split, by its key facts; Beam writes in its own order."""
    builder = tfds.builder_from_directory(report.path)
    return {
        split: sorted(
            (e["image_id"], e["label"], tuple(e["centre"]), e["image"].tobytes())
            for e in builder.as_data_source(split)
        )
        for split in report.splits
    }


@pytest.mark.parametrize(
    "options",
    [
        ["--runner=DirectRunner"],
        [
            "--runner=DirectRunner",
            "--direct_num_workers=2",
            "--direct_running_mode=multi_processing",
        ],
    ],
)
def test_beam_builds_the_same_data_set(raw, tmp_path, options):
    name = "cbis_ddsm/official_s10_h288"

    usual = build(name, raw, tmp_path / "usual", num_workers=1)
    beam = build(name, raw, tmp_path / "beam", beam_options=options)

    assert beam.splits == usual.splits
    assert contents(beam) == contents(usual)
    assert beam.metadata == usual.metadata
    assert not (tmp_path / "beam" / name / "unfinished").exists()


def test_the_command_takes_the_runner_s_options(raw, tmp_path):
    name = "cbis_ddsm/official_whole_h288"

    done = subprocess.run(
        [
            *(sys.executable, str(SCRIPT), name, "--beam=--runner=DirectRunner"),
            *(f"--manual_dir={raw}", f"--data_dir={tmp_path}"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    source = tfds.builder_from_directory(tmp_path / name / "1.0.0").as_data_source
    for example in source("train"):
        assert len(split_outlines(example)) == len(example["rois"]["class"]) > 0
