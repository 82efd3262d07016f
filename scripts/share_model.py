"""Makes a folder of a run's model that can be passed on, with a card.

For example

    python scripts/share_model.py runs/demo --out=demo-model --licence=cc-by-4.0

The folder holds the model (model.safetensors, model.json, config.json, metrics.json),
its card (README.md) and its scores of a few phantoms (expected_scores.csv), by which
check_model.py finds out elsewhere if it computes the same. Nothing else of the run is
taken; a patient's code or a path of this machine in one of the files is an error.
"""

import argparse
from pathlib import Path

from mammo_jax.common.command_line import make_parser, run_main


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = make_parser(__doc__)
    parser.add_argument("directory", metavar="DIR", help="a finished run")
    parser.add_argument(
        "--out",
        metavar="NEW",
        help="a new or an empty folder; its name is the model's (default: DIR-shared)",
    )
    parser.add_argument(
        "--licence",
        metavar="ID",
        help="of the weights, as the Hugging Face hub calls it: cc-by-4.0, apache-2.0, "
        "other (default: that of the model of others that it was trained from, if any)",
    )
    return parser.parse_args(arguments)


def main(options: argparse.Namespace) -> None:
    """Makes the folder and says what to do before it is passed on."""
    # Late: `--help` and a wrong option answer at once.
    from mammo_jax.common.devices import start_devices
    from mammo_jax.prediction.sharing import share_model

    start_devices()
    directory = Path(options.directory).expanduser().absolute()
    out = Path(options.out or f"{directory}-shared").expanduser()
    licence = share_model(directory, out, options.licence)
    print(f"{out}: read its README.md before you pass it on; licence: {licence}")


if __name__ == "__main__":
    run_main(parse_arguments, main)
