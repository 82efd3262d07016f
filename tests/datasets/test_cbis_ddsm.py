import csv
import functools
import json
import os
import shutil

import pytest
from raw_trees import HEIGHT, WIDTH, Row, draw_image, write_image, write_tree

from mammo_jax.common.errors import UserError
from mammo_jax.common.parallel import parallel_map
from mammo_jax.common.tables import write_table
from mammo_jax.datasets import packaging
from mammo_jax.datasets.cbis_ddsm import plan_splits, take_inventory
from mammo_jax.datasets.cbis_views import make_view_examples
from mammo_jax.datasets.records import read_example, read_header
from mammo_jax.datasets.sampling import PatchSampling
from mammo_jax.datasets.views import Packing, ViewResult
from mammo_jax.images.grid import Grid

GRID = Grid(HEIGHT, WIDTH, stretch=False)
S10 = Packing(GRID, 32, PatchSampling(per_roi=10))


@pytest.fixture
def raw(tmp_path):
    """Eight training and two test patients, half of them malignant."""
    rows = [
        Row(
            patient=n,
            kind=("mass", "calc")[n % 2],
            release="train" if n < 8 else "test",
            pathology="MALIGNANT" if n % 4 < 2 else "BENIGN",
        )
        for n in range(10)
    ]
    write_tree(tmp_path / "raw", rows)
    return tmp_path / "raw"


def process_views(splits, packing, work_dir, make=make_view_examples):
    """In this process; that more of them change no byte, the builders' tests say."""
    run = functools.partial(parallel_map, num_workers=1)
    return packaging.process_views(splits, make, packing, work_dir, run)


def all_examples(finished):
    return {
        split: [
            read_example(path, number)
            for path in paths
            for number in range(len(read_header(path)["lengths"]))
        ]
        for split, paths in finished.paths.items()
    }


def test_another_seed_gives_other_patches(raw, tmp_path):
    splits = plan_splits(raw, "official", seed=0)
    other = Packing(GRID, 32, PatchSampling(per_roi=10), seed=1)

    finished = [process_views(splits, g, tmp_path / "w") for g in (S10, other)]

    one, two = (all_examples(f)["train"] for f in finished)
    assert [e["centre"] for e in one] != [e["centre"] for e in two]


def test_pixel_mean_is_that_of_the_whole_training_images(raw, tmp_path):
    splits = plan_splits(raw, "official", seed=0)

    finished = process_views(splits, S10, tmp_path / "w")

    means = [
        draw_image(int(files.patient_id[2:])).mean() * 255 / 65535
        for files in splits["train"]
    ]
    assert finished.pixel_mean == pytest.approx(sum(means) / len(means))
    assert finished.pixel_mean_of == "train"


def test_an_interrupted_build_goes_on_where_it_was(raw, tmp_path):
    splits = plan_splits(raw, "official", seed=0)
    whole = process_views(splits, S10, tmp_path / "whole")
    made = []

    def counted(files, grid):
        made.append(files.image_id)
        return make_view_examples(files, grid)

    def interrupted(files, grid):
        if len(made) == 4:
            raise KeyboardInterrupt
        return counted(files, grid)

    with pytest.raises(KeyboardInterrupt):
        process_views(splits, S10, tmp_path / "w", interrupted)
    resumed = process_views(splits, S10, tmp_path / "w", counted)

    assert sorted(made) == sorted(set(made))
    assert len(made) == 10
    assert all_examples(resumed) == all_examples(whole)


def test_a_view_that_memory_or_permission_was_lacking_for_is_read_again(raw, tmp_path):
    """Neither changes the file, whose size and time tell of changes."""
    splits = plan_splits(raw, "official", seed=0)

    def lacking(files, packing):
        if files.image_id == "P_00000_LEFT_CC":
            raise MemoryError
        if files.image_id == "P_00001_LEFT_CC":
            return ViewResult(problems=[(files.image, "not readable")])
        return make_view_examples(files, packing)

    lacked = process_views(splits, S10, tmp_path / "w", lacking)
    resumed = process_views(splits, S10, tmp_path / "w")

    assert [image_id for image_id, *_ in lacked.problems] == [
        "P_00000_LEFT_CC",
        "P_00001_LEFT_CC",
    ]
    assert resumed.problems == []
    assert sum(map(len, all_examples(resumed).values())) == 10 * 20


