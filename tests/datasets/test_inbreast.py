import itertools
import plistlib

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from raw_files import write_dicom

from mammo_jax.common.errors import UserError
from mammo_jax.datasets.inbreast import (
    make_view_examples,
    order_patients,
    plan_splits,
    read_rois,
    read_views,
    take_inventory,
)
from mammo_jax.datasets.polygons import circle_points, draw_polygon, polygon_regions
from mammo_jax.datasets.sampling import PatchSampling
from mammo_jax.datasets.views import Packing
from mammo_jax.images.grid import Grid, stretch_to_full_range, to_grid

SHAPE = (200, 150)
GRID = Grid(100, 80, stretch=True)
WHOLE = Packing(GRID, 24, None)
S10 = Packing(GRID, 24, PatchSampling(per_roi=10))
HEADER = (
    "Patient ID;Patient age;Laterality;View;Acquisition date;File Name;ACR;Bi-Rads\r\n"
)
SQUARE = ["(60, 80)", "(89.0, 80.0)", "(89, 119)", "(60, 119)"]


def draw(seed: int) -> np.ndarray:
    """A breast of a 14-bit detector."""
    breast = np.zeros(SHAPE, np.uint8)
    cv2.ellipse(breast, (0, 100), (120, 90), 0, 0, 360, 1, -1)
    noise = np.random.default_rng(seed).integers(1000, 4000, SHAPE)
    return (breast * noise).astype(np.uint16)


def write_xml(path, rois):
    content = {"Images": [{"ROIs": [{"Name": n, "Point_px": p} for n, p in rois]}]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(plistlib.dumps(content))


def write_inbreast(root, readings, rois=None):
    """Two views of each of two breasts per patient would be too much: one view."""
    root = root / "INbreast Release 1.0"
    rows = []
    for number, reading in enumerate(readings):
        image_id, patient = str(20586900 + number), f"{number // 2:016x}"
        name = f"{image_id}_{patient}_MG_{'LR'[number % 2]}_ML_ANON.dcm"
        write_dicom(root / "AllDICOMs" / name, draw(number), BitsStored=14, HighBit=13)
        rows.append(
            f"removed;removed;{'LR'[number % 2]};MLO;201001;{image_id};"
            f"{number % 4 + 1 if number else ' '};{reading}\r\n"
        )
        if reading != "1":
            write_xml(root / "AllXML" / f"{image_id}.xml", rois or [("Mass", SQUARE)])
    (root / "INbreast.csv").write_text(HEADER + "".join(rows), newline="")
    return root


READINGS = ["1", "2", "3", "4a", "4b", "4c", "5", "6"] * 10


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    root = tmp_path_factory.mktemp("inbreast")
    write_inbreast(root, READINGS)
    return root


def test_readings_become_labels_and_threes_are_left_out(raw):
    views = read_views(raw)

    assert len(views) == 70
    assert {view.bi_rads for view in views if view.is_malignant} == {
        "4a",
        "4b",
        "4c",
        "5",
        "6",
    }
    assert {view.bi_rads for view in views if not view.is_malignant} == {"1", "2"}


def test_names_come_from_file_and_table(raw):
    view = read_views(raw)[0]

    assert view.image_id == "20586900_LEFT_MLO"
    assert view.patient_id == "0000000000000000"
    assert (view.laterality, view.view) == ("LEFT", "MLO")
    assert view.breast_density == 0  # the table has blanks there
    assert view.xml == ""


def test_split_is_by_patient_and_stratified(raw):
    splits = plan_splits(raw, seed=0, patients=None)

    patients = {
        name: {v.patient_id: False for v in views} for name, views in splits.items()
    }
    for name, views in splits.items():
        for view in views:
            patients[name][view.patient_id] |= view.is_malignant
    assert not set(patients["train"]) & set(patients["validation"])
    assert len(patients["validation"]) == pytest.approx(0.3 * 40, abs=1)
    shares = [np.mean(list(p.values())) for p in patients.values()]
    assert shares[0] == pytest.approx(shares[1], abs=0.1)


def test_subsets_are_nested_and_keep_the_validation_set(raw):
    splits = [plan_splits(raw, seed=0, patients=n) for n in (5, 10, 20, None)]

    trained = [{v.patient_id for v in split["train"]} for split in splits]
    assert [len(t) for t in trained[:3]] == [5, 10, 20]
    for smaller, larger in itertools.pairwise(trained):
        assert smaller < larger
    assert all(split["validation"] == splits[0]["validation"] for split in splits)


def test_too_large_a_subset_is_refused(raw):
    with pytest.raises(UserError, match="only 28 patients to train on, not 60"):
        plan_splits(raw, seed=0, patients=60)


@given(
    st.dictionaries(st.text("abc", min_size=1), st.booleans(), min_size=1),
    st.integers(0, 99),
)
def test_every_beginning_of_the_order_is_stratified(positive, seed):
    order = order_patients(positive, seed)

    assert sorted(order) == sorted(positive)
    share = np.mean(list(positive.values()))
    for count in range(1, len(order) + 1):
        found = sum(positive[patient] for patient in order[:count])
        assert abs(found - share * count) <= 1


def test_images_are_stretched_before_the_grid(raw):
    view = read_views(raw)[0]

    result = make_view_examples(view, WHOLE)

    (example,) = result.examples
    image = cv2.imdecode(
        np.frombuffer(example["image"], np.uint8), cv2.IMREAD_UNCHANGED
    )
    expected = to_grid(stretch_to_full_range(draw(0)), 100, 80)
    np.testing.assert_array_equal(image, expected)
    assert example["label"] == 0
    assert result.mean == pytest.approx(expected.mean() * 255 / 65535)


def test_regions_are_where_the_points_are(raw):
    view = next(v for v in read_views(raw) if v.bi_rads == "5")

    (example,) = make_view_examples(view, WHOLE).examples

    assert example["rois"]["class"] == [4]
    np.testing.assert_allclose(example["rois"]["bbox"], [[40, 32, 60, 48]], atol=1)


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("Calcification", 2),
        ("Calcifications", 2),
        ("Cluster", 2),
        ("Mass", 4),
        ("Spiculated Region", 4),
        ("Espiculated Region", 4),
        ("Assymetry", 4),
        ("Asymmetry", 4),
        ("Unnamed", 4),
        ("Distortion", 4),
    ],
)
def test_names_of_regions_however_spelt(tmp_path, name, label):
    write_inbreast(tmp_path, ["4a"], [(name, SQUARE)])

    (example,) = make_view_examples(read_views(tmp_path)[0], WHOLE).examples

    assert example["rois"]["class"] == [label]


