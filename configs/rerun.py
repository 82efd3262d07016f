"""The configuration of an earlier run: `--config=configs/rerun.py:RUN_DIR`."""

from pathlib import Path

from ml_collections import ConfigDict

from mammo_jax import config as base
from mammo_jax.errors import UserError
from mammo_jax.training import workdir


def get_config(run_dir: str = "") -> ConfigDict:
    """Reads `RUN_DIR/config.json`."""
    if not run_dir:
        raise UserError("name the run: --config=configs/rerun.py:RUN_DIR")
    config = ConfigDict(workdir.read_json(Path(run_dir) / workdir.CONFIG_FILE))
    if "patch" in config:
        base.share_with_patch(config)
    return config