def test_a_file_that_has_changed_is_read_again(raw, tmp_path):
    splits = plan_splits(raw, "official", seed=0)
    before = process_views(splits, S10, tmp_path / "w")
    row = Row(patient=8, release="test", kind="mass")
    path = write_image(raw, row, draw_image(77))
    os.utime(path, (1, 1))

    after = process_views(splits, S10, tmp_path / "w")

    assert all_examples(before)["test"] != all_examples(after)["test"]
    assert all_examples(before)["train"] == all_examples(after)["train"]


def test_problems_are_counted_and_listed_and_stop_nothing(raw, tmp_path):
    shutil.rmtree(raw / Row(patient=9, kind="calc", release="test").roi_folder)
    damaged = next((raw / Row(patient=0).image_folder).rglob("*.dcm"))
    damaged.write_bytes(damaged.read_bytes()[:5000])

    finished = process_views(plan_splits(raw, "official", seed=0), S10, tmp_path / "w")
    table = tmp_path / "problems.csv"
    write_table(table, packaging.PROBLEM_COLUMNS, finished.problems)

    with table.open(newline="") as file:
        rows = {row["image_id"]: row for row in csv.DictReader(file)}
    assert set(rows) == {"P_00000_LEFT_CC", "P_00009_LEFT_CC"}
    assert rows["P_00000_LEFT_CC"]["file"] == str(damaged)
    assert "truncated or damaged" in rows["P_00000_LEFT_CC"]["reason"]
    assert sum(map(len, all_examples(finished).values())) == 8 * 20


def test_the_same_image_under_two_names_is_used_once(raw, tmp_path):
    """The films of patients 0 and 9: one would train and one test."""
    splits = plan_splits(raw, "official", seed=0)
    once = process_views(splits, S10, tmp_path / "once")
    write_image(raw, Row(patient=9, kind="calc", release="test"), draw_image(0))

    finished = process_views(splits, S10, tmp_path / "twice")

    (problem,) = finished.problems
    assert problem[0] == "P_00009_LEFT_CC"
    assert problem[2] == "the same image as P_00000_LEFT_CC; remove one of them"
    ids = {e["image_id"] for e in all_examples(finished)["test"]}
    assert ids == {"P_00008_LEFT_CC"}
    assert finished.pixel_mean == once.pixel_mean


def test_what_an_older_version_may_have_done_to_films_is_told():
    (name, now) = "cbis_ddsm/paper_whole", packaging.EXAMPLES_VERSION
    assert packaging.describe_age(name, {"examples_version": now}) == ""
    told = packaging.describe_age(name, {"examples_version": now - 1})
    assert "may have left images of fewer than 16 bits too dark" in told
    assert "padding" not in told


def test_nothing_usable_is_an_error_that_says_why(raw, tmp_path):
    for path in raw.rglob("*.dcm"):
        path.write_bytes(b"gone")

    with pytest.raises(UserError, match=r"none of the 10 mammograms.*not a DICOM file"):
        process_views(plan_splits(raw, "official", seed=0), S10, tmp_path / "w")


def test_tables_without_images(raw):
    for folder in raw.glob("Mass-*"), raw.glob("Calc-*"):
        for case in folder:
            shutil.rmtree(case)

    with pytest.raises(UserError, match="none of the images"):
        plan_splits(raw, "official", seed=0)
    assert take_inventory(raw, "official", 0)["splits"]["test"]["images_missing"] == 2


def test_inventory_counts_missing_files(raw):
    shutil.rmtree(raw / Row(patient=9, kind="calc", release="test").roi_folder)
    shutil.rmtree(raw / Row(patient=8, release="test").image_folder)

    inventory = take_inventory(raw, "official", seed=0)

    assert inventory["splits"]["test"]["images_missing"] == 1
    assert inventory["splits"]["test"]["masks_missing"] == 1
    assert inventory["splits"]["train"]["images_missing"] == 0
    assert json.loads(json.dumps(inventory)) == inventory


def test_without_training_images_the_mean_is_that_of_all(raw, tmp_path):
    splits = {"test": plan_splits(raw, "official", seed=0)["test"]}

    finished = process_views(splits, S10, tmp_path / "w")

    assert finished.pixel_mean_of == "all"
    means = [draw_image(n).mean() * 255 / 65535 for n in (8, 9)]
    assert finished.pixel_mean == pytest.approx(sum(means) / 2)
    assert set(finished.paths) == {"test"}


def test_an_unwritable_folder_is_named(raw, tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(UserError, match="file/w: cannot be written"):
        process_views(
            plan_splits(raw, "official", seed=0), S10, tmp_path / "file" / "w"
        )
