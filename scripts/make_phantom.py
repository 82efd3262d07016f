"""Writes a synthetic set of mammograms in a real data set's own layout.

For example

    python scripts/make_phantom.py --layout=cbis_ddsm --cases=60 --seed=0 --out=raw
"""

import argparse
from pathlib import Path

from mammo_jax.common.command_line import make_parser, run_main

# The keys of `mammo_jax.phantom.LAYOUTS`, which takes a second to import.
_LAYOUTS = ("cbis_ddsm", "inbreast")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = make_parser(__doc__)
    parser.add_argument("--layout", required=True, choices=_LAYOUTS)
    parser.add_argument("--cases", type=int, required=True, help="number of patients")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same bytes")
    parser.add_argument("--out", required=True, help="a new or an empty folder")
    parser.add_argument(
        "--height",
        type=int,
        default=4096,
        help="of the mammograms in pixels, about (default: %(default)s)",
    )
    parser.add_argument(
        "--num_workers", type=int, help="processes (default: one for each core)"
    )
    return parser.parse_args(arguments)


def main(options: argparse.Namespace) -> None:
    """Writes the set and says what it is."""
    from mammo_jax.phantom import LAYOUTS

    arguments = vars(options).copy()
    del arguments["traceback"]
    write = LAYOUTS[arguments.pop("layout")]
    out = Path(arguments.pop("out")).expanduser()
    write(out, **arguments)
    images = sum(1 for _ in out.rglob("*.dcm"))
    print(
        f"{out}: phantoms of {options.cases} cases, {images} DICOM files, in the layout"
        f" of {options.layout}"
    )


if __name__ == "__main__":
    run_main(parse_arguments, main)
