"""Batches: their order, their content, and where they start."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import grain
import numpy as np
import pytest
import tensorflow_datasets as tfds

from mammo_jax.common.errors import UserError
from mammo_jax.datasets import pipeline
from mammo_jax.datasets.augment import NO_AUGMENTATION, Augmentation

in_linux = pytest.mark.skipif(
    not Path("/proc/self").is_dir(), reason="it looks into Linux's /proc"
)
WHOLE = "cbis_ddsm/paper_whole_h288"


@pytest.fixture(scope="module")
def dataset(phantom_data) -> pipeline.Dataset:
    return pipeline.open_dataset(WHOLE, str(phantom_data))


def _take(dataset, count: int, **options) -> list[dict]:
    options = {"seed": 3, "start": 0, "threads": 1, **options}
    batches = pipeline.training_batches(
        dataset.sources["train"], 4, options.pop("ranges", Augmentation()), **options
    )
    with contextlib.closing(batches):
        return [next(batches) for _ in range(count)]


def _as_tfds_reads_it(data_dir, name: str):
    directory = pipeline.newest_version(name, str(data_dir))
    return tfds.builder_from_directory(directory).as_data_source("train")


def _same(first: list[dict], second: list[dict]) -> bool:
    return all(
        np.array_equal(a[key], b[key])
        for a, b in zip(first, second, strict=True)
        for key in a
    )


def test_order_and_augmentation_do_not_depend_on_threads(dataset):
    assert _same(_take(dataset, 5, threads=1), _take(dataset, 5, threads=4))


def test_batches_do_not_depend_on_worker_processes(dataset):
    assert _same(_take(dataset, 9)[5:], _take(dataset, 4, start=5, workers=2))


_READS = """
import sys, time
from mammo_jax.datasets import pipeline
from mammo_jax.datasets.augment import NO_AUGMENTATION
if __name__ == "__main__":
    source = pipeline.open_dataset(*sys.argv[1:]).sources["train"]
    options = {"seed": 0, "start": 0, "threads": 1, "workers": 2}
    batches = pipeline.training_batches(source, 2, NO_AUGMENTATION, **options)
    for batch in batches:
        print("reads", flush=True)
        time.sleep(0.1)
