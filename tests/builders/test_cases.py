"""Files and tables as people really have them, packaged rightly or left out by name."""

import csv
import logging
import shutil

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds
import tifffile
from pydicom.dataset import Dataset
from raw_files import make_dataset, save
from raw_trees import Row, draw_image, write_image, write_tree

from mammo_jax.common.errors import UserError
from mammo_jax.datasets import pipeline, views
from mammo_jax.images.grid import to_grid
from tfds_builders import base, building
from tfds_builders.building import build

# 12 bits, all of which occur; the sixth part at the right is black.
BREAST = (draw_image(1, (360, 180)) >> 4).astype(np.uint16)
BREAST[:, 150:] = 0
BREAST[180, 40] = 4095
PADDED = np.where(np.arange(180) >= 150, np.uint16(4095), BREAST)
FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.2.1"
SIDE = {"ImageLaterality": "L", "ViewPosition": "MLO"}


def dicom(pixels=BREAST, bits=12, **attributes):
    options = {"BitsStored": bits, "HighBit": bits - 1, **attributes}
    return lambda folder: save(make_dataset(pixels, **options), folder / "a.dcm").name


def tiff(pixels, **options):
    def write(folder):
        tifffile.imwrite(folder / "a.tif", pixels, **options)
        return "a.tif"

    return write


def code(value, modifier=""):
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", "x"
    if modifier:
        item.ViewModifierCodeSequence = [code(modifier)]
    return item


def coded(view, modifier=""):
    return dicom(ViewCodeSequence=[code(view, modifier)])


PLAIN = dicom()


def changed(change, write=PLAIN):
    def write_changed(folder):
        path = folder / write(folder)
        path.write_bytes(change(path.read_bytes()))
        return path.name

    return write_changed


def copy_of_good(folder):
    shutil.copy(folder / "good.dcm", folder / "a.dcm")
    return "a.dcm"


# Name: how the file is written, and the pixels that it must equal or a part of what
# problems.csv must say. The table says LEFT MLO.
IMAGES = {
    "plain": (dicom(), BREAST),
    "sides that agree": (dicom(**SIDE), BREAST),
    "MONOCHROME1": (
        dicom(4095 - BREAST, PhotometricInterpretation="MONOCHROME1"),
        BREAST,
    ),
    "negative slope": (
        dicom(4095 - BREAST, RescaleSlope="-1", RescaleIntercept="4095"),
        BREAST,
    ),
    "16-bit TIFF, white is zero": (
        tiff(65535 - BREAST * 16, photometric="miniswhite"),
        BREAST,
    ),
    "12 bits in int16": (dicom(BREAST.astype(np.int16), bits=16), BREAST),
    "12 bits in uint16": (dicom(bits=16), BREAST),
    "white padding": (dicom(PADDED, PixelPaddingValue=4095), BREAST),
    "a range of padding": (
        dicom(
            np.where(PADDED == 4095, np.uint16(4000), PADDED),
            **{"PixelPaddingValue": 3990, "PixelPaddingRangeLimit": 4010},
        ),
        np.where(BREAST == 4095, np.uint16(4000), BREAST),
    ),
    "no transfer syntax": (
        changed(lambda content: content.replace(b"\2\0\x10\0UI", b"\2\0\x11\0UI", 1)),
        BREAST,
    ),
    "no preamble": (changed(lambda content: content[132:]), BREAST),
    "view in a code": (coded("399368009"), BREAST),
    "ML for MLO": (dicom(ViewPosition="ML"), BREAST),
    "raw by intent": (dicom(PresentationIntentType="FOR PROCESSING"), "FOR PROCESSING"),
    "raw by class": (dicom(SOPClassUID=FOR_PROCESSING), "FOR PROCESSING"),
    "magnified": (coded("399368009", "399163009"), "a magnification view"),
    "spot": (coded("399368009", "399055006"), "a spot compression view"),
    "specimen": (coded("127457009"), "a specimen"),
    "a copy": (copy_of_good, "the same image as good_LEFT_MLO"),
    "the other side": (
        dicom(ImageLaterality="R"),
        "LEFT in the table and RIGHT in the file's header",
    ),
    "another view": (
        dicom(ViewPosition="CC", ImageLaterality="L"),
        "MLO in the table and CC in the file's header",
    ),
    "another view by its code": (coded("399162004"), "MLO in the table and CC in"),
    "lying on its side": (dicom(BREAST.T.copy()), "not the shape of a mammogram"),
    "frames that are text": (
        changed(
            lambda content: content.replace(b"IS\2\x003 ", b"IS\2\0JD"),
            dicom(NumberOfFrames=3),
        ),
        "holds several frames",
    ),
    "colour": (tiff(np.stack([BREAST, BREAST, 0 * BREAST], axis=2)), "in colour"),
}
HEADER = "path,patient_id,laterality,view,label\n"


