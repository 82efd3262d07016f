"""The synthetic set has CBIS-DDSM's form, with each of its oddities."""

import collections
import csv
import dataclasses
import hashlib
import os
import re
from pathlib import Path

import numpy as np
import pydicom
import pytest

from mammo_jax.common.errors import UserError
from mammo_jax.phantom import write_cbis_ddsm
from mammo_jax.phantom.catalogue import make_catalogue
from mammo_jax.phantom.cbis_layout import draw_view
from mammo_jax.phantom.mammogram import VERSION

CASES = 12
HEIGHT = 192
REAL_TABLES = Path(
    os.environ.get(
        "MAMMO_JAX_CBIS_TABLES",
        Path(__file__).parents[2] / "../shared/data/cbis_ddsm",
    )
)


@dataclasses.dataclass
class File:
    path: Path
    header: pydicom.Dataset
    pixels: np.ndarray

    @property
    def is_mask(self):
        return self.pixels.dtype == np.uint8


@dataclasses.dataclass
class Set:
    root: Path
    rows: list[dict[str, str]]
    files: dict[str, list[File]]

    def roi_files(self, row):
        return self.files[row["ROI mask file path"].split("/")[0]]

    def image(self, row):
        (file,) = self.files[row["image file path"].split("/")[0]]
        return file

    def mask(self, row):
        (mask,) = [file for file in self.roi_files(row) if file.is_mask]
        return mask


def view_of(row):
    return (row["patient_id"], row["left or right breast"], row["image view"])


def read_tables(root):
    rows = []
    for path in sorted(root.glob("*_case_description_*_set.csv")):
        with path.open(newline="") as stream:
            for row in csv.DictReader(stream):
                row["table"] = path.name
                rows.append(row)
    return rows


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("phantom") / "raw"
    write_cbis_ddsm(root, cases=CASES, seed=3, height=HEIGHT, num_workers=1)
    files = collections.defaultdict(list)
    for path in sorted(root.rglob("*.dcm")):
        header = pydicom.dcmread(path)
        file = File(path, header, header.pixel_array)
        files[path.relative_to(root / "CBIS-DDSM").parts[0]].append(file)
    return Set(root, read_tables(root), dict(files))


def digest(root):
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file()
    }


def test_same_seed_gives_same_bytes_whatever_the_workers(tmp_path):
    for name, seed, workers in (("a", 1, 1), ("b", 1, 2), ("c", 2, 1)):
        write_cbis_ddsm(
            tmp_path / name, cases=2, seed=seed, height=128, num_workers=workers
        )
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    assert digest(tmp_path / "a") != digest(tmp_path / "c")


def test_other_drawings_have_another_version():
    # Scores of these travel with models. Raise VERSION with the means.
    means = [
        draw_view(0, breast, breast.views[0], 288).pixels.mean()
        for breast in make_catalogue(0, 4, 0.2)
    ]
    assert VERSION == 1
    assert means == pytest.approx([8440.59, 5821.92, 4717.04, 8009.59], rel=1e-4)


@pytest.mark.parametrize("kind", ["mass", "calc"])
@pytest.mark.parametrize("release", ["train", "test"])
def test_tables_have_the_real_form(written, kind, release):
    name = f"{kind}_case_description_{release}_set.csv"
    if not (REAL_TABLES / name).is_file():
        pytest.skip("the real tables are not here; set MAMMO_JAX_CBIS_TABLES")
    ours, real = (root / name for root in (written.root, REAL_TABLES))
    texts = [path.read_bytes() for path in (ours, real)]
    assert texts[0].split(b"\r\n")[0] == texts[1].split(b"\r\n")[0]
    assert texts[0].endswith(b"\r\n")
    for text in texts:
        # One bare line feed within each row, the row's own end being CR LF.
        body = text.split(b"\r\n", 1)[1]
        assert body.count(b"\n") == 2 * body.count(b"\r\n")
        assert body.count(b'\n"') == body.count(b"\r\n")
    with real.open(newline="") as stream:
        known = list(csv.DictReader(stream))
    columns = ("abnormality type", "pathology", "image view", "left or right breast")
    for row in written.rows:
        if row["table"] == name:
            for column in columns:
                assert row[column] in {r[column] for r in known}


