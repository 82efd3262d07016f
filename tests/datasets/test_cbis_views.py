"""The quirks of CBIS-DDSM's files, one by one."""

import shutil

import cv2
import numpy as np
import pytest
from raw_files import write_dicom
from raw_trees import (
    HEIGHT,
    WIDTH,
    Row,
    draw_image,
    draw_mask,
    write_image,
    write_roi,
    write_tables,
    write_tree,
)

from mammo_jax.common.errors import UserError
from mammo_jax.datasets.cbis_files import find_files, index_files
from mammo_jax.datasets.cbis_tables import merge_views, read_tables
from mammo_jax.datasets.cbis_views import make_view_examples
from mammo_jax.datasets.records import split_outlines
from mammo_jax.datasets.sampling import PatchSampling
from mammo_jax.datasets.views import Packing, ViewResult
from mammo_jax.images.grid import Grid

GRID = Grid(HEIGHT, WIDTH, stretch=False)
WHOLE = Packing(GRID, 32, None)
S10 = Packing(GRID, 32, PatchSampling(per_roi=10))


def results(root, packing=WHOLE) -> list[ViewResult]:
    """Every view of a tree, made into examples."""
    index = index_files(root)
    views = merge_views(read_tables(root))
    return [make_view_examples(find_files(view, index), packing) for view in views]


def decode(example) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(example["image"], np.uint8), cv2.IMREAD_UNCHANGED)


