"""Checks a model that was passed on: its files, its digest, its scores of phantoms.

For example

    python scripts/check_model.py demo-model

draws the phantoms of expected_scores.csv, scores them, and prints both scores. Exit
code 1: a file is damaged, missing or should not be there, or a score differs by more
than 0.0001.
"""

import argparse

from mammo_jax.common.command_line import make_parser, run_main


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = make_parser(__doc__)
    parser.add_argument(
        "directory",
        metavar="DIR",
        help="a folder of share_model.py, or hf://OWNER/NAME[@REVISION]",
    )
    return parser.parse_args(arguments)


def main(options: argparse.Namespace) -> None:
    """Checks, and prints the scores of the phantoms."""
    # Late: `--help` and a wrong option answer at once.
    from mammo_jax.common.devices import start_devices
    from mammo_jax.prediction.expected_scores import refuse_differences
    from mammo_jax.prediction.sharing import check_model
    from mammo_jax.weights.hub import SHARED_FILES, find_directory

    start_devices()
    directory = find_directory(options.directory, SHARED_FILES)
    pairs = check_model(directory)
    print("phantom  expected  here")
    for there, here in pairs:
        print(f"{there.phantom:>7}  {there.score:.6f}  {here.score:.6f}")
    refuse_differences(pairs)
    print(f"{options.directory}: the model scores as it did where it was made")


if __name__ == "__main__":
    run_main(parse_arguments, main)