"""


@pytest.fixture
def reading(phantom_data, tmp_path):
    """A process that reads with two workers, and their folders in /proc."""
    script = tmp_path / "reads.py"
    script.write_text(_READS)
    command = [sys.executable, script, WHOLE, phantom_data]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=environment, **pipes) as process:
        assert process.stdout.readline() == b"reads\n"
        workers = [path for path in _children(process.pid) if _is_worker(path)]
        assert len(workers) == 2
        yield process, workers
        process.kill()


@in_linux
def test_workers_end_with_a_process_that_is_killed(reading):
    process, workers = reading
    process.kill()
    end = time.monotonic() + 20
    while any(map(Path.exists, workers)) and time.monotonic() < end:
        time.sleep(0.1)
    assert [path for path in workers if path.exists()] == []


@in_linux
def test_sigterm_to_all_is_left_to_the_process_that_trains(reading):
    _, workers = reading
    for worker in workers:
        os.kill(int(worker.name), signal.SIGTERM)
    time.sleep(1)
    states = [(x / "stat").read_text().rpartition(")")[2].split()[0] for x in workers]
    assert "Z" not in states  # Ended, and not seen yet.


@in_linux
def test_a_worker_that_is_killed_ends_the_process_in_one_line(reading):
    process, workers = reading
    os.kill(int(workers[0].name), signal.SIGKILL)
    # As much as its pipe holds comes first.
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert b"a process that reads images was killed" in said
    assert b"Traceback" not in said


def _is_worker(process: Path) -> bool:
    return b"spawn_main" in (process / "cmdline").read_bytes()


def _children(parent: int) -> list[Path]:
    threads = Path(f"/proc/{parent}/task").glob("*/children")
    listed = " ".join(path.read_text() for path in threads).split()
    return [Path("/proc") / number for number in listed]


def test_a_resumed_stream_goes_on_with_the_same_batches(dataset):
    assert _same(_take(dataset, 30)[23:], _take(dataset, 7, start=23))


def test_another_seed_gives_another_order(dataset):
    assert not _same(_take(dataset, 3), _take(dataset, 3, seed=4))


def test_an_epoch_shows_every_image_once_and_the_next_in_another_order(dataset):
    ids = [str(x) for batch in _take(dataset, 40) for x in batch["image_id"]]
    size = len(dataset.sources["train"])
    first, second = ids[:size], ids[size : 2 * size]
    assert sorted(first) == sorted(second) == sorted(set(ids))
    assert first != second


def test_batches_hold_grey_16_bit_images_and_shifts(dataset):
    (batch,) = _take(dataset, 1)
    assert batch["image"].shape == (4, 288, 224)
    assert batch["image"].dtype == np.uint16
    assert batch["label"].dtype == np.int32
    assert batch["channel_shift"].shape == (4, 3)
    assert np.abs(batch["channel_shift"]).max() <= 20


def test_evaluation_shows_every_image_once_unchanged(dataset):
    source = dataset.sources["test"]
    batches = list(pipeline.evaluation_batches(source, 5, threads=2))
    assert len(batches) == pipeline.number_of_batches(source, 5)
    true = [
        (str(name), image)
        for batch in batches
        for name, image, weight in zip(
            batch["image_id"], batch["image"], batch["weight"], strict=True
        )
        if weight
    ]
    # What `source` has is compared with TFDS in test_packaged.py.
    assert [name for name, _ in true] == [e["image_id"] for e in source]
    for (_, image), example in zip(true, source, strict=True):
        np.testing.assert_array_equal(image, example["image"])


def test_the_last_batch_is_filled_up_with_weightless_copies(dataset):
    source = dataset.sources["test"]
    size = len(source) - 1
    *_, last = pipeline.evaluation_batches(source, size, threads=1)
    assert last["weight"].tolist() == [1.0] + [0.0] * (size - 1)
    assert last["image"].shape == (size, 288, 224)


def test_patches_of_one_image_have_ids_of_their_own(phantom_data):
    patches = pipeline.open_dataset("cbis_ddsm/paper_s1_h288", str(phantom_data))
    assert len(patches.class_names) == 5
    ids = [
        str(name)
        for batch in pipeline.evaluation_batches(patches.sources["train"], 8, threads=1)
        for name, weight in zip(batch["image_id"], batch["weight"], strict=True)
        if weight
    ]
    assert len(ids) == len(set(ids)) == len(patches.sources["train"])


def test_patches_and_whole_images_share_the_mean_of_the_whole_images(phantom_data):
    patches = pipeline.open_dataset("cbis_ddsm/paper_s1_h288", str(phantom_data))
    whole = pipeline.open_dataset(WHOLE, str(phantom_data))
    images = [example["image"] for example in whole.sources["train"]]
    expected = np.mean([image.mean(dtype=np.float64) for image in images]) * 255 / 65535
    assert whole.pixel_mean == pytest.approx(expected, rel=1e-6)
    assert patches.pixel_mean == pytest.approx(whole.pixel_mean, rel=1e-6)


def test_without_augmentation_training_sees_the_images_as_they_are(dataset):
    (batch,) = _take(dataset, 1, ranges=NO_AUGMENTATION)
    by_name = {e["image_id"]: e["image"] for e in dataset.sources["train"]}
    for name, image in zip(batch["image_id"], batch["image"], strict=True):
        np.testing.assert_array_equal(image, by_name[str(name)])


def test_an_unbuilt_dataset_is_refused_with_the_command(tmp_path):
    with pytest.raises(UserError, match="build-dataset cbis_ddsm/paper_whole "):
        pipeline.open_dataset("cbis_ddsm/paper_whole", str(tmp_path))


def test_a_damaged_dataset_is_refused_with_the_way_out(phantom_data, tmp_path):
    version = tmp_path / WHOLE / "1.0.0"
    version.mkdir(parents=True)
    (version / "dataset_info.json").write_text("{")
    with pytest.raises(UserError, match="remove that folder and build it again"):
        pipeline.open_dataset(WHOLE, str(tmp_path))


def test_damage_that_shows_later_is_refused_with_the_way_out(phantom_data):
    source = pipeline.open_dataset(WHOLE, str(phantom_data)).sources["train"]
    source.records = [source.records[0], b"damaged"]
    with pytest.raises(UserError, match=rf"{WHOLE} in .*example 1: .*build-dataset"):
        _ = source[1]


def test_whole_images_say_what_sub_groups_are_made_by(dataset, phantom_data):
    source = dataset.sources["train"]
    (batch,) = pipeline.evaluation_batches(source, len(source), threads=1)
    for row, example in enumerate(_as_tfds_reads_it(phantom_data, WHOLE)):
        rois = example["rois"]
        kinds = ("background", "calc", "calc", "mass", "mass")
        names = sorted({kinds[number] for number in rois["class"]})
        assert batch["abnormality_types"][row] == ";".join(names)
        areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in rois["bbox"]]
        size = (max(areas) / (288 * 224)) ** 0.5
        assert batch["lesion_size"][row] == pytest.approx(size)
        assert batch["breast_density"][row] == example["breast_density"]


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_the_images_of_every_batch(dataset, processes):
    alone = _take(dataset, 6)
    shares = [
        _take(dataset, 6, share=grain.sharding.ShardOptions(number, processes))
        for number in range(processes)
    ]
    for number, batch in enumerate(alone):
        parts = [share[number] for share in shares]
        assert all(len(part["label"]) == 4 // processes for part in parts)
        # Process p has rows p, p + n, ...: dealt out, each to one process.
        for row in range(4):
            part = parts[row % processes]
            for key in ("image_id", "image", "channel_shift"):
                np.testing.assert_array_equal(
                    part[key][row // processes], batch[key][row]
                )


@pytest.mark.parametrize("processes", [2, 3, 8])
def test_processes_evaluate_every_image_once_in_as_many_batches(dataset, processes):
    source = dataset.sources["test"]
    shares = [
        list(
            pipeline.evaluation_batches(
                source,
                2 * processes,
                threads=1,
                share=grain.sharding.ShardOptions(number, processes),
            )
        )
        for number in range(processes)
    ]
    expected = pipeline.number_of_batches(source, 2 * processes)
    assert {len(batches) for batches in shares} == {expected}
    seen = [
        str(name)
        for batches in shares
        for batch in batches
        for name, weight in zip(batch["image_id"], batch["weight"], strict=True)
        if weight
    ]
    assert sorted(seen) == sorted(e["image_id"] for e in source)
