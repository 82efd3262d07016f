import collections
import functools
import os
from pathlib import Path

import pytest
from raw_trees import Row, write_tables

from mammo_jax.common.errors import UserError
from mammo_jax.datasets.cbis_ddsm import take_inventory
from mammo_jax.datasets.cbis_tables import TABLE_NAMES, merge_views, read_tables

REAL_TABLES = Path(
    os.environ.get("MAMMO_JAX_CBIS_TABLES")
    or Path(__file__).parents[2] / "../shared/data/cbis_ddsm"
)
needs_real_tables = pytest.mark.skipif(
    not REAL_TABLES.is_dir(),
    reason="the real tables are not here; MAMMO_JAX_CBIS_TABLES names their folder",
)


@functools.cache
def official_inventory():
    """Counts of the real tables, which take seconds to read with types checked."""
    return take_inventory(REAL_TABLES, "official", seed=0)


def test_rows_are_read_stripped(tmp_path):
    row = Row(patient=12, side="RIGHT", view="MLO", number=2, pathology="MALIGNANT")
    write_tables(tmp_path, [row])

    (abnormality,) = read_tables(tmp_path)

    assert abnormality.image_id == "P_00012_RIGHT_MLO"
    assert abnormality.abnormality_id == 2
    assert abnormality.patch_class == "mass_malignant"
    assert abnormality.breast_density == 3
    assert abnormality.image_folder == "Mass-Training_P_00012_RIGHT_MLO"
    assert abnormality.image_series == row.uid("image")
    assert abnormality.roi_folder == "Mass-Training_P_00012_RIGHT_MLO_2"
    assert abnormality.roi_series == (row.uid("series"), row.uid("series"))
    assert abnormality.mask_name == "000001.dcm"


def test_benign_without_callback_is_benign(tmp_path):
    write_tables(tmp_path, [Row(kind="calc", pathology="BENIGN_WITHOUT_CALLBACK")])

    (abnormality,) = read_tables(tmp_path)

    assert abnormality.patch_class == "calc_benign"


def test_a_view_in_two_tables_is_merged_and_malignant_if_either_says_so(tmp_path):
    write_tables(
        tmp_path, [Row(), Row(kind="calc", release="test", pathology="MALIGNANT")]
    )

    (view,) = merge_views(read_tables(tmp_path))

    assert view.is_malignant
    assert [a.patch_class for a in view.abnormalities] == [
        "mass_benign",
        "calc_malignant",
    ]
    assert [folder for folder, _ in view.image_sources] == [
        "Mass-Training_P_00001_LEFT_CC",
        "Calc-Test_P_00001_LEFT_CC",
    ]


def test_a_missing_table_is_named(tmp_path):
    write_tables(tmp_path, [Row()])
    (tmp_path / TABLE_NAMES["calc", "test"]).unlink()

    with pytest.raises(UserError, match=r"calc_case_description_test_set\.csv"):
        read_tables(tmp_path)
    assert len(read_tables(tmp_path, ["train"])) == 1


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("BENIGN", "BENING", r"row 2, column 'pathology': 'BENING' is not MALI"),
        ("LEFT,CC", "LEFT,XX", "row 2, column 'image view': 'XX'"),
        ("LEFT,CC", "MIDDLE,CC", "row 2, column 'left or right breast': 'MIDDLE'"),
        ("P_00001,3", "P_1,3", "row 2, column 'patient id': 'P_1'"),
        ("P_00001,3", "P_00001,dense", "row 2, column 'breast density': 'dense'"),
        ("1,mass,", "1,calcification,", "row 2, column 'abnormality type'"),
        ("1,mass,", "one,mass,", "row 2, column 'abnormality id': 'one'"),
        ("pathology", "pathologie", "row 1: column 'pathology' is missing"),
        ("ROI mask", "ROI masks", "row 1: column 'roi mask file path' is missing"),
        ("/000000.dcm", "/../../../etc/passwd", "column 'image file path'"),
        ("OVAL,", "OVAL,,", "row 2: 15 cells, but the header has 14"),
    ],
)
def test_malformed_tables_stop_and_name_row_and_column(tmp_path, old, new, message):
    write_tables(tmp_path, [Row()])
    path = tmp_path / TABLE_NAMES["mass", "train"]
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))

    with pytest.raises(UserError, match=message):
        read_tables(tmp_path)


def test_an_odd_row_takes_its_view_with_it_and_no_more(tmp_path):
    """The label of a view is the worst of all its rows."""
    malignant = {"pathology": "MALIGNANT"}
    rows = [
        Row(1),
        *(Row(2), Row(2, number=2, **malignant), Row(2, view="MLO")),
        *(Row(3, side="RIGHT"), Row(3, side="RIGHT")),
        *(Row(4), Row(5)),
        Row(6, release="test"),
        *(Row(7), Row(7, release="test", **malignant)),
    ]
    write_tables(tmp_path, rows)
    path = tmp_path / TABLE_NAMES["mass", "train"]
    text = path.read_text().replace("MALIGNANT", "MALIGNENT")
    path.write_text(text.replace("P_00004,3", "P_4,3"))
    problems = []

    found = read_tables(tmp_path, problems=problems)

    ids = [a.image_id for a in found]
    assert ids == ["P_00001_LEFT_CC", "P_00002_LEFT_MLO", *ids[2:]]
    assert ids[2:] == ["P_00005_LEFT_CC", "P_00006_LEFT_CC"]
    reasons = {view: reason for view, _, reason in problems}
    assert len(reasons) == len(problems) == 4
    assert "row 4, column 'pathology': 'MALIGNENT'" in reasons["P_00002_LEFT_CC"]
    assert "is listed twice; remove" in reasons["P_00003_RIGHT_CC"]
    assert "column 'patient id': 'P_4'" in reasons["P_00004_LEFT_CC"]
    assert "is MALIGNANT here and BENIGN in another" in reasons["P_00007_LEFT_CC"]


