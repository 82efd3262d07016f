"""The packaged data set, from phantoms, as its readers see it."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from mammo_jax.common.errors import UserError
from mammo_jax.datasets.cbis_ddsm import plan_splits
from mammo_jax.datasets.records import split_outlines
from mammo_jax.images.dicom import read_mammogram
from mammo_jax.images.grid import to_grid
from tfds_builders.building import build, take_inventory
from tfds_builders.cbis_ddsm.cbis_ddsm_dataset_builder import Builder

WHOLE, S10 = "cbis_ddsm/official_whole_h288", "cbis_ddsm/official_s10_h288"


@pytest.fixture(scope="module")
def raw(raw_phantoms):
    return raw_phantoms


@pytest.fixture(scope="module")
def data_dir(raw, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for name in (WHOLE, S10):
        build(name, raw, folder, num_workers=1)
    return folder


def open_data(data_dir: Path, name: str):
    return tfds.builder_from_directory(data_dir / name / "1.0.0")


def contents(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*.array_record*"))
    }


# The features of the data sets that were packaged by earlier versions.
TEXT, INTEGER = tfds.features.Text(), np.int32
KINDS = ("background", "calc_benign", "calc_malignant", "mass_benign", "mass_malignant")
PATCH_CLASS = tfds.features.ClassLabel(names=list(KINDS))
VIEW = dict.fromkeys(("image_id", "patient_id", "laterality", "view"), TEXT)


def image_feature(*shape: int) -> tfds.features.Image:
    return tfds.features.Image(
        shape=(*shape, 1), dtype=np.uint16, encoding_format="png"
    )


def tensor_feature(*shape: int | None, encoding: str = "none") -> tfds.features.Tensor:
    return tfds.features.Tensor(shape=shape, dtype=np.int32, encoding=encoding)


EARLIER_FEATURES = {
    WHOLE: {
        "image": image_feature(288, 224),
        "label": tfds.features.ClassLabel(names=["not_malignant", "malignant"]),
        **VIEW,
        "breast_density": INTEGER,
        "rois": tfds.features.Sequence(
            {"class": PATCH_CLASS, "bbox": tensor_feature(4), "corners": INTEGER}
        ),
        "outlines": tensor_feature(None, 2, encoding="zlib"),
    },
    S10: {
        "image": image_feature(56, 56),
        "label": PATCH_CLASS,
        **VIEW,
        "centre": tensor_feature(2),
        "overlap": np.float32,
    },
}


@pytest.mark.parametrize("name", [WHOLE, S10])
def test_records_have_the_layout_of_data_sets_packaged_before(data_dir, name):
    features = open_data(data_dir, name).info.features

    expected = tfds.features.FeaturesDict(EARLIER_FEATURES[name])
    assert features.to_json() == expected.to_json()
    assert features["label"].names == expected["label"].names


def test_every_planned_view_is_there_once(raw, data_dir):
    plan = plan_splits(raw, "official", seed=0)

    builder = open_data(data_dir, WHOLE)

    assert set(builder.info.splits) == set(plan) == {"train", "validation", "test"}
    for split, files in plan.items():
        source = builder.as_data_source(split)
        found = sorted(example["image_id"].decode() for example in source)
        assert found == [f.image_id for f in files]


def test_whole_images_are_the_gridded_dicoms_with_their_labels(raw, data_dir):
    plan = plan_splits(raw, "official", seed=0)
    files = {f.image_id: f for views in plan.values() for f in views}
    builder = open_data(data_dir, WHOLE)

    for split in builder.info.splits:
        for example in builder.as_data_source(split):
            truth = files[example["image_id"].decode()]
            pixels = read_mammogram(truth.images[0]).pixels
            assert example["image"].dtype == np.uint16
            np.testing.assert_array_equal(
                example["image"], to_grid(pixels, 288, 224)[..., None]
            )
            view = truth
            assert example["label"] == int(view.is_malignant)
            assert example["patient_id"] == view.patient_id.encode()
            assert example["laterality"] == view.laterality.encode()
            assert example["view"] == view.view.encode()
            assert example["breast_density"] == view.breast_density
            names = builder.info.features["rois"]["class"].names
            assert [names[c] for c in example["rois"]["class"]] == [
                a.patch_class for a in view.abnormalities
            ]


def test_outlines_lie_in_their_boxes(data_dir):
    for example in open_data(data_dir, WHOLE).as_data_source("train"):
        rois = example["rois"]
        for box, outline in zip(rois["bbox"], split_outlines(example), strict=True):
            top, left, bottom, right = box
            assert 0 <= top < bottom <= 288
            assert 0 <= left < right <= 224
            np.testing.assert_array_equal(outline.min(axis=0), [top, left])
            np.testing.assert_array_equal(outline.max(axis=0) + 1, [bottom, right])


def test_patches_are_cut_from_the_whole_images(data_dir):
    whole = {
        example["image_id"]: np.pad(example["image"][..., 0], 56)
        for split in ("train", "validation", "test")
        for example in open_data(data_dir, WHOLE).as_data_source(split)
    }
    builder = open_data(data_dir, S10)
    names = builder.info.features["label"].names
    assert names == [
        "background",
        "calc_benign",
        "calc_malignant",
        "mass_benign",
        "mass_malignant",
    ]

    for example in builder.as_data_source("train"):
        row, column = example["centre"] + 56 - 28
        truth = whole[example["image_id"]][row : row + 56, column : column + 56]
        np.testing.assert_array_equal(example["image"][..., 0], truth)
        if example["label"] == 0:
            assert example["overlap"] <= 0.35


def test_hard_background_is_the_only_difference_of_s10hard(raw, data_dir, tmp_path):
    report = build("cbis_ddsm/official_s10hard_h288", raw, tmp_path, num_workers=1)

    hard, ordinary = (
        {
            (e["image_id"], tuple(e["centre"]), e["label"])
            for split in report.splits
            for e in tfds.builder_from_directory(path).as_data_source(split)
        }
        for path in (report.path, data_dir / S10 / "1.0.0")
    )
    lesions = {patch for patch in ordinary if patch[2]}
    assert lesions == {patch for patch in hard if patch[2]}
    background = [patch for patch in hard if not patch[2]]
    assert len(set(background) - ordinary) > len(background) / 3
    assert report.metadata["config"]["grid"]["sampling"]["hard_share"] == 0.5


def test_background_is_as_frequent_as_lesions(data_dir):
    labels = [e["label"] for e in open_data(data_dir, S10).as_data_source("train")]

    assert np.mean(np.array(labels) == 0) == pytest.approx(0.5, abs=0.02)


def test_metadata_is_the_same_for_whole_and_patches(data_dir):
    whole = open_data(data_dir, WHOLE)
    patches = open_data(data_dir, S10)

    means = [
        example["image"].mean() * 255 / 65535
        for example in whole.as_data_source("train")
    ]
    assert whole.info.metadata["pixel_mean"] == pytest.approx(np.mean(means))
    assert patches.info.metadata["pixel_mean"] == whole.info.metadata["pixel_mean"]
    assert patches.info.metadata["pixel_mean_of"] == "train"
    assert patches.info.metadata["config"]["grid"]["sampling"]["per_roi"] == 10


def test_the_number_of_workers_changes_no_byte(raw, data_dir, tmp_path):
    build(S10, raw, tmp_path, num_workers=2)

    assert contents(tmp_path) == contents(data_dir / S10)


def test_a_built_data_set_is_left_alone(raw, data_dir):
    before = contents(data_dir)

    report = build(WHOLE, raw / "nowhere", data_dir)

    assert report.was_there
    assert report.splits["train"] > report.splits["test"] > 0
    assert contents(data_dir) == before


def test_nothing_but_the_data_set_stays_behind(data_dir):
    folder = data_dir / S10

    assert sorted(path.name for path in folder.iterdir()) == ["1.0.0", "build.lock"]
    assert (folder / "1.0.0" / "problems.csv").read_text() == "image_id,file,reason\n"


def test_an_interrupted_build_is_not_taken_for_a_whole_one(raw, tmp_path, monkeypatch):
    def interrupted(self, *args):
        yield from ()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Builder, "_generate_examples", interrupted)
        with pytest.raises(KeyboardInterrupt):
            build(S10, raw, tmp_path, num_workers=1)
    finished = len(list((tmp_path / S10 / "unfinished").iterdir()))
    (tmp_path / S10 / "incomplete.ABCDEF_1.0.0").mkdir()  # as kill -9 leaves it

    report = build(S10, raw, tmp_path, num_workers=1)

    assert finished == sum(map(len, plan_splits(raw, "official", 0).values()))
    assert not report.was_there
    assert sorted(path.name for path in (tmp_path / S10).iterdir()) == [
        "1.0.0",
        "build.lock",
    ]


def test_two_builds_of_one_data_set_do_not_meet(raw, tmp_path):
    script = (
        "import fcntl, sys, time; f = open(sys.argv[1], 'w');"
        "fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); time.sleep(60)"
    )
    lock = tmp_path / WHOLE / "build.lock"
    lock.parent.mkdir(parents=True)
    with subprocess.Popen(
        [sys.executable, "-c", script, str(lock)], stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"held\n"
        try:
            with pytest.raises(UserError, match="another process is building"):
                build(WHOLE, raw, tmp_path)
        finally:
            other.kill()


def test_an_empty_split_is_left_out(raw, tmp_path):
    copy = tmp_path / "raw"
    shutil.copytree(raw, copy)
    for path in copy.rglob("*-Test_*"):
        shutil.rmtree(path, ignore_errors=True)

    report = build(WHOLE, copy, tmp_path, num_workers=1)

    assert set(report.splits) == {"train", "validation"}
    assert report.problems > 0
    rows = (report.path / "problems.csv").read_text().splitlines()
    assert len(rows) == report.problems + 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cbis_dsm/official_whole", "unknown data set 'cbis_dsm'; did you mean 'cbis_"),
        ("cbis_ddsm/offical_whole", "no config 'offical_whole'; did you mean 'offici"),
        ("cbis_ddsm", "no config ''"),
    ],
)
def test_misspelt_names(raw, tmp_path, name, message):
    with pytest.raises(UserError, match=message):
        build(name, raw, tmp_path)


def test_a_missing_raw_folder(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such folder"):
        build(WHOLE, tmp_path / "nowhere", tmp_path)


def test_a_data_folder_that_cannot_be_written(raw, tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(UserError, match="cannot be written"):
        build(WHOLE, raw, tmp_path / "file")


def test_beam_that_is_not_installed(raw, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)

    with pytest.raises(UserError, match=r"pip install 'mammo-jax\[beam\]'"):
        build(WHOLE, raw, tmp_path, beam_options=["--runner=DirectRunner"])


def test_every_config_keeps_the_paper_s_proportions():
    assert len(Builder.BUILDER_CONFIGS) == 2 * 5 * 4
    for name, config in Builder.builder_configs.items():
        grid, patch_size = config.packing.grid, config.packing.patch_size
        assert name.startswith(config.options["protocol"])
        assert grid.height / 1152 == grid.width / 896 == patch_size / 224
        assert ("_h" in name) == (grid.height != 1152)


def test_inventory_by_name(raw):
    inventory = take_inventory(WHOLE, raw)

    assert inventory["protocol"] == "official"
    assert inventory["splits"]["train"]["images_missing"] == 0


def test_it_is_a_tfds_data_set_without_tensorflow(raw, data_dir):
    """In a process of its own, as a user of TFDS would read it."""
    script = f"""
