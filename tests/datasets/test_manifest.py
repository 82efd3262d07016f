import csv

import cv2
import numpy as np
import pytest
from raw_files import write_dicom
from raw_trees import draw_image, draw_mask

from mammo_jax.common.errors import UserError
from mammo_jax.datasets.manifest import (
    make_view_examples,
    plan_splits,
    read_views,
    take_inventory,
)
from mammo_jax.datasets.sampling import PatchSampling
from mammo_jax.datasets.views import Packing
from mammo_jax.images.grid import Grid, stretch_to_full_range

GRID = Grid(128, 96, stretch=True)
WHOLE = Packing(GRID, 32, None)
S10 = Packing(GRID, 32, PatchSampling(per_roi=10))
COLUMNS = ("path", "patient_id", "laterality", "view", "label")


def write_table(path, columns, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


@pytest.fixture
def root(tmp_path):
    """Twenty patients, a third malignant, one image each, as DICOM and PNG."""
    rows = []
    for n in range(20):
        name = f"images/{n}.{'dcm' if n % 2 else 'png'}"
        (tmp_path / "images").mkdir(exist_ok=True)
        if n % 2:
            write_dicom(tmp_path / name, draw_image(n))
        else:
            cv2.imwrite(str(tmp_path / name), draw_image(n))
        rows.append((name, f"patient-{n}", "LEFT", "CC", int(n % 3 == 0)))
    write_table(tmp_path / "manifest.csv", COLUMNS, rows)
    return tmp_path


def test_rows_become_views(root):
    view = read_views(root)[3]

    assert view.image_id == "patient-3_LEFT_CC"
    assert view.is_malignant
    assert view.image == str(root / "images/3.dcm")


def test_splits_are_drawn_by_patient(root):
    splits = plan_splits(root, seed=0)

    sizes = {split: len(views) for split, views in splits.items()}
    assert sizes == {"train": 15, "validation": 2, "test": 3}
    assert sum(view.is_malignant for view in splits["test"]) == 1
    assert plan_splits(root, seed=0) == splits
    assert plan_splits(root, seed=1) != splits


def test_given_splits_are_kept(root):
    rows = [
        (f"images/{n}.dcm", f"p{n}", "LEFT", "CC", 0, split)
        for n, split in enumerate(["train", "test", "train"])
    ]
    write_table(root / "manifest.csv", (*COLUMNS, "split"), rows)

    splits = plan_splits(root, seed=0)

    found = {s: [v.patient_id for v in views] for s, views in splits.items()}
    assert found == {"train": ["p0", "p2"], "test": ["p1"]}


def test_several_images_of_one_view_are_told_apart(root):
    rows = [(f"images/{n}.dcm", "p", "LEFT", "CC", 0) for n in range(3)]
    write_table(root / "manifest.csv", COLUMNS, rows)

    ids = [view.image_id for view in read_views(root)]

    assert ids == ["p_LEFT_CC", "p_LEFT_CC_2", "p_LEFT_CC_3"]


@pytest.mark.parametrize("number", [2, 3])
def test_images_of_any_format_become_examples(root, number):
    result = make_view_examples(read_views(root)[number], WHOLE)

    (example,) = result.examples
    image = cv2.imdecode(np.frombuffer(example["image"], np.uint8), -1)
    np.testing.assert_array_equal(image, stretch_to_full_range(draw_image(number)))
    assert example["label"] == int(number % 3 == 0)
    assert example["rois"]["class"] == []


def test_regions_in_three_ways(root):
    cv2.imwrite(str(root / "mask.png"), draw_mask((60, 30), 10))
    corners = "20 50; 40 50; 40 70; 20 70"
    write_table(
        root / "rois.csv",
        ("path", "class", "mask", "polygon", "circle"),
        [
            ("images/1.dcm", "mass_malignant", "mask.png", "", ""),
            ("images/1.dcm", "mass_benign", "", corners, ""),
            ("images/1.dcm", "calc_benign", "", "", "30, 60, 10"),
        ],
    )

    result = make_view_examples(read_views(root)[1], WHOLE)

    rois = result.examples[0]["rois"]
    assert rois["class"] == [4, 3, 1]
    for box in rois["bbox"]:
        np.testing.assert_allclose(box, [50, 20, 71, 41], atol=1)
    assert result.problems == []
    patches = make_view_examples(read_views(root)[1], S10).examples
    assert len(patches) == 60


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("circle", "1 2", "its circle '1 2' is malformed"),
        ("polygon", "1 2 3; 4", "its polygon '1 2 3; 4' is malformed"),
        ("mask", "nowhere.png", "no such file"),
    ],
)
def test_regions_that_cannot_be_read_are_listed(root, column, value, message):
    row = {"path": "images/1.dcm", "class": "mass_benign", column: value}
    write_table(root / "rois.csv", list(row), [list(row.values())])

    whole, patches = (
        make_view_examples(read_views(root)[1], packing) for packing in (WHOLE, S10)
    )

    assert message in whole.problems[0][1]
    assert len(whole.examples) == 1
    assert patches.examples == []


