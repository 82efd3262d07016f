"""The synthetic set has INbreast's form, with each of its oddities."""

import collections
import csv
import plistlib
import re

import numpy as np
import pydicom
import pytest

from mammo_jax.common.errors import UserError
from mammo_jax.phantom import write_inbreast

NAME = re.compile(r"(\d{8})_([0-9a-f]{16})_MG_([LR])_(CC|ML|FB)_ANON\.dcm")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    out = tmp_path_factory.mktemp("inbreast") / "raw"
    write_inbreast(out, cases=12, seed=2, height=192, num_workers=1)
    return out / "INbreast Release 1.0"


@pytest.fixture(scope="module")
def rows(root):
    with (root / "INbreast.csv").open(newline="") as stream:
        return list(csv.DictReader(stream, delimiter=";"))


@pytest.fixture(scope="module")
def names(root):
    found = [NAME.fullmatch(p.name) for p in (root / "AllDICOMs").iterdir()]
    assert all(found)
    return {match[1]: match for match in found}


def read_regions(root):
    for path in (root / "AllXML").iterdir():
        (image,) = plistlib.loads(path.read_bytes())["Images"]
        assert image["NumberOfROIs"] == len(image["ROIs"])
        for region in image["ROIs"]:
            points = [
                tuple(map(float, re.fullmatch(r"\((.+), (.+)\)", p).groups()))
                for p in region["Point_px"]
            ]
            assert region["NumberOfPoints"] == len(points)
            yield path.stem, region["Name"], np.array(points)


def test_table_has_the_real_form(root, rows):
    text = (root / "INbreast.csv").read_bytes()
    assert text.startswith(
        b"Patient ID;Patient age;Laterality;View;Acquisition date;File Name;ACR;Bi-Rads"
        b"\r\n"
    )
    assert text.count(b"\r\n") == text.count(b"\n") == len(rows) + 1 == 49
    assert {row["Patient ID"] for row in rows} == {"removed"}
    assert {row["View"] for row in rows} == {"CC", "MLO"}
    assert {row["Laterality"] for row in rows} == {"L", "R"}
    assert all(re.fullmatch(r"20\d{4}", row["Acquisition date"]) for row in rows)


def test_every_row_has_its_file(rows, names):
    assert {row["File Name"] for row in rows} == set(names)
    for row in rows:
        assert names[row["File Name"]][3] == row["Laterality"]


def test_names_say_ml_for_mlo_and_once_something_else(rows, names):
    pairs = collections.Counter((r["View"], names[r["File Name"]][4]) for r in rows)
    assert set(pairs) == {("CC", "CC"), ("MLO", "ML"), ("MLO", "FB")}
    assert pairs["MLO", "FB"] == 1


def test_one_density_is_blank(rows):
    densities = collections.Counter(row["ACR"].strip() for row in rows)
    assert densities[""] == 1
    assert set(densities) <= {"", "1", "2", "3", "4"}


def test_categories_include_three_and_the_letters():
    from mammo_jax.phantom.inbreast_layout import _make_catalogue

    found = collections.Counter(image.category for image in _make_catalogue(0, 200))
    assert set(found) == {"1", "2", "3", "4a", "4b", "4c", "5", "6"}
    # 100 of the 387 images that are not of category 3 (paper).
    positive = sum(n for c, n in found.items() if c in ["4a", "4b", "4c", "5", "6"])
    assert positive / (800 - found["3"]) == pytest.approx(100 / 387, abs=0.01)


def test_repeat_examinations_share_a_patient(rows, names):
    dates = collections.defaultdict(set)
    images = collections.Counter()
    for row in rows:
        patient = names[row["File Name"]][2]
        dates[patient].add(row["Acquisition date"])
        images[patient] += 1
    assert len(images) < 12
    assert max(images.values()) == 8
    assert max(map(len, dates.values())) == 2


def test_only_images_with_findings_have_outlines(root, rows):
    outlined = {path.stem for path in (root / "AllXML").iterdir()}
    empty = {row["File Name"] for row in rows if row["Bi-Rads"] == "1"}
    assert outlined == {row["File Name"] for row in rows} - empty
    assert empty


def test_outlines_have_odd_names_dots_and_points_outside(tmp_path):
    write_inbreast(tmp_path / "raw", cases=30, seed=1, height=128, num_workers=1)
    found = list(read_regions(tmp_path / "raw" / "INbreast Release 1.0"))
    names = {name for _, name, _ in found}
    assert {"Calcification", "Cluster", "Espiculated Region", "Unnamed"} <= names
    sizes = {len(points) for *_, points in found}
    assert {1, 2} <= sizes
    assert max(sizes) > 30
    assert any(points.min() < 0 for *_, points in found)


def test_outlines_lie_on_what_they_outline(root):
    """Outlines of the same image, in its own pixels, (x, y)."""
    images = {path.name[:8]: path for path in (root / "AllDICOMs").iterdir()}
    checked = 0
    for number, _, points in read_regions(root):
        if len(points) > 30:
            pixels = pydicom.dcmread(images[number]).pixel_array
            columns, rows = np.round(points.mean(axis=0)).astype(int)
            assert pixels[rows, columns] > 0
            checked += 1
    assert checked > 10


def test_images_are_14_bit_digital_mammograms_of_two_sizes(root):
    shapes = set()
    for path in (root / "AllDICOMs").iterdir():
        header = pydicom.dcmread(path)
        pixels = header.pixel_array
        shapes.add(pixels.shape)
        assert (header.BitsAllocated, header.BitsStored) == (16, 14)
        assert header.Modality == "MG"
        assert header.PhotometricInterpretation == "MONOCHROME2"
        assert pixels.max() < 2**14
        background = pixels[:, -5:] if header.ImageLaterality == "L" else pixels[:, :5]
        assert (background == 0).all()
        assert header.ImagerPixelSpacing == [0.07, 0.07]
    assert shapes == {(192, 156), (156, 120)}


@pytest.mark.parametrize("wrong", [{"cases": 0}, {"height": 10}])
def test_arguments_out_of_range_are_refused(tmp_path, wrong):
    arguments = {"cases": 3, "height": 128, **wrong}
    with pytest.raises(UserError, match=next(iter(wrong))):
        write_inbreast(tmp_path / "raw", num_workers=1, **arguments)
