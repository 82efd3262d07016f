"""The configuration of an earlier run: `--config=configs/rerun.py:RUN_DIR`."""

from pathlib import Path

from ml_collections import ConfigDict

from mammo_jax.common import run_directory
from mammo_jax.common.errors import UserError
from mammo_jax.config import base_config, share_with_patch


def get_config(run_dir: str = "") -> ConfigDict:
    """Reads `RUN_DIR/config.json`."""
    if not run_dir:
        raise UserError("name the run: --config=configs/rerun.py:RUN_DIR")
    config = ConfigDict(
        run_directory.read_json(Path(run_dir) / run_directory.CONFIG_FILE)
    )
    for part in (config, config.get("patch", config)):
        if "checkpoint_every_steps" in part:  # Now they are saved by the clock.
            del part["checkpoint_every_steps"]
        _fill(part, base_config())
    if "patch" in config:
        share_with_patch(config)
    return config


def _fill(config: ConfigDict, defaults: ConfigDict) -> None:
    """Puts in the fields that an earlier version did not have; they do what it did."""
    for field, default in defaults.items():
        if field not in config:
            config[field] = default
        elif isinstance(default, ConfigDict):
            _fill(config[field], default)
