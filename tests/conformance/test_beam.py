"""A build on Apache Beam's direct runner. It needs Beam: make test-tfds."""

import pytest
import tensorflow_datasets as tfds

pytest.importorskip("apache_beam", reason="run by `make test-tfds`")

from mammo_jax.phantom import write_cbis_ddsm
from tfds_builders.building import build

pytestmark = pytest.mark.filterwarnings("default")


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
def test_beam_builds_the_same_data_set(tmp_path, options):
    write_cbis_ddsm(tmp_path / "raw", cases=8, seed=3, height=160, num_workers=1)
    name = "cbis_ddsm/official_s10_h288"

    usual = build(name, tmp_path / "raw", tmp_path / "usual", num_workers=1)
    beam = build(name, tmp_path / "raw", tmp_path / "beam", beam_options=options)

    assert beam.splits == usual.splits
    assert contents(beam) == contents(usual)
    assert beam.metadata == usual.metadata
    assert not (tmp_path / "beam" / name / "unfinished").exists()