def roi_mask(example) -> np.ndarray:
    """The first region."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.fillPoly(mask, [split_outlines(example)[0][:, ::-1]], 255)
    return mask


def test_a_view_becomes_an_example(tmp_path):
    write_tree(tmp_path, [Row(pathology="MALIGNANT")])

    (result,) = results(tmp_path)

    (example,) = result.examples
    np.testing.assert_array_equal(decode(example), draw_image(1))
    np.testing.assert_array_equal(roi_mask(example), draw_mask((50, 30)))
    assert example["rois"]["bbox"] == [[40, 20, 61, 41]]
    assert example["rois"]["class"] == [4]
    assert {
        k: v for k, v in example.items() if k not in ("image", "rois", "outlines")
    } == {
        "label": 1,
        "image_id": "P_00001_LEFT_CC",
        "patient_id": "P_00001",
        "laterality": "LEFT",
        "view": "CC",
        "breast_density": 3,
    }
    assert result.mean == pytest.approx(draw_image(1).mean() * 255 / 65535)
    assert result.repairs == {}
    assert result.problems == []


@pytest.mark.parametrize("kind", ["mass", "calc"])
@pytest.mark.parametrize("exchanged", [False, True])
def test_mask_and_crop_are_told_apart_by_content(tmp_path, kind, exchanged):
    row = Row(kind=kind)
    write_tables(tmp_path, [row])
    write_image(tmp_path, row, draw_image())
    crop = draw_image()[40:70, 10:40].copy()
    write_roi(tmp_path, row, draw_mask(), crop, exchanged=exchanged)

    (result,) = results(tmp_path)

    np.testing.assert_array_equal(roi_mask(result.examples[0]), draw_mask())
    assert result.repairs == ({"masks_and_crops_exchanged": 1} if exchanged else {})


def test_a_crop_of_eight_bits_is_not_taken_for_the_mask(tmp_path):
    row = Row()
    write_tables(tmp_path, [row])
    write_image(tmp_path, row, draw_image())
    crop = (draw_image() >> 8).astype(np.uint8)
    write_roi(tmp_path, row, draw_mask(), crop, exchanged=True)

    (result,) = results(tmp_path)

    np.testing.assert_array_equal(roi_mask(result.examples[0]), draw_mask())


def test_masks_of_ones_are_masks(tmp_path):
    row = Row()
    write_tables(tmp_path, [row])
    write_image(tmp_path, row, draw_image())
    write_roi(tmp_path, row, draw_mask() // 255, draw_image()[:9, :9].copy())

    (result,) = results(tmp_path)

    np.testing.assert_array_equal(roi_mask(result.examples[0]), draw_mask())


@pytest.mark.parametrize("scale", [0.87, 1.15])
def test_masks_of_another_size_are_resized_to_their_image(tmp_path, scale):
    row = Row()
    write_tables(tmp_path, [row])
    write_image(tmp_path, row, draw_image())
    size = (round(WIDTH * scale) + 2, round(HEIGHT * scale))
    small = cv2.resize(draw_mask(), size, interpolation=cv2.INTER_NEAREST)
    write_roi(tmp_path, row, small, draw_image()[:9, :9].copy())

    (result,) = results(tmp_path)

    found = roi_mask(result.examples[0]) > 0
    truth = draw_mask() > 0
    assert (found & truth).sum() / (found | truth).sum() > 0.8
    assert result.repairs == {"masks_resized": 1}


def test_masks_of_another_image_are_refused(tmp_path):
    row = Row()
    write_tables(tmp_path, [row])
    write_image(tmp_path, row, draw_image())
    write_roi(tmp_path, row, draw_mask(shape=(WIDTH, HEIGHT)), draw_image()[:9].copy())

    (result,) = results(tmp_path)

    assert result.examples[0]["rois"]["class"] == []
    assert "does not fit the image of 128x96" in result.problems[0][1]


def test_an_empty_mask_is_a_problem(tmp_path):
    row = Row()
    write_tables(tmp_path, [row])
    write_image(tmp_path, row, draw_image())
    write_roi(tmp_path, row, 0 * draw_mask(), draw_image()[:9].copy())

    (result,) = results(tmp_path)

    assert "the mask is empty" in result.problems[0][1]


def test_a_view_in_two_tables_has_all_its_regions(tmp_path):
    rows = [
        Row(number=1),
        Row(number=2, pathology="MALIGNANT"),
        Row(kind="calc", release="test"),
    ]
    write_tree(tmp_path, rows)

    (result,) = results(tmp_path)

    (example,) = result.examples
    assert example["rois"]["class"] == [3, 4, 1]
    assert example["label"] == 1


def test_the_second_copy_stands_in_for_a_damaged_first(tmp_path):
    rows = [Row(), Row(kind="calc")]
    write_tree(tmp_path, rows)
    first = write_image(tmp_path, rows[0], draw_image(5))
    first.write_bytes(first.read_bytes()[:-999])

    (result,) = results(tmp_path)

    np.testing.assert_array_equal(decode(result.examples[0]), draw_image(1))
    assert result.repairs == {"other_copy_of_image_used": 1}
    assert result.problems == []


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.full((HEIGHT, WIDTH), 9, np.uint16), "the image is blank"),
        (np.eye(HEIGHT, WIDTH, dtype=np.uint16), "has two grey values only"),
        (draw_image()[:20, :20].copy(), "20x20 pixels are no whole mammogram"),
    ],
)
def test_images_that_cannot_be_whole_mammograms_are_skipped(tmp_path, image, message):
    write_tree(tmp_path, [Row()])
    write_image(tmp_path, Row(), image)

    (result,) = results(tmp_path)

    assert result.examples == []
    assert message in result.problems[0][1]


def test_a_damaged_image_is_skipped_and_named(tmp_path):
    write_tree(tmp_path, [Row()])
    path = write_image(tmp_path, Row(), draw_image())
    path.write_bytes(path.read_bytes()[:-100])

    (result,) = results(tmp_path)

    assert result.examples == []
    assert result.problems[0][0] == str(path)
    assert "truncated or damaged" in result.problems[0][1]


def test_a_missing_image_is_skipped_and_named(tmp_path):
    write_tree(tmp_path, [Row()])
    shutil.rmtree(tmp_path / Row().image_folder)

    (result,) = results(tmp_path)

    assert result.examples == []
    assert result.problems == [
        ("Mass-Training_P_00001_LEFT_CC", "no image found: download the folder")
    ]


def test_without_its_mask_a_whole_image_keeps_its_label(tmp_path):
    write_tree(tmp_path, [Row(pathology="MALIGNANT")])
    shutil.rmtree(tmp_path / Row().roi_folder)

    (result,) = results(tmp_path)

    assert result.examples[0]["label"] == 1
    assert result.examples[0]["rois"]["class"] == []
    assert result.repairs == {"masks_missing": 1}
    assert result.problems == []


def test_without_a_mask_there_are_no_patches_of_an_image(tmp_path):
    """One of background might show the lesion."""
    rows = [Row(number=1), Row(number=2)]
    write_tree(tmp_path, rows)
    shutil.rmtree(tmp_path / rows[1].roi_folder)

    (result,) = results(tmp_path, S10)

    assert result.examples == []
    assert result.problems[0][0] == "Mass-Training_P_00001_LEFT_CC_2"
    assert "no mask found" in result.problems[0][1]


def test_a_damaged_mask_is_named(tmp_path):
    row = Row()
    write_tree(tmp_path, [row])
    mask, _ = write_roi(tmp_path, row, draw_mask(), draw_image()[:9].copy())
    mask.write_bytes(mask.read_bytes()[:-50])

    (result,) = results(tmp_path)

    assert str(mask) in result.problems[0][1]
    assert "truncated" in result.problems[0][1]


def test_patches_show_the_image_where_they_say(tmp_path):
    write_tree(tmp_path, [Row(number=1), Row(number=2, pathology="MALIGNANT")])

    (result,) = results(tmp_path, S10)

    padded = np.pad(draw_image(1), 32)
    labels = [example["label"] for example in result.examples]
    assert sorted(labels) == [0] * 20 + [3] * 10 + [4] * 10
    for example in result.examples:
        row, column = (c + 32 - 16 for c in example["centre"])
        truth = padded[row : row + 32, column : column + 32]
        np.testing.assert_array_equal(decode(example), truth)
        assert example["image_id"] == "P_00001_LEFT_CC"
        assert (example["overlap"] > 0.9) == (example["label"] != 0)


@pytest.mark.parametrize(
    "inside",
    [
        "01-01-2017-DDSM-NA-12345/1.000000-ROI mask images-54321",
        "1.2.3/4.5.6",
        "01-01-2017-DDSM-12345/1-ROI mask images-54321",
        ".",
    ],
)
@pytest.mark.parametrize("above", [".", "manifest-1/CBIS-DDSM"])
def test_files_are_found_in_every_layout(tmp_path, inside, above):
    row = Row()
    write_tables(tmp_path, [row])
    image, roi = (
        tmp_path / above / folder / inside
        for folder in (row.image_folder, row.roi_folder)
    )
    write_dicom(image / "000000.dcm", draw_image())
    write_dicom(roi / "000000.dcm", draw_image()[:9].copy())
    write_dicom(roi / "000001.DCM", draw_mask())

    (result,) = results(tmp_path)

    assert len(result.examples[0]["rois"]["class"]) == 1
    assert result.problems == []


@pytest.mark.parametrize("by", ["PatientID", "SeriesInstanceUID"])
def test_files_without_their_folders_are_found_by_their_headers(tmp_path, by):
    row = Row()
    write_tables(tmp_path, [row])
    flat = tmp_path / "files"
    values = {
        "PatientID": (row.image_folder, row.roi_folder),
        "SeriesInstanceUID": (row.uid("image"), row.uid("series")),
    }[by]
    write_dicom(flat / "a.dcm", draw_image(), **{by: values[0]})
    write_dicom(flat / "b.dcm", draw_mask(), **{by: values[1]})
    write_dicom(flat / "c.dcm", draw_image()[:9].copy(), **{by: values[1]})
    write_dicom(flat / "d.dcm", draw_image(9))
    (flat / "e.dcm").write_bytes(b"not DICOM")

    (result,) = results(tmp_path)

    np.testing.assert_array_equal(decode(result.examples[0]), draw_image())
    assert len(result.examples[0]["rois"]["class"]) == 1


def test_mask_and_crop_in_two_series(tmp_path):
    row = Row()
    write_tables(tmp_path, [row])
    write_image(tmp_path, row, draw_image())
    folder = tmp_path / row.roi_folder
    write_dicom(folder / "1-cropped images-1" / "1-1.dcm", draw_image()[:9].copy())
    write_dicom(folder / "1-ROI mask images-2" / "1-1.dcm", draw_mask())

    (result,) = results(tmp_path)

    assert len(result.examples[0]["rois"]["class"]) == 1


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        index_files(tmp_path / "nowhere")
