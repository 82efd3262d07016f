"""The files of the splits beside those that TFDS's own writer makes."""

import re
import subprocess
import sys

import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_data_source import ArrayRecordDataSource
from tensorflow_datasets.core import shuffle
from tensorflow_datasets.core.utils import shard_utils
from tensorflow_datasets.proto import tf_example_pb2

from tfds_builders.building import build
from tfds_builders.cbis_ddsm.cbis_ddsm_dataset_builder import Builder
from tfds_builders.split_files import read_records


class ByTfds(Builder, skip_registration=True):
    """Leaves the writing to TFDS, which holds all examples in memory."""

    name = Builder.name

    def _generate_examples(self, paths):
        return (record for path in paths for record in read_records(path))

    def _generate_splits(self, *arguments):
        return tfds.core.GeneratorBasedBuilder._generate_splits(self, *arguments)


def read_all(path):
    source = ArrayRecordDataSource([str(path)])
    return [tf_example_pb2.Example.FromString(source[n]) for n in range(len(source))]


@pytest.fixture
def raw(raw_phantoms):
    return raw_phantoms


@pytest.mark.parametrize("config", ["official_whole_h288", "official_s10_h288"])
def test_they_are_the_files_that_tfds_would_write(raw, tmp_path, monkeypatch, config):
    monkeypatch.setattr(shard_utils.ShardConfig, "min_shard_size", 100_000)
    theirs = ByTfds(config=config, data_dir=tmp_path / "theirs", num_workers=1)
    theirs.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=str(raw))
    )

    ours = build(f"cbis_ddsm/{config}", raw, tmp_path / "ours", num_workers=1)

    found, expected = (
        {path.name: read_all(path) for path in folder.glob("*.array_record*")}
        for folder in (ours.path, theirs.data_path)
    )
    assert found == expected
    built = tfds.builder_from_directory(ours.path).info.splits
    assert {
        name: (split.shard_lengths, split.num_bytes) for name, split in built.items()
    } == {
        name: (split.shard_lengths, split.num_bytes)
        for name, split in theirs.info.splits.items()
    }
    assert any("-of-00001" not in name for name in found)


def test_a_large_split_needs_no_tensorflow(raw, tmp_path, monkeypatch, capsys):
    """TFDS's own writer asks for it beyond this size, a gigabyte."""
    monkeypatch.setattr(shuffle, "MAX_MEM_BUFFER_SIZE", 0)

    report = build("cbis_ddsm/official_whole_h288", raw, tmp_path, num_workers=1)

    # Every line of the progress ends where its work does.
    lines = re.findall(r"writing (\w+): +(\d+)%", capsys.readouterr().err)
    assert dict(lines) == dict.fromkeys(report.splits, "100")
    source = tfds.builder_from_directory(report.path).as_data_source("train")
    assert len({example["image_id"] for example in source}) == report.splits["train"]


def test_another_process_writes_the_same_bytes(raw, tmp_path):
    """Left to itself each process orders the features of a record in its own way."""
    name = "cbis_ddsm/official_whole_h288"
    code = f"from tfds_builders.building import build; build({name!r}, *__args__)"
    built = {}
    for folder in ("a", "b"):
        arguments = [str(raw), str(tmp_path / folder), 1]
        text = code.replace("*__args__", ", ".join(map(repr, arguments)))
        subprocess.run([sys.executable, "-c", text], check=True, capture_output=True)
        found = sorted((tmp_path / folder).rglob("*.array_record*"))
        built[folder] = {path.name: path.read_bytes() for path in found}
    assert built["a"]
    assert built["a"] == built["b"]
