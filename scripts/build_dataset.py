"""Packages a data set as TFDS.

  python scripts/build_dataset.py cbis_ddsm/paper_whole --manual_dir=RAW --data_dir=OUT

For cbis_ddsm RAW holds the four tables and, anywhere below it, the downloaded image
folders; the other sets' pages are in docs/data.md.
"""

import argparse
import json
import shlex

from mammo_jax.common.command_line import make_parser, run_main
from mammo_jax.common.errors import UserError
from tfds_builders import NAMES


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; `--help` prints it."""
    parser = make_parser(__doc__, epilog=NAMES)
    parser.add_argument("name", help="data set and config: cbis_ddsm/official_s10")
    parser.add_argument(
        "--manual_dir", required=True, help="folder with the raw files and tables"
    )
    parser.add_argument("--data_dir", help="where the TFDS data set goes")
    parser.add_argument(
        "--num_workers", type=int, default=None, help="processes (default: all cores)"
    )
    parser.add_argument(
        "--beam",
        nargs="?",
        const="",
        metavar="OPTIONS",
        help="read images and write records on Apache Beam, with these options:"
        " --beam='--runner=DirectRunner'; its workers must see both folders",
    )
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="write nothing; print an inventory of tables and files as JSON",
    )
    parser.add_argument(
        "--allow_problems",
        action="store_true",
        help="exit with 0 even if files had to be skipped",
    )
    options = parser.parse_args(arguments)
    if not options.dry_run and not options.data_dir:
        parser.error("--data_dir is needed to build")
    if options.num_workers is not None and options.num_workers < 1:
        parser.error("--num_workers must be at least 1")
    return options


def main(options: argparse.Namespace) -> int:
    """Builds, or takes the inventory; returns the exit code."""
    # Imported here because every worker imports this file.
    from tfds_builders import building

    if options.dry_run:
        inventory = building.take_inventory(options.name, options.manual_dir)
        print(json.dumps(inventory, indent=2))
        return 0
    report = building.build(
        options.name,
        options.manual_dir,
        options.data_dir,
        options.num_workers,
        None if options.beam is None else shlex.split(options.beam),
    )
    was_there = (
        " was already built (the raw files were not looked at; remove that folder to"
        " build it anew)"
    )
    print(f"{report.path}{was_there if report.was_there else ''}")
    for split, count in report.splits.items():
        print(f"  {split}: {count} examples")
    for repair, count in report.metadata["repairs"].items():
        print(f"  repaired, {repair.replace('_', ' ')}: {count}")
    if report.problems and not options.allow_problems:
        raise UserError(
            f"{report.problems} files had to be skipped, see"
            f" {report.path / 'problems.csv'}; mend them, remove {report.path} and"
            " build again, or accept it with --allow_problems"
        )
    if report.problems:
        print(f"  skipped: {report.problems}, see {report.path / 'problems.csv'}")
    return 0


if __name__ == "__main__":
    run_main(parse_arguments, main)