def test_paths_in_tables_agree_with_uids_in_headers(written):
    for row in written.rows:
        folder, study, series, name = row["image file path"].split("/")
        header = written.image(row).header
        assert re.fullmatch(
            r"(Mass|Calc)-(Training|Test)_P_\d{5}_(LEFT|RIGHT)_(CC|MLO)", folder
        )
        assert name == "000000.dcm"
        assert header.StudyInstanceUID == study
        assert header.SeriesInstanceUID == series
        assert header.PatientID == folder
        files = written.roi_files(row)
        for column in ("cropped image file path", "ROI mask file path"):
            folder, study, series, _ = row[column].split("/")
            assert folder == f"{view_of_folder(row)}_{row['abnormality id']}"
            found = [
                f
                for f in files
                if f.header.SeriesInstanceUID == series
                and f.header.StudyInstanceUID == study
            ]
            assert found


def view_of_folder(row):
    return row["image file path"].split("/")[0]


def test_full_images_are_16_bit_films_without_a_window(written):
    for row in written.rows:
        header = written.image(row).header
        assert header.SOPClassUID == pydicom.uid.SecondaryCaptureImageStorage
        assert (header.Modality, header.BitsStored) == ("MG", 16)
        assert header.PhotometricInterpretation == "MONOCHROME2"
        assert header.PatientOrientation == row["image view"]
        assert header.Laterality == row["left or right breast"][0]
        assert "ViewPosition" not in header
        assert "WindowCenter" not in header


def test_every_uid_is_unique_to_its_file(written):
    uids = [f.header.SOPInstanceUID for files in written.files.values() for f in files]
    assert len(set(uids)) == len(uids)
    assert all(len(uid) <= 64 and uid.is_valid for uid in uids)


def test_masks_hold_two_values_and_crops_are_small(written):
    for row in written.rows:
        image = written.image(row).pixels
        mask, crop = sorted(written.roi_files(row), key=lambda f: not f.is_mask)
        assert set(np.unique(mask.pixels)) == {0, 255}
        assert crop.pixels.dtype == np.uint16
        assert crop.pixels.size < image.size / 20
        ratio = mask.pixels.shape[0] / image.shape[0]
        assert 0.8 < ratio < 1.1


def test_crop_is_a_part_of_the_image_around_the_mask(written):
    row = next(r for r in written.rows if "_CC" in r["image file path"])
    image, mask = written.image(row).pixels, written.mask(row).pixels
    (crop,) = [f.pixels for f in written.roi_files(row) if not f.is_mask]
    windows = np.lib.stride_tricks.sliding_window_view(image, crop.shape)
    corners = np.argwhere((windows == crop).all(axis=(2, 3)))
    ((top, left),) = corners
    inside = np.argwhere(mask)
    assert (inside.min(axis=0) >= (top, left)).all()
    assert (inside.max(axis=0) < (top + crop.shape[0], left + crop.shape[1])).all()


def test_some_images_are_run_length_encoded(written):
    syntaxes = {
        f.header.file_meta.TransferSyntaxUID.name
        for files in written.files.values()
        for f in files
    }
    assert syntaxes == {"RLE Lossless", "Explicit VR Little Endian"}


def test_three_folder_layouts_occur(written):
    patterns = {
        "current": (
            r"\d\d-\d\d-\d{4}-DDSM-NA-\d{5}/1\.000000-[A-Za-z ]+-\d{5}/1-\d\.dcm"
        ),
        "plain": r"2\.25\.\d+/2\.25\.\d+/1-\d\.dcm",
        "older": r"\d\d-\d\d-\d{4}-DDSM-\d{5}/1-[A-Za-z ]+-\d{5}/00000\d\.dcm",
    }
    seen = collections.Counter()
    for path in written.root.rglob("*.dcm"):
        tail = "/".join(path.parts[-3:])
        matching = [n for n, p in patterns.items() if re.fullmatch(p, tail)]
        assert len(matching) == 1
        seen[matching[0]] += 1
    assert set(seen) == set(patterns)
    assert seen["current"] > sum(seen.values()) / 2


def numbered(file):
    """The file's number as the tables count."""
    return int(file.header.InstanceNumber) - 1


def test_mask_and_crop_are_swapped_in_columns_and_on_disk(written):
    columns, disk = 0, 0
    for row in written.rows:
        named = int(row["ROI mask file path"].strip()[-7:-4])
        usual = {"mass": 1, "calcification": 0}[row["abnormality type"]]
        if numbered(written.mask(row)) != named:
            columns += named != usual
            disk += named == usual
    assert columns > 0
    assert disk > 0
    assert columns + disk < len(written.rows) / 2


def test_some_masks_differ_from_their_images_in_size(written):
    ratios = {
        round(written.mask(r).pixels.shape[0] / written.image(r).pixels.shape[0], 2)
        for r in written.rows
        if written.mask(r).pixels.shape != written.image(r).pixels.shape
    }
    assert 0.85 in ratios
    assert any(1.0 < ratio < 1.06 for ratio in ratios)


