"""Writes an HTML contact sheet of a built data set.

  python scripts/inspect_dataset.py OUT/cbis_ddsm/official_whole/1.0.0 --out=sheet.html

It shows the split table, grey levels, and some images of each class with the outlines
of their regions of interest: benign in green, malignant in red.
"""

import argparse

from mammo_jax.common.errors import run_command


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; `--help` prints it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset_dir", help="folder that holds dataset_info.json")
    parser.add_argument("--out", required=True, help="HTML file to write")
    parser.add_argument(
        "--count", type=int, default=12, help="images of each class and split"
    )
    parser.add_argument(
        "--traceback", action="store_true", help="show where an error happened"
    )
    return parser.parse_args(arguments)


def main(options: argparse.Namespace) -> None:
    """Writes the sheet."""
    from mammo_jax.datasets.contact_sheet import write_contact_sheet

    write_contact_sheet(options.dataset_dir, options.out, options.count)
    print(options.out)


if __name__ == "__main__":
    parsed = parse_arguments()
    run_command(lambda: main(parsed), traceback=parsed.traceback)
