"""A folder with bad files: all is built that can be, the rest is listed."""

import csv
import io
import logging
import zlib

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from raw_files import make_dataset, save, write_dicom
from raw_trees import draw_image, draw_mask

from tfds_builders.building import build

SECRETS = ("DOE^JANE", "19501231", "HOSP-4711", "Saint Elsewhere", "1.2.3.4711")


def png(pixels):
    return cv2.imencode(".png", pixels)[1].tobytes()


def write_good(folder):
    """Two images of different patients, with all that may identify them."""
    for number in (0, 1):
        write_dicom(
            folder / f"good{number}.dcm",
            draw_image(number),
            PatientName=SECRETS[0],
            PatientBirthDate=SECRETS[1],
            PatientID=SECRETS[2],
            InstitutionName=SECRETS[3],
            SOPInstanceUID=SECRETS[4],
        )


def write_bad(folder):
    """Each file, and a part of the reason for leaving it out."""
    film = draw_image(5)
    jpeg = io.BytesIO()
    Image.fromarray((film >> 8).astype(np.uint8)).save(jpeg, "JPEG")
    bomb = bytearray(png(film))
    bomb[16:24] = (60000).to_bytes(4, "big") * 2
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    colour = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    files = {
        "cut.png": (png(film)[:2000], "damaged PNG"),
        "cut.jpg": (jpeg.getvalue()[:3000] + b"\xff\xd9", "damaged JPEG"),
        "bomb.png": (bytes(bomb), "claims more pixels than any mammogram has"),
        "colour.png": (png(colour), "in colour"),
        "small.png": (png(film[:8, :8].copy()), "no whole mammogram"),
        "black.png": (png(np.zeros_like(film)), "blank"),
        "text.dcm": (b"Dear colleague", "not a DICOM file"),
        "missing.dcm": (None, "no such file"),
    }
    for name, (content, _) in files.items():
        if content is not None:
            (folder / name).write_bytes(content)
    secret = make_dataset(film, PatientName=SECRETS[0], PatientID=SECRETS[2])
    secret.NumberOfFrames = 20
    save(secret, folder / "series.dcm")
    secret.NumberOfFrames = 1
    secret.Rows = 1000
    save(secret, folder / "cut.dcm")
    (folder / "again.dcm").write_bytes((folder / "good0.dcm").read_bytes())
    return {name: reason for name, (_, reason) in files.items()} | {
        "series.dcm": "holds 20 frames",
        "cut.dcm": "truncated or damaged pixel data",
        "again.dcm": "the same image as good0_LEFT_CC",
    }


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    write_good(folder)
    cv2.imwrite(str(folder / "mask.png"), draw_mask(shape=(64, 96)))
    (folder / "rois.csv").write_text("path,class,mask\ngood1.dcm,mass_benign,mask.png")
    return folder


def test_bad_files_are_listed_and_the_others_built(raw, tmp_path, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    reasons = write_bad(raw)
    names = ["good0.dcm", "good1.dcm", *reasons]
    rows = [[n, n.replace(".", "-"), "LEFT", "CC", 0, "train"] for n in names]
    rows[0][1] = "good0"
    rows.append(["good0.dcm", *SECRETS[:1], "LEFT", "CC", 0, "train"])
    with (raw / "manifest.csv").open("w", newline="") as file:
        header = ["path", "patient_id", "laterality", "view", "label", "split"]
        csv.writer(file).writerows([header, *rows])

    report = build("manifest/whole_h288", raw, tmp_path / "out", num_workers=2)

    assert report.splits == {"train": 2}
    assert report.metadata["repairs"] == {"masks_resized": 1}
    with (report.path / "problems.csv").open(newline="") as file:
        listed = {row["file"]: row["reason"] for row in csv.DictReader(file)}
    assert report.problems == len(reasons) + 1
    odd = listed.pop(str(raw / "manifest.csv"))
    assert odd.startswith(f"row {len(rows) + 1}, column 'patient_id': the cell is not")
    assert set(listed) == {str(raw / name) for name in reasons}
    for name, reason in reasons.items():
        assert reason in listed[str(raw / name)]

    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    texts = [path.read_bytes() for path in written]
    for example in tfds.builder_from_directory(report.path).as_data_source("train"):
        texts.append(repr({k: v for k, v in example.items() if k != "image"}).encode())
    texts += [str(path).encode() for path in written]
    texts += [caplog.text.encode(), "".join(capfd.readouterr()).encode()]
    for secret in SECRETS:
        assert not any(secret.encode() in text for text in texts)