def test_a_missing_image_is_listed(root):
    (root / "images/2.png").unlink()

    result = make_view_examples(read_views(root)[2], WHOLE)

    assert result.examples == []
    assert "no such file" in result.problems[0][1]
    splits = take_inventory(root, 0)["splits"]
    assert sum(split["images_missing"] for split in splits.values()) == 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("../x.png", "p", "LEFT", "CC", 0), "row 2: '../x.png' leads out of"),
        (("/etc/hosts", "p", "LEFT", "CC", 0), "row 2: '/etc/hosts' leads out of"),
        (("a.png", "p", "up", "CC", 0), "row 2, column 'laterality': 'up'"),
        (("a.png", "p", "LEFT", "XCC", 0), "row 2, column 'view': 'XCC'"),
        (("a.png", "p", "LEFT", "ML", 0), "'ML' is not CC or MLO, .* ML for MLO"),
        (("a.png", "p", "LEFT", "CC", 2), "row 2, column 'label': '2' is not 0 or 1"),
        (
            ("a.png", "../p", "LEFT", "CC", 0),
            "row 2, column 'patient_id': the cell is not",
        ),
        (("", "p", "LEFT", "CC", 0), "row 2, column 'path': ''"),
    ],
)
def test_bad_rows_are_named(tmp_path, row, message):
    write_table(tmp_path / "manifest.csv", COLUMNS, [row])

    with pytest.raises(UserError, match=message):
        read_views(tmp_path)


def test_one_odd_row_stops_nothing(root):
    """Each odd row is told of; only rows that contradict each other go together."""
    rows = [
        *((f"images/{n}.dcm", f"p{n}", "L", "cc", "1.0", "train") for n in (1, 3)),
        ("images/5.dcm", "p5", "LEFT", "ML", 0, "train"),
        ("../x.dcm", "p6", "LEFT", "CC", 0, "train"),
        ("images/7.dcm", "p7", "LEFT", "CC", 0, ""),
        ("images/1.dcm", "p1", "L", "cc", "1.0", "train"),
        ("images/9.dcm", "p9", "LEFT", "CC", 0, "test"),
        ("images/9.dcm", "p9", "LEFT", "CC", 1, "test"),
        ("images/11.dcm", "p11", "LEFT", "CC", 1, "test"),
        ("images/13.dcm", "p11", "RIGHT", "CC", 1, "train"),
        ("images\\15.dcm", "p15", "R", "MLO", "False", "test"),
        ("short",),
    ]
    write_table(root / "manifest.csv", (*COLUMNS, "split"), rows)
    problems = []

    splits = plan_splits(root, 0, problems)

    found = {s: [v.image_id for v in views] for s, views in splits.items()}
    assert found == {
        "train": ["p1_LEFT_CC", "p3_LEFT_CC"],
        "test": ["p15_RIGHT_MLO"],
    }
    assert all(view.is_malignant for view in splits["train"])
    assert splits["test"][0].image == str(root / "images/15.dcm")
    reasons = {where: reason for where, _, reason in problems}
    for where, reason in {
        "row 4": "'ML' is not CC or MLO",
        "row 5": "leads out of",
        "row 6": "column 'split': fill it in every row",
        "row 7": "is also in row 2",
        "row 8": "row 9 says otherwise",
        "row 9": "is also in row 8",
        "p11_LEFT_CC": "in two splits",
        "p11_RIGHT_CC": "in two splits",
        "row 13": "1 cells, but the header has 6",
    }.items():
        assert reason in reasons.pop(where)
    assert reasons == {}
    assert take_inventory(root, 0)["rows_left_out"] == 9