def write_good(folder):
    folder.mkdir()
    save(make_dataset(draw_image(2)), folder / "good.dcm")


def build_whole(folder, name="manifest/whole_h288"):
    return build(name, folder, folder / "out", num_workers=1)


def packaged(report):
    builder = tfds.builder_from_directory(report.path)
    found = [e for name in builder.info.splits for e in builder.as_data_source(name)]
    return {example["patient_id"].decode(): example for example in found}


def reasons(report):
    with (report.path / "problems.csv").open(newline="") as file:
        return [row["reason"] for row in csv.DictReader(file)]


@pytest.mark.parametrize("case", IMAGES)
def test_images(tmp_path, case):
    write, right = IMAGES[case]
    folder = tmp_path / "raw"
    write_good(folder)
    name = write(folder)
    rows = f"good.dcm,good,LEFT,MLO,0\n{name},case,LEFT,MLO,1\n"
    (folder / "manifest.csv").write_text(HEADER + rows)

    report = build_whole(folder)

    found = packaged(report)
    if isinstance(right, str):
        assert set(found) == {"good"}
        (reason,) = reasons(report)
        assert right in reason
        assert "JD" not in reason
    else:
        assert reasons(report) == []
        image = found["case"]["image"][..., 0].astype(int)
        expected = to_grid(right, 288, 224, stretch=True)
        # The same picture in 12 and 16 bits differs by the rounding of a step.
        assert np.abs(image - expected).max() <= 32


# Name: the manifest's bytes, with FILES for an image in a folder, and what must be
# said; nothing if it must be read as if it were written as it should be.
TABLES = {
    "as it should be": (HEADER + "images/1.dcm,p1,LEFT,CC,1\n", ""),
    "semicolons and a mark": (
        "\ufeffpath;patient_id;laterality;view;label\nimages/1.dcm;p1;L;CC;1\n",
        "",
    ),
    "tabulators": (HEADER.replace(",", "\t") + "images/1.dcm\tp1\tl\tcc\t1\n", ""),
    "decimal commas": (
        HEADER.replace(",", ";") + "images/1.dcm;p1;LEFT;CC;1,0\n",
        "",
    ),
    "a label in words": (HEADER + "images/1.dcm,p1,Left,CC,True\n", ""),
    "a label with a point": (HEADER + "images/1.dcm,p1,L,CC,1.0\n", ""),
    "backslashes": (HEADER + "images\\1.dcm,p1,LEFT,CC,1\n", ""),
    "Windows' line ends": (HEADER[:-1] + "\r\nimages/1.dcm,p1,LEFT,CC,1\r\n", ""),
    "capitals": (HEADER.upper() + "images/1.dcm,p1,LEFT,CC,1\n", ""),
    "bars": (
        HEADER.replace(",", "|") + "images/1.dcm|p1|LEFT|CC|1\n",
        r"column 'path' is missing \(separated by '\|'\?\)",
    ),
    "ML": (HEADER + "images/1.dcm,p1,LEFT,ML,1\n", "some sets write ML for MLO"),
    "a label in between": (HEADER + "images/1.dcm,p1,LEFT,CC,0.5\n", "'0.5' is not 0"),
    "another side": (HEADER + "images/1.dcm,p1,B,CC,1\n", "'B' is not LEFT or RIGHT"),
    "no label": (
        HEADER.replace(",label", "") + "images/1.dcm,p1,LEFT,CC\n",
        "column 'label' is missing",
    ),
}


