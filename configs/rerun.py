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
    # An earlier version had no such fields; they do what it did.
    for part in (config, config.get("patch", config)):
        for field, default in base_config().items():
            if field not in part:
                part[field] = default
    if "patch" in config:
        share_with_patch(config)
    return config