def test_a_region_of_an_odd_row_makes_its_image_s_regions_unknown(root):
    columns = ("path", "class", "mask", "circle")
    rows = [
        ("images/1.dcm", "mass_benign", "", "30 60 10"),
        ("images/1.dcm", "mass", "", "30 60 10"),
        ("images/3.dcm", "mass_benign", "../m.png", ""),
        ("images/99.dcm", "mass_benign", "", "30 60 10"),
    ]
    write_table(root / "rois.csv", columns, rows)
    problems = []

    views = read_views(root, problems)

    assert [where for where, _, _ in problems] == ["row 3", "row 4", "row 5"]
    for number, regions, message in ((1, 1, "'mass' is not"), (3, 0, "leads out of")):
        whole, patches = (make_view_examples(views[number], p) for p in (WHOLE, S10))
        assert len(whole.examples[0]["rois"]["class"]) == regions
        assert message in whole.problems[0][1]
        assert patches.examples == []


def test_rows_of_which_none_is_usable_are_an_error(tmp_path):
    write_table(tmp_path / "manifest.csv", COLUMNS, [("a.png", "p", "up", "CC", 0)])

    with pytest.raises(UserError, match="row 2, column 'laterality'"):
        plan_splits(tmp_path, 0, [])


def test_a_link_that_leads_out_is_refused(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "secret.png").write_bytes(b"")
    (tmp_path / "data" / "a.png").symlink_to(tmp_path / "secret.png")
    rows = [("a.png", "p", "LEFT", "CC", 0)]
    write_table(tmp_path / "data" / "manifest.csv", COLUMNS, rows)

    with pytest.raises(UserError, match="leads out of"):
        read_views(tmp_path / "data")


def test_tables_that_contradict_themselves(root):
    manifest = root / "manifest.csv"
    row = ("images/1.dcm", "p", "LEFT", "CC", 0)

    write_table(manifest, COLUMNS, [row, row])
    with pytest.raises(UserError, match=r"row 3, column 'path'.*also in row 2"):
        read_views(root)
    write_table(
        manifest, (*COLUMNS, "split"), [(*row, "train"), ("b.png", *row[1:], "")]
    )
    with pytest.raises(UserError, match="fill it in every row"):
        read_views(root)
    rows = [(*row, "train"), ("b.png", *row[1:], "test")]
    write_table(manifest, (*COLUMNS, "split"), rows)
    with pytest.raises(UserError, match="patient p is in two splits"):
        plan_splits(root, 0)
    write_table(manifest, COLUMNS, [])
    with pytest.raises(UserError, match="lists no image"):
        plan_splits(root, 0)
    write_table(manifest, COLUMNS[1:], [])
    with pytest.raises(UserError, match="column 'path' is missing"):
        read_views(root)


def test_region_tables_that_do_not_fit(root):
    columns = ("path", "class", "mask", "circle")
    for row, message in (
        (("images/1.dcm", "mass", "", "1 2 3"), "row 2, column 'class': 'mass'"),
        (("images/1.dcm", "mass_benign", "m.png", "1 2 3"), "give one of .*, not 2"),
        (("images/1.dcm", "mass_benign", "", ""), "give one of .*, not 0"),
        (("images/99.dcm", "mass_benign", "", "1 2 3"), r"99.dcm is not in manifest"),
        (("images/1.dcm", "mass_benign", "../m.png", ""), "leads out of"),
    ):
        write_table(root / "rois.csv", columns, [row])
        with pytest.raises(UserError, match=message):
            read_views(root)


def test_a_missing_manifest_says_what_to_write(tmp_path):
    with pytest.raises(UserError, match="path, patient_id, laterality, view, label"):
        read_views(tmp_path)
