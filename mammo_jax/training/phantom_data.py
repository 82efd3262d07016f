"""The embedded data: phantoms written as raw files, packaged as any real data."""

from pathlib import Path

from ml_collections import ConfigDict

from mammo_jax.common import run_directory
from mammo_jax.common.errors import UserError


def prepare(config: ConfigDict) -> None:
    """Makes the configured phantoms and packages them, unless that is done.

    Does nothing for the user's own data: for `config.phantom.cases == 0`, other data
    sets than CBIS-DDSM, and a data folder that holds something and no note of phantoms.

    Raises:
      UserError: the data folder holds phantoms of other settings.
    """
    if not config.get("phantom") or not config.phantom.cases:
        return
    parts = [config.patch, config] if "patch" in config else [config]
    if any(not part.data.dataset.startswith("cbis_ddsm/") for part in parts):
        return
    # Imported here: real data is packaged beforehand and training needs no builder.
    from tfds_builders.building import build

    data_dir = Path(config.data.data_dir).expanduser()
    raw, settings = data_dir / "raw", config.phantom.to_dict()
    settings_file = data_dir / run_directory.PHANTOM_FILE
    if not settings_file.exists() and data_dir.is_dir() and any(data_dir.iterdir()):
        return
    if not raw.exists():
        from mammo_jax.phantom import write_cbis_ddsm  # Takes a second to import.

        data_dir.mkdir(parents=True, exist_ok=True)
        run_directory.write_json(settings_file, settings)
        write_cbis_ddsm(raw, **settings)
    elif differing := [
        *run_directory.differences(
            run_directory.read_json(settings_file), settings, "config.phantom"
        )
    ]:
        raise UserError(
            f"{raw} holds phantoms of other settings ({', '.join(differing)}); "
            "choose another folder with --config.data.data_dir=DIR"
        )
    for part in parts:
        # Left alone where it is built already.
        build(part.data.dataset, manual_dir=raw, data_dir=data_dir)