def test_dots_points_outside_and_unknown_names(tmp_path):
    rois = [
        ("Calcification", ["(30, 40)"]),
        ("Calcification", ["(30, 40)", "(60, 90)"]),
        ("Mass", ["(-50, 50)", "(40, 50)", "(40, 90)", "(-50, 500)"]),
        ("Lump", SQUARE),
    ]
    write_inbreast(tmp_path, ["2"], rois)

    result = make_view_examples(read_views(tmp_path)[0], WHOLE)

    found = result.examples[0]["rois"]
    assert found["class"] == [1, 1, 1, 3, 3]
    boxes = found["bbox"]
    assert boxes[0] == boxes[1]
    assert boxes[0][2] - boxes[0][0] == 1
    assert min(box[1] for box in boxes) == 0
    assert max(box[2] for box in boxes) <= 100
    assert result.repairs == {
        "regions_clipped_to_the_image": 1,
        "regions_of_unknown_name_taken_for_masses": 1,
    }


def test_patches_need_every_region(tmp_path):
    root = write_inbreast(tmp_path, ["5"])
    next((root / "AllXML").iterdir()).write_text("<plist>")

    whole, patches = (
        make_view_examples(read_views(tmp_path)[0], packing) for packing in (WHOLE, S10)
    )

    assert whole.examples[0]["label"] == 1
    assert patches.examples == []
    assert "not a list of regions" in whole.problems[0][1]


def test_patches_of_regions_and_background(raw):
    view = next(v for v in read_views(raw) if v.bi_rads == "2")

    result = make_view_examples(view, S10)

    assert sorted(e["label"] for e in result.examples) == [0] * 10 + [3] * 10


def test_missing_images_are_reported(tmp_path):
    root = write_inbreast(tmp_path, ["1", "5", "5", "1"])
    next((root / "AllDICOMs").glob("20586901*")).unlink()

    inventory = take_inventory(tmp_path, 0, None)
    result = make_view_examples(read_views(tmp_path)[1], WHOLE)

    assert sum(s["images_missing"] for s in inventory["splits"].values()) == 1
    assert result.examples == []
    assert "20586901_*.dcm: no such file" in result.problems[0][1]