def test_some_views_have_several_abnormalities(written):
    counts = collections.Counter((r["table"], *view_of(r)) for r in written.rows)
    assert max(counts.values()) >= 3
    assert min(counts.values()) == 1


def test_views_listed_in_two_tables_are_the_same_film_under_other_uids(written):
    by_view = collections.defaultdict(dict)
    for row in written.rows:
        by_view[view_of(row)].setdefault(row["table"], []).append(row)
    twice = [tables for tables in by_view.values() if len(tables) == 2]
    assert twice
    agreements = set()
    for tables in twice:
        first, second = (rows[0] for rows in tables.values())
        one, other = written.image(first), written.image(second)
        assert np.array_equal(one.pixels, other.pixels)
        assert one.header.SeriesInstanceUID != other.header.SeriesInstanceUID
        labels = [
            any(r["pathology"] == "MALIGNANT" for r in rows) for rows in tables.values()
        ]
        agreements.add(labels[0] == labels[1])
    assert agreements == {True, False}


def test_a_patient_is_in_both_releases_under_different_kinds(written):
    tables = collections.defaultdict(set)
    for row in written.rows:
        tables[row["patient_id"]].add(tuple(row["table"].split("_")[::3]))
    both = [
        t for t in tables.values() if {release for _, release in t} == {"train", "test"}
    ]
    assert both == [{("mass", "train"), ("calc", "test")}]


def test_abnormality_ids_do_not_always_start_at_one(written):
    lowest = collections.defaultdict(lambda: 99)
    for row in written.rows:
        key = (row["table"], *view_of(row))
        lowest[key] = min(lowest[key], int(row["abnormality id"]))
    assert set(lowest.values()) == {1, 2}


def test_density_zero_and_not_available_occur(written):
    key = {"mass": "breast_density", "calcification": "breast density"}
    densities = {row[key[row["abnormality type"]]] for row in written.rows}
    assert "0" in densities
    assert len(densities) >= 4
    assert any("N/A" in row.values() for row in written.rows)


def test_mask_and_crop_can_lie_in_two_series(written):
    rows = [
        row
        for row in written.rows
        if row["cropped image file path"].split("/")[1:3]
        != row["ROI mask file path"].split("/")[1:3]
    ]
    assert rows
    for row in rows:
        one, other = written.roi_files(row)
        assert one.header.SeriesInstanceUID != other.header.SeriesInstanceUID


def test_series_descriptions_can_be_wrong_or_empty(written):
    descriptions = collections.defaultdict(set)
    for row in written.rows:
        for file in written.roi_files(row):
            part = "mask" if file.is_mask else "crop"
            descriptions[part].add(file.header.SeriesDescription)
        descriptions["image"].add(written.image(row).header.SeriesDescription)
    assert "" in descriptions["mask"]
    assert "ROI mask images" in descriptions["crop"]
    assert descriptions["image"] == {"full mammogram images", ""}


def test_lesions_have_the_papers_proportion(written):
    diameters = []
    for row in written.rows:
        mask = written.mask(row).pixels
        diameters.append(np.sqrt(4 / np.pi * (mask > 0).sum()) / mask.shape[0] * 4000)
    # About 100 pixels on an image 4000 pixels high; masks are drawn on few pixels here.
    assert 80 < np.median(diameters) < 160
    assert min(diameters) > 45
    assert max(diameters) < 240


def test_an_existing_folder_is_left_alone(tmp_path):
    (tmp_path / "mine").write_text("kept")
    with pytest.raises(UserError, match="not empty"):
        write_cbis_ddsm(tmp_path, cases=2, height=128, num_workers=1)
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


def test_a_failure_leaves_no_folder_behind(tmp_path, monkeypatch):
    from mammo_jax.phantom import cbis_layout

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cbis_layout, "write_dicom", fail)
    with pytest.raises(UserError, match="No space left"):
        write_cbis_ddsm(tmp_path / "raw", cases=2, height=128, num_workers=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "wrong", [{"cases": 1}, {"height": 64}, {"test_share": 1.0}, {"cases": 10**6}]
)
def test_arguments_out_of_range_are_refused(tmp_path, wrong):
    arguments = {"cases": 3, "height": 128, **wrong}
    with pytest.raises(UserError, match=next(iter(wrong))):
        write_cbis_ddsm(tmp_path / "raw", num_workers=1, **arguments)
