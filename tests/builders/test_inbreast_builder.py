"""INbreast from phantoms in its own layout, against its table and its XML files."""

import csv
import itertools
import plistlib

import numpy as np
import pytest
import tensorflow_datasets as tfds

from mammo_jax.common.run_directory import holds_phantoms
from mammo_jax.images.dicom import read_mammogram
from mammo_jax.phantom import write_inbreast
from tfds_builders.building import build

POSITIVE = {"1": 0, "2": 0, "4a": 1, "4b": 1, "4c": 1, "5": 1, "6": 1}


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms") / "raw"
    write_inbreast(folder, cases=10, seed=1, height=200, num_workers=1)
    return folder / "INbreast Release 1.0"


@pytest.fixture(scope="module")
def reports(raw, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return {
        kind: build(f"inbreast/{kind}_h288", raw.parent, folder, num_workers=1)
        for kind in ("whole", "s1")
    }


def test_what_is_packaged_from_phantoms_says_so(raw, reports):
    data_dir = str(reports["whole"].path.parents[2])
    assert holds_phantoms(data_dir, "inbreast/whole_h288")
    assert not holds_phantoms(data_dir, "inbreast/s10_h288")


@pytest.fixture(scope="module")
def rows(raw):
    """The table's rows by the number of their image, without BI-RADS 3."""
    with (raw / "INbreast.csv").open(newline="") as file:
        found = {row["File Name"]: row for row in csv.DictReader(file, delimiter=";")}
    assert any(row["Bi-Rads"] == "3" for row in found.values())
    return {n: row for n, row in found.items() if row["Bi-Rads"] != "3"}


def read(report):
    """Examples of each split."""
    builder = tfds.builder_from_directory(report.path)
    return {name: list(builder.as_data_source(name)) for name in report.splits}


def read_all(report):
    return list(itertools.chain.from_iterable(read(report).values()))


def number_of(example) -> str:
    return example["image_id"].decode().partition("_")[0]


def file_of(raw, number):
    (path,) = (raw / "AllDICOMs").glob(f"{number}_*.dcm")
    return path


def test_every_reading_but_3_is_there_once_as_the_table_says(raw, rows, reports):
    examples = read_all(reports["whole"])

    assert reports["whole"].problems == 0
    assert sorted(map(number_of, examples)) == sorted(rows)
    for example in examples:
        row = rows[number_of(example)]
        side = {"L": "LEFT", "R": "RIGHT"}[row["Laterality"]]
        assert example["label"] == POSITIVE[row["Bi-Rads"]]
        assert (example["laterality"], example["view"]) == (
            side.encode(),
            row["View"].encode(),
        )
        assert example["breast_density"] == int(row["ACR"].strip() or 0)
        path = file_of(raw, number_of(example))
        assert path.name.split("_")[1] == example["patient_id"].decode()


def test_patients_and_their_repeat_examinations_stay_together(reports):
    train, validation = (
        {example["patient_id"] for example in examples}
        for examples in read(reports["whole"]).values()
    )

    assert not train & validation
    # Ten examinations, of which one repeats another.
    assert len(train) + len(validation) == 9


def test_14_bits_are_stretched_to_16(raw, reports):
    for examples in read(reports["whole"]).values():
        for example in examples:
            path = file_of(raw, number_of(example))
            assert read_mammogram(path).bits_stored == 14
            assert example["image"].max() > 60000
    assert 10 < reports["whole"].metadata["pixel_mean"] < 150


def test_every_outline_and_every_dot_is_a_region(raw, reports):
    """Placed by the outline's middle; points outside come to the image's edge."""
    for example in read_all(reports["whole"]):
        path = raw / "AllXML" / f"{number_of(example)}.xml"
        if not path.exists():
            assert len(example["rois"]["bbox"]) == 0
            continue
        header = read_mammogram(file_of(raw, number_of(example)))
        expected = []
        for roi in plistlib.loads(path.read_bytes())["Images"][0]["ROIs"]:
            points = np.array([parse_point(text) for text in roi["Point_px"]])
            points = points.clip(0, [header.columns - 1, header.rows - 1])
            parts = [points] if len(points) > 2 else [p[None] for p in points]
            expected += [(p.min(axis=0) + p.max(axis=0)) / 2 for p in parts]
        boxes = example["rois"]["bbox"]
        assert len(boxes) == len(expected)
        scale = np.array([224 / header.columns, 288 / header.rows])
        for box, middle in zip(boxes, expected, strict=True):
            found = np.array([box[1] + box[3] - 1, box[0] + box[2] - 1]) / 2
            np.testing.assert_allclose(found, middle * scale, atol=2.5)


def parse_point(text: str) -> list[float]:
    return [float(number) for number in text.strip("()").split(", ")]


def test_patches_are_benign_or_malignant_with_their_image(rows, reports):
    examples = read_all(reports["s1"])

    assert {e["label"] for e in examples} == {0, 1, 2, 3, 4}
    for example in examples:
        if example["label"] > 0:
            malignant = example["label"] in (2, 4)
            assert malignant == POSITIVE[rows[number_of(example)]["Bi-Rads"]]
    background = sum(example["label"] == 0 for example in examples)
    assert background == len(examples) / 2