def test_a_second_file_of_a_number_is_reported_and_not_used(tmp_path):
    root = write_inbreast(tmp_path, ["5", "5"])
    image = next((root / "AllDICOMs").glob("20586901*"))
    copies = [
        write_dicom(root / "copies" / image.name, draw(9)),
        write_dicom(root / "copies" / "20586901_ff_MG_L_CC_ANON.dcm", draw(8)),
        root / "copies" / "20586901.xml",
    ]
    write_xml(copies[2], [])

    _, view = read_views(tmp_path)
    whole, patches = (make_view_examples(view, packing) for packing in (WHOLE, S10))

    assert view.patient_id == f"{0:016x}"
    assert [path for path, _ in whole.problems] == [
        str(path) for path in sorted(copies[:2]) + copies[2:]
    ]
    assert "another file of image 20586901_RIGHT_MLO is used" in whole.problems[0][1]
    assert view.image == str(image)
    np.testing.assert_array_equal(
        cv2.imdecode(np.frombuffer(whole.examples[0]["image"], np.uint8), -1),
        to_grid(draw(1), 100, 80, stretch=True),
    )
    assert len(whole.examples[0]["rois"]["class"]) == 1
    assert len(patches.examples) == 20


def test_inventory(raw):
    inventory = take_inventory(raw, 0, None)

    assert inventory["images"] == 80
    assert inventory["bi_rads"]["4a"] == 10
    views = [split["views"] for split in inventory["splits"].values()]
    assert sum(views) == 70


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (";1;5", ";1;7", "row 2, column 'bi-rads': '7'"),
        ("Bi-Rads", "Birads", "row 1: column 'bi-rads' is missing"),
        (";L;", ";X;", "row 2, column 'laterality': 'X'"),
        (
            ";20586901;",
            ";20586900;",
            "row 3, column 'file name': 20586900 is listed tw",
        ),
    ],
)
def test_malformed_tables_are_named(tmp_path, old, new, message):
    root = write_inbreast(tmp_path, ["5", "5"])
    table = root / "INbreast.csv"
    table.write_text(table.read_text().replace("; ;5", ";1;5").replace(old, new))

    with pytest.raises(UserError, match=message):
        read_views(tmp_path)


def test_one_odd_row_of_the_table_stops_nothing(tmp_path):
    root = write_inbreast(tmp_path, ["5", "5", "1"])
    table = root / "INbreast.csv"
    table.write_text(table.read_text().replace(";20586901;2;5", ";20586901;2;7"))
    problems = []

    views = read_views(tmp_path, problems)

    assert [view.image_id[:8] for view in views] == ["20586900", "20586902"]
    ((where, path, reason),) = problems
    assert (where, path) == ("row 3", str(table))
    assert "column 'bi-rads': '7'" in reason


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"a;" + b"9" * 200_000])
def test_a_table_that_is_none(tmp_path, content):
    (tmp_path / "INbreast.csv").write_bytes(content)
    write_dicom(tmp_path / "1_ff_MG_L_CC_ANON.dcm", draw(0))

    with pytest.raises(UserError, match=r"INbreast\.csv: not a CSV table"):
        read_views(tmp_path)


def test_a_folder_without_the_table(tmp_path):
    with pytest.raises(UserError, match=r"no INbreast\.csv"):
        read_views(tmp_path)


BOMB = """<?xml version="1.0"?>
<!DOCTYPE plist [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>
<plist version="1.0"><dict><key>Images</key><string>&b;</string></dict></plist>"""


@pytest.mark.parametrize(
    "content",
    [
        BOMB,
        "",
        "<plist><dict><key>Images</key><array/></dict></plist>",
        "<plist><array/></plist>",
    ],
)
def test_hostile_and_broken_xml(tmp_path, content):
    path = tmp_path / "1.xml"
    path.write_text(content)

    with pytest.raises(UserError, match=r"1\.xml: not a list of regions"):
        read_rois(path)


@pytest.mark.parametrize(
    "point", ["(1)", "(1, 2, 3)", "(nan, 1)", "(x, y)", "(inf, 0)"]
)
def test_points_that_are_none(tmp_path, point):
    write_xml(tmp_path / "1.xml", [("Mass", [point, "(1, 2)"])])

    with pytest.raises(UserError, match="not a list of regions"):
        read_rois(tmp_path / "1.xml")


@given(st.floats(20, 130), st.floats(20, 180), st.floats(5, 15), st.integers(1, 3))
def test_circles_have_their_place_and_area(x, y, radius, shrink):
    height, width = SHAPE[0] // shrink, SHAPE[1] // shrink

    mask = draw_polygon(circle_points(x, y, radius), SHAPE, (height, width))

    rows, columns = np.nonzero(mask)
    scale = np.array([height / SHAPE[0], width / SHAPE[1]])
    np.testing.assert_allclose(
        [rows.mean(), columns.mean()],
        (np.array([y, x]) + 0.5) * scale - 0.5,
        atol=0.6,
    )
    # OpenCV also fills the pixels that the outline touches.
    area = np.pi * radius**2 * scale.prod()
    border = 2 * np.pi * radius * scale.mean()
    assert area - 2 <= mask.sum() <= area + border + 6


def test_no_points_no_region():
    assert polygon_regions(np.zeros((0, 2)), SHAPE, (100, 80)) == []
