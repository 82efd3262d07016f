"""Parsers of the project's commands, and their ending."""

import argparse
from collections.abc import Callable
from typing import Any

from mammo_jax.common.errors import run_command


def make_parser(description: str | None, **options: Any) -> argparse.ArgumentParser:
    """Makes a parser that shows its description as it is written, with `--traceback`.

    `options` are further ones of argparse's own parser.
    """
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        **options,
    )
    parser.add_argument(
        "--traceback", action="store_true", help="show where an error happened"
    )
    return parser


def run_main(
    parse: Callable[[], argparse.Namespace],
    main: Callable[[argparse.Namespace], int | None],
) -> None:
    """Runs `main` on what the command line says, and exits; see `run_command`."""
    options = parse()
    run_command(lambda: main(options), traceback=options.traceback)
