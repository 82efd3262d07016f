"""INbreast and a manifest, from raw files to records and to a contact sheet."""

import csv
import plistlib
import re

import cv2
import numpy as np
import pydicom
import pytest
import tensorflow_datasets as tfds
from browser import screenshot
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from script_runs import run_script

from mammo_jax.datasets import pipeline
from tfds_builders.building import build, take_inventory
from tfds_builders.inbreast.inbreast_dataset_builder import Builder as Inbreast
from tfds_builders.manifest.manifest_dataset_builder import Builder as Manifest


def draw(seed: int) -> np.ndarray:
    breast = np.zeros((144, 112), np.uint8)
    cv2.ellipse(breast, (0, 72), (90, 60), 0, 0, 360, 1, -1)
    noise = np.random.default_rng(seed).integers(1000, 4000, breast.shape)
    return (breast * noise).astype(np.uint16)


def write_dicom(path, pixels):
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.2"
    dataset.SOPInstanceUID = generate_uid()
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.SamplesPerPixel = 1
    dataset.PixelRepresentation = 0
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 14, 13
    dataset.PixelData = pixels.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)


def inspect_dataset(path, out, count):
    done = run_script("inspect_dataset.py", path, f"--out={out}", f"--count={count}")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def inbreast(tmp_path_factory):
    """Forty patients of one image."""
    raw = tmp_path_factory.mktemp("inbreast")
    root = raw / "INbreast Release 1.0"
    points = ["(20, 60)", "(40, 60)", "(40, 80)", "(20, 80)"]
    lines = [
        "Patient ID;Patient age;Laterality;View;Acquisition date;File Name;ACR;Bi-Rads"
    ]
    for n in range(40):
        name = f"{20586900 + n}_{n:016x}_MG_L_CC_ANON.dcm"
        write_dicom(root / "AllDICOMs" / name, draw(n))
        reading = ("1", "2", "4a", "6")[n % 4]
        lines.append(f"removed;removed;L;CC;200801;{20586900 + n};2;{reading}")
        if reading != "1":
            xml = root / "AllXML" / f"{20586900 + n}.xml"
            xml.parent.mkdir(exist_ok=True)
            rois = [{"Name": "Mass", "Point_px": points, "NumberOfPoints": 4}]
            xml.write_bytes(plistlib.dumps({"Images": [{"ROIs": rois}]}))
    (root / "INbreast.csv").write_text("\r\n".join(lines), newline="")
    return raw


def read(report, split):
    return list(tfds.builder_from_directory(report.path).as_data_source(split))


def test_inbreast_whole_images(inbreast, tmp_path):
    report = build("inbreast/whole_h288", inbreast, tmp_path, num_workers=1)

    assert report.splits == {"train": 28, "validation": 12}
    assert report.problems == 0
    for example in read(report, "validation"):
        assert example["image"].max() == 65535
        assert list(example["rois"]["class"]) in ([], [3 + example["label"]])
    assert report.metadata["config"]["grid"]["stretch"]


def test_inbreast_patches_and_subsets(inbreast, tmp_path):
    whole, part, patches = (
        build(f"inbreast/{name}_h288", inbreast, tmp_path, num_workers=1)
        for name in ("whole", "whole_20patients", "s1")
    )

    assert part.splits == {"train": 20, "validation": 12}
    ids = [{e["image_id"] for e in read(r, "train")} for r in (part, whole)]
    assert ids[0] < ids[1]
    labels = [e["label"] for e in read(patches, "train")]
    assert labels.count(0) == len(labels) / 2
    # Images without a region give no patch and count in the mean all the same.
    assert patches.metadata["pixel_mean"] == whole.metadata["pixel_mean"]


def test_inventories(inbreast):
    inventory = take_inventory("inbreast/whole_20patients", inbreast)

    assert inventory["images"] == 40
    assert list(inventory["splits"]) == ["train", "validation"]