import sys
import tensorflow_datasets as tfds
import tfds_builders.cbis_ddsm.cbis_ddsm_dataset_builder
name, data_dir = {WHOLE!r}, {str(data_dir)!r}
source = tfds.data_source(name, data_dir=data_dir, split="train", download=False)
builder = tfds.builder(name, data_dir=data_dir)
assert "tensorflow" not in sys.modules
print(len(source), source[0]["image"].shape, len(builder.info.citation) > 100)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )

    count = len(plan_splits(raw, "official", 0)["train"])
    assert done.stdout.split("\n")[-2] == f"{count} (288, 224, 1) True"


def test_stored_images_are_plain_png(data_dir):
    """Any reader can decode the records: nothing of ours is needed."""
    builder = open_data(data_dir, S10)
    source = builder.as_data_source(
        "test", decoders={"image": tfds.decode.SkipDecoding()}
    )

    encoded = source[0]["image"]

    assert bytes(encoded[:8]) == b"\x89PNG\r\n\x1a\n"
    image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED)
    assert (image.shape, image.dtype) == ((56, 56), np.uint16)


def test_documentation_is_in_the_data_set(data_dir):
    info = json.loads((data_dir / WHOLE / "1.0.0" / "dataset_info.json").read_text())

    assert "Curated Breast Imaging Subset" in info["description"]
    assert "lee2017curated" in info["citation"]
