"""Runs the paper's experiments and prints them beside the paper's numbers.

  python scripts/reproduce.py --preset=phantom --out=runs/paper
  python scripts/reproduce.py --table=1,2 --preset=paper --out=runs/paper --plan

Without --table, --figure and --rows everything is run. The same command goes on where
it was stopped, and runs nothing twice. The rows are in configs/paper_rows.py.
"""

import argparse
from pathlib import Path

from mammo_jax.common.command_line import make_parser, run_main
from mammo_jax.common.errors import UserError, refuse
from mammo_jax.common.memory import give_back_large_blocks

_ROWS = Path(__file__).parents[1] / "configs" / "paper_rows.py"


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; `--help` prints it."""
    parser = make_parser(__doc__)
    parser.add_argument(
        "--table",
        default="",
        help="1, 2, 3, 4, ensemble, later or ours, with commas between",
    )
    parser.add_argument("--figure", default="", help="2 or appendix, likewise")
    parser.add_argument(
        "--rows", default="", help="names of rows, likewise; --plan lists them"
    )
    parser.add_argument(
        "--preset",
        default="paper",
        help="paper: the real data at the paper's scale; phantom: synthetic data, small"
        " (default: %(default)s)",
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="results go to OUT/PRESET"
    )
    parser.add_argument(
        "--data_dir",
        default="data",
        help="of the packaged data sets, for the preset paper (default: %(default)s)",
    )
    parser.add_argument(
        "--seeds",
        type=int,
        help="of every row (default: 1 at the paper's scale; of phantoms 8 where a"
        " claim is drawn, else 1)",
    )
    parser.add_argument(
        "--plan", action="store_true", help="print what would be run, and run nothing"
    )
    parser.add_argument(
        "--write_results",
        type=Path,
        metavar="FILE",
        help="run nothing; write what is finished in OUT as Markdown, with the paper's"
        " claims",
    )
    parser.add_argument(
        "--replication",
        type=Path,
        metavar="DIR",
        help="a second OUT: --write_results tells whether its rows came out as in OUT",
    )
    return parser.parse_args(arguments)


def main(options: argparse.Namespace) -> None:
    """Does what the command line asks."""
    if options.plan and options.write_results:
        raise UserError(
            "--plan runs and writes nothing; leave it out, or --write_results"
        )
    again = options.replication and options.replication.expanduser()
    if again:
        _check_replication(again, options)
    give_back_large_blocks()  # before JAX has threads
    # Imported late: `--help` answers at once.
    from mammo_jax.common.devices import start_devices
    from mammo_jax.main import show_own_messages
    from paper import command
    from paper.rows import load_rows

    show_own_messages()
    start_devices()
    request = command.check_request(
        load_rows(_ROWS),
        tables=_split(options.table),
        figures=_split(options.figure),
        names=_split(options.rows),
        preset=options.preset,
        seeds=options.seeds,
        out=options.out.expanduser(),
        data_dir=options.data_dir,
    )
    if options.plan:
        print(command.describe(request))
        return
    if options.write_results:
        results = options.write_results.expanduser()
        command.write_results(request, results, again)
        print(f"written to {results}")
        return
    text, failures = command.reproduce(request)
    print(text)
    if failures:
        reasons = "; ".join(f"{run}: {why}" for run, why in failures.items())
        raise UserError(f"{len(failures)} runs failed: {reasons}")


def _check_replication(again: Path, options: argparse.Namespace) -> None:
    """Refuses, before any work, what could not be compared."""
    refuse(
        {
            "--replication is for --write_results; add --write_results=FILE": (
                not options.write_results
            ),
            f"--replication={again} holds no folder {options.preset}; it names the "
            "--out of a second set of runs": not (again / options.preset).is_dir(),
            "--replication and --out are the same folder; give that of a second set": (
                (again / options.preset).resolve()
                == (options.out.expanduser() / options.preset).resolve()
            ),
        }
    )


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


if __name__ == "__main__":
    run_main(parse_arguments, main)