def test_manifest(tmp_path, monkeypatch):
    """In folders whose names hold brackets, given with a tilde."""
    monkeypatch.setenv("HOME", str(tmp_path))
    raw = tmp_path / "raw [2]"
    raw.mkdir()
    rows = []
    for n in range(12):
        cv2.imwrite(str(raw / f"{n}.png"), draw(n))
        split = ("train", "train", "validation", "test")[n % 4]
        rows.append([f"{n}.png", f"p{n}", "RIGHT", "MLO", n % 2, split])
    header = ["path", "patient_id", "laterality", "view", "label", "split"]
    with (raw / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    rois = (
        "path,class,circle\n0.png,mass_benign,40 70 9\n1.png,calc_malignant,40 70 9\n"
    )
    (raw / "rois.csv").write_text(rois)

    whole, patches = (
        build(f"manifest/{name}_h288", "~/raw [2]", "~/[out]", num_workers=1)
        for name in ("whole", "s10")
    )

    assert whole.splits == {"train": 6, "validation": 3, "test": 3}
    assert patches.splits == {"train": 40}
    found = {e["image_id"]: list(e["rois"]["class"]) for e in read(whole, "train")}
    assert found[b"p0_RIGHT_MLO"] == [3]
    assert found[b"p1_RIGHT_MLO"] == [2]
    assert take_inventory("manifest/s10", "~/raw [2]")["splits"]["train"]["rois"] == 2
    opened = pipeline.open_dataset("manifest/whole_h288", "~/[out]")
    assert len(opened.sources["test"]) == 3
    assert opened.grid == (288, 224, True)
    inspect_dataset(whole.path, "~/[out]/sheet.html", count=1)
    assert (tmp_path / "[out]" / "sheet.html").exists()


@pytest.mark.parametrize("builder", [Inbreast, Manifest])
def test_they_are_documented(builder, tmp_path):
    for config in builder.builder_configs:
        built = builder(config=config, data_dir=tmp_path)
        assert len(built.info.description) > 200
        assert built.MANUAL_DOWNLOAD_INSTRUCTIONS


@pytest.mark.parametrize("kind", ["whole", "s1"])
def test_contact_sheet(inbreast, tmp_path, kind):
    report = build(f"inbreast/{kind}_h288", inbreast, tmp_path, num_workers=1)

    inspect_dataset(report.path, tmp_path / "sheets" / "a.html", count=3)

    page = (tmp_path / "sheets" / "a.html").read_text()
    labels = {e["label"] for split in report.splits for e in read(report, split)}
    shown = sum(
        min(3, sum(e["label"] == label for e in read(report, split)))
        for split in report.splits
        for label in labels
    )
    assert page.count("<figure") == shown + len(report.splits)
    assert page.count("Grey levels of") == 2 * len(report.splits)
    assert '<html lang="en">' in page
    assert 'alt=""' not in page
    assert "benign in green, malignant in red" in page
    assert 'src="http' not in page
    for split, count in report.splits.items():
        assert re.search(rf">{split}</t[hd]><td[^>]*>{count}</td>", page)
    assert [path.name for path in (tmp_path / "sheets").iterdir()] == ["a.html"]


@pytest.mark.parametrize("width", [400, 1200])
def test_the_contact_sheet_is_not_cut(inbreast, tmp_path, width):
    """What is drawn at the right edge is the page's own grey."""
    report = build("inbreast/whole_h288", inbreast, tmp_path, num_workers=1)
    inspect_dataset(report.path, tmp_path / "a.html", count=3)

    screenshot(tmp_path / "a.html", tmp_path / "a.png", (width, 1600))

    seen = cv2.imread(str(tmp_path / "a.png"))
    edge = seen[:, -8:].reshape(-1, 3)
    assert (edge == edge[0]).all()
    assert len(np.unique(seen.reshape(-1, 3), axis=0)) > 100


def test_contact_sheet_of_nothing(tmp_path):
    done = run_script("inspect_dataset.py", tmp_path, f"--out={tmp_path}/a.html")
    assert done.returncode == 1
    assert "no built data set" in done.stderr
