"""Trains and evaluates.

  python -m mammo_jax.main --config=configs/whole_res.py:phantom --workdir=runs/demo

Started again with the same command, a stopped run goes on where it was.
"""

import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from mammo_jax.common.errors import UserError, end_now, is_failure, run_command
from mammo_jax.common.folders import describe_configurations, with_config_file
from mammo_jax.common.memory import give_back_large_blocks
from tfds_builders import NAMES

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Configuration: a name such as whole_res, or a file such as configs/whole_res.py; "
    "with :PRESET behind it. See below.",
    lock_config=True,
)
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Directory of the run: model, metrics, checkpoints, TensorBoard.",
)
_TTA = flags.DEFINE_bool(
    "tta", False, "Average the scores of the four flips, as --config.tta=True does."
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator",
    None,
    "HOST:PORT of process 0, for a run of several processes; 'auto' asks the cluster.",
)
_PROCESSES = flags.DEFINE_integer("processes", 1, "How many processes the run has.")
_PROCESS = flags.DEFINE_integer("process", 0, "Which of them this is, from 0 on.")
_TRACEBACK = flags.DEFINE_bool(
    "traceback", False, "On an error, show where in the program it happened."
)
_FIELDS = """\
Every field of a configuration can be set, with dots between a part and its field:
  --config.batch_size=4 --config.model.image_size="(576, 448)" --config.tta=True
Fields and the paper's values are in mammo_jax/config.py; a name that is misspelt is
refused with the nearest one. --config.data.dataset names a data set that was packaged
by build_dataset (`mammo-jax build-dataset`), config.patch.data.dataset its patches.
"""


def parse_flags(argv: Sequence[str]) -> list[str]:
    """Parses the command line.

    Raises:
      UserError: an unknown field or flag (naming the nearest real one), a value of
        the wrong type, or a configuration file that does not exist.
    """
    argv = [with_config_file(flag) for flag in argv]
    try:
        return flags.FLAGS(argv)
    except (AttributeError, KeyError) as error:
        # ml_collections: 'nme'\nDid you mean "name" instead of "nme"?, or a KeyError
        # of that text within the AttributeError.
        said: object = error
        while isinstance(said, Exception) and said.args:
            said = said.args[0]
        plain = ". ".join(str(said).splitlines())
        raise UserError(f"no such field in the configuration: {plain}") from error
    except (flags.Error, ValueError, TypeError, OSError) as error:
        raise UserError(str(error)) from error


def show_own_messages() -> None:
    """Prints this package's messages and the libraries' warnings only."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    # Orbax logs the traceback of a save that failed, which is raised as well.
    handler.addFilter(lambda record: not (record.name == "absl" and record.exc_info))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("absl").setLevel(logging.WARNING)
    logging.getLogger("mammo_jax").setLevel(logging.INFO)
    sys.unraisablehook = _show_unraisable


def _show_unraisable(found: "sys.UnraisableHookArgs") -> None:
    # TensorStore's threads call back to the closed loop of a checkpoint that failed.
    if str(found.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(found)


def _train() -> None:
    config, directory = _CONFIG.value, _WORKDIR.value
    if config is None or directory is None:
        raise UserError(
            "--config and --workdir are needed; for example: mammo-jax train "
            "--config=whole_res:phantom --workdir=runs/demo"
        )
    if _TTA.value:
        config.tta = True
    give_back_large_blocks()  # before JAX has threads
    # Imported late: `--help` and a misspelt flag answer at once.
    from mammo_jax.common.devices import (
        is_main_process,
        join_processes,
        start_devices,
        warn_of_old_card,
    )

    joined = join_processes(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
    from mammo_jax.common.companions import watched

    workdir = Path(directory).expanduser()
    with watched(*joined):
        from mammo_jax.training.run import train_and_evaluate

        start_devices()
        warn_of_old_card()
        metrics = train_and_evaluate(config, workdir)
    if is_main_process():
        _show(metrics, workdir / "metrics.json")
        _show_spread(metrics["test"], config)


def _show(metrics: dict[str, Any], path: Path) -> None:
    print(json.dumps(metrics, indent=2, sort_keys=True))
    test = metrics["test"]
    if test["auc"] is None:
        print("test AUC: undefined, the test images are all of one class")
        return
    interval = "no interval: too few patients"
    if test["auc_95_low"] is not None:
        interval = (
            f"95 % interval {test['auc_95_low']:.3f} to {test['auc_95_high']:.3f}"
        )
    print(
        f"test AUC {test['auc']:.3f} ({interval}) on {test['images']} images of "
        f"{test['patients']} patients; written to {path}"
    )
    if metrics.get("test_images_chose_the_epoch"):
        print("these images also chose the epoch: other images are judged less well")


def _show_spread(test: dict[str, Any], config: ConfigDict) -> None:
    """Prints, for the demo, what another seed or rounding would have given."""
    from mammo_jax.training.demo_spread import read_spread, widen

    figures = [test[name] for name in ("auc", "auc_95_low", "auc_95_high")]
    spread = read_spread(config)
    if not spread or any(value is None or not 0 < value < 1 for value in figures):
        return
    auc, *interval = figures
    low, high = widen(auc, (interval[0], interval[1]), spread)
    runs = [found for of_seed in spread for found in of_seed]
    print(
        f"another training gives another AUC, {min(runs):.3f} to {max(runs):.3f} in "
        f"{len(runs)} runs; 95 % interval of the mean over trainings and patients "
        f"{low:.3f} to {high:.3f}"
    )


def parse_or_exit(argv: Sequence[str]) -> list[str]:
    """Parses the command line, or shows its help or its error and exits."""
    try:
        return parse_flags(argv)
    except UserError as error:
        # It is not parsed again: a second try would meet the first one's flags.
        refusal = error
    except SystemExit:  # absl has shown the flags, and calls that a failure.
        print(
            "\nConfigurations by name, and their presets:\n",
            describe_configurations(),
            "",
            _FIELDS,
            NAMES,
            sep="\n",
        )
        sys.exit(0)

    def refuse() -> None:
        raise refusal

    run_command(refuse, traceback="--traceback" in argv)
    return []


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown argument {argv[1]!r}")
    show_own_messages()
    try:
        run_command(_train, traceback=_TRACEBACK.value)
    except BaseException as error:
        if _COORDINATOR.value is not None:
            from mammo_jax.common.companions import leave

            leave(error)
        if is_failure(error):
            # After a checkpoint that failed, threads of Orbax's wait for ten minutes.
            end_now(error)
        raise


if __name__ == "__main__":
    # Reading the configuration takes seconds, too, in which it may be stopped.
    run_command(
        lambda: app.run(main, flags_parser=parse_or_exit),
        traceback="--traceback" in sys.argv,
    )
