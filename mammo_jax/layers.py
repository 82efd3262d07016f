"""Prints a model's layers with output sizes, groups and parameter counts.

Example: python -m mammo_jax.layers --config=configs/whole_res.py
"""

import sys
from collections.abc import Sequence

from absl import app, flags

from mammo_jax.common.errors import UserError, run_command
from mammo_jax.main import parse_or_exit, show_own_messages

# These of main's flags are read by this command; `--help` shows them.
for _name in ("config", "traceback"):
    flags.declare_key_flag(_name)


def _print_table() -> None:
    config = flags.FLAGS.config
    if config is None:
        raise UserError("--config is needed, such as --config=whole_res")
    # Late: `--help` and a wrong option answer at once.
    from mammo_jax.models.layer_table import layer_table
    from mammo_jax.training.run import find_runner

    runner = find_runner(config)
    network, window = runner.network(config)
    print(layer_table(network, window))
    if window is not None:
        print(runner.describe(config))


def main(_: Sequence[str]) -> None:
    """Runs the command."""
    show_own_messages()
    run_command(_print_table, traceback=flags.FLAGS.traceback)


if __name__ == "__main__":
    run_command(
        lambda: app.run(main, flags_parser=parse_or_exit),
        traceback="--traceback" in sys.argv,
    )