@pytest.mark.parametrize("case", TABLES)
def test_tables(tmp_path, case):
    text, message = TABLES[case]
    folder = tmp_path / "raw"
    save(make_dataset(draw_image(2)), folder / "images" / "1.dcm")
    (folder / "manifest.csv").write_bytes(text.encode())

    if message:
        with pytest.raises(UserError, match=message):
            build_whole(folder)
        return
    example = packaged(build_whole(folder))["p1"]
    assert example["image_id"] == b"p1_LEFT_CC"
    assert example["label"] == 1


@pytest.mark.parametrize(
    ("delimiter", "circle"),
    [(",", "40 60 9.5"), (";", "40,0 60 9,5"), (",", "40,60,9.5")],
)
def test_decimal_commas_of_regions(tmp_path, delimiter, circle):
    folder = tmp_path / "raw"
    write_good(folder)
    (folder / "manifest.csv").write_text(HEADER + "good.dcm,p1,LEFT,CC,1\n")
    with (folder / "rois.csv").open("w", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerows(
            [["path", "class", "circle"], ["good.dcm", "mass_benign", circle]]
        )

    (box,) = packaged(build_whole(folder))["p1"]["rois"]["bbox"]

    # From 128x96 pixels to the grid of 288x224.
    np.testing.assert_allclose(box, [113, 71, 157, 116], atol=2)


def test_one_picture_that_no_codec_can_take_stops_nothing(tmp_path, monkeypatch):
    folder = tmp_path / "raw"
    write_good(folder)
    shutil.copy(folder / "good.dcm", folder / "bad.dcm")
    rows = "bad.dcm,bad,LEFT,MLO,0\ngood.dcm,good,LEFT,MLO,0\n"
    (folder / "manifest.csv").write_text(HEADER + rows)

    def read(path):
        if path.endswith("bad.dcm"):
            raise cv2.error("a codec's own words")
        return real(path)

    real = views.read_image
    monkeypatch.setattr(views, "read_image", read)
    # In this process, which knows the stand-in.
    monkeypatch.setattr(base, "parallel_map", lambda make, tasks, **_: map(make, tasks))
    report = build_whole(folder)

    assert set(packaged(report)) == {"good"}
    assert reasons(report) == [
        f"{folder / 'bad.dcm'}: cannot be read (error); export it again"
    ]


def test_films_of_another_range_are_left_out(tmp_path):
    """CBIS-DDSM is not stretched: 12 bits would be almost black beside 16."""
    folder = tmp_path / "raw"
    rows = [Row(n, pathology=("BENIGN", "MALIGNANT")[n % 2]) for n in range(8)]
    write_tree(folder, rows)
    write_image(folder, rows[0], draw_image(0) >> 4)

    report = build_whole(folder, "cbis_ddsm/paper_whole_h288")

    (reason,) = reasons(report)
    assert "less than a sixteenth of the range that its header claims" in reason
    assert sum(report.splits.values()) == 7


def test_what_an_older_version_packaged_is_told_of(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.WARNING)
    folder = tmp_path / "raw"
    write_good(folder)
    rows = "".join(f"good.dcm,p{n},LEFT,MLO,0\n" for n in range(1))
    (folder / "manifest.csv").write_text(HEADER + rows)
    report = build_whole(folder)
    pipeline.open_dataset("manifest/whole_h288", str(folder / "out"))
    assert caplog.text == ""

    path = report.path / "metadata.json"
    text = path.read_text()
    assert '"examples_version"' in text
    path.write_text(text.replace('"examples_version"', '"nothing"'))

    pipeline.open_dataset("manifest/whole_h288", str(folder / "out"))
    building.build("manifest/whole_h288", folder, folder / "out", num_workers=1)
    assert (
        caplog.text.count("built by an older version, which may have read padding") == 2
    )