def test_a_row_whose_patient_and_image_path_are_odd_takes_its_view_with_it(tmp_path):
    """Else the view could be packaged as benign without its malignant row."""
    write_tables(tmp_path, [Row(1), Row(2), Row(2, number=2, pathology="MALIGNANT")])
    path = tmp_path / TABLE_NAMES["mass", "train"]
    *lines, last = path.read_bytes().replace(b'\n"\r\n', b'"\r\n').splitlines(True)
    last = last.replace(b"P_00002,", b"P_2,").replace(b"P_00002_LEFT_CC/", b"P_2/")
    path.write_bytes(b"".join([*lines, last]))
    problems = []

    (found,) = read_tables(tmp_path, problems=problems)

    assert found.image_id == "P_00001_LEFT_CC"
    assert [view for view, _, _ in problems] == ["P_00002_LEFT_CC"]


def test_a_row_that_names_no_view_stops(tmp_path):
    write_tables(tmp_path, [Row(1), Row(2)])
    path = tmp_path / TABLE_NAMES["mass", "train"]
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines, "nonsense\n"]))

    with pytest.raises(UserError, match=r"row 4: 1 cells, but the header has 14.*mend"):
        read_tables(tmp_path, problems=[])


def test_two_labels_for_one_abnormality_in_two_tables_stop(tmp_path):
    write_tables(tmp_path, [Row(), Row(release="test", pathology="MALIGNANT")])

    with pytest.raises(UserError, match=r"test_set\.csv: row 2, column 'pathology'"):
        read_tables(tmp_path)


def test_two_labels_for_one_abnormality_stop(tmp_path):
    write_tables(tmp_path, [Row(), Row(pathology="MALIGNANT")])

    with pytest.raises(UserError, match=r"row 3.*listed twice, with two pathologies"):
        read_tables(tmp_path)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"", b'a,b\n"' + b"x" * 200_000])
def test_files_that_are_no_tables(tmp_path, content):
    write_tables(tmp_path, [Row()])
    (tmp_path / TABLE_NAMES["mass", "train"]).write_bytes(content)

    with pytest.raises(UserError, match="mass_case_description_train_set"):
        read_tables(tmp_path)


@needs_real_tables
@pytest.mark.parametrize(
    ("table", "rows", "patients", "images", "malignant", "benign", "no_callback"),
    [
        ("mass_train", 1318, 691, 1231, 637, 577, 104),
        ("mass_test", 378, 201, 361, 147, 194, 37),
        ("calc_train", 1546, 602, 1227, 544, 528, 474),
        ("calc_test", 326, 151, 284, 129, 130, 67),
    ],
)
def test_counts_of_the_real_tables(
    table, rows, patients, images, malignant, benign, no_callback
):
    inventory = official_inventory()

    assert inventory["tables"][table] == {
        "abnormalities": rows,
        "patients": patients,
        "images": images,
        "pathology": {
            "MALIGNANT": malignant,
            "BENIGN": benign,
            "BENIGN_WITHOUT_CALLBACK": no_callback,
        },
    }


@needs_real_tables
def test_counts_of_the_real_release():
    inventory = official_inventory()

    release = inventory["release"]
    assert release["files"] == 3103
    assert release["views"] == 3032
    assert release["patients"] == 1566
    assert release["duplicates_merged"] == 71
    assert release["duplicates_with_different_labels"] == 16
    assert release["malignant_views"] == 1347
    assert release["views"] - release["malignant_views"] == 1685
    assert release["views_of_mixed_pathology"] == 33
    assert release["abnormalities"] == 3568
    assert release["abnormalities_by_class"] == {
        "calc_benign": 1199,
        "calc_malignant": 673,
        "mass_benign": 912,
        "mass_malignant": 784,
    }
    assert inventory["leaking"]["patients"] == 31
    assert inventory["leaking"]["views_in_both"] == 29
    assert len(inventory["leaking"]["patient_ids"]) == 31
    splits = inventory["splits"]
    assert splits["train"]["patients"] + splits["validation"]["patients"] == 1248
    assert splits["test"]["patients"] == 1566 - 1248


@needs_real_tables
def test_the_paper_protocol_on_the_real_tables():
    inventory = take_inventory(REAL_TABLES, "paper", seed=0)

    assert set(inventory["tables"]) == {"mass_train", "calc_train"}
    assert inventory["release"]["patients"] == 1248
    assert inventory["release"]["files"] == 2458
    patients = {name: s["patients"] for name, s in inventory["splits"].items()}
    assert patients["test"] == pytest.approx(0.15 * 1248, abs=1)
    assert patients["validation"] == pytest.approx(0.1 * 0.85 * 1248, abs=1)
    assert sum(patients.values()) == 1248
    for split in inventory["splits"].values():
        share = split["malignant_patients"] / split["patients"]
        assert share == pytest.approx(
            inventory["release"]["malignant_patients"] / 1248, abs=0.01
        )


@needs_real_tables
def test_most_abnormalities_of_a_real_view():
    views = merge_views(read_tables(REAL_TABLES))

    counts = collections.Counter(len(view.abnormalities) for view in views)
    assert max(counts) == 7
