"""The embedded data: phantoms written as raw files, packaged as any real data."""

from pathlib import Path

from ml_collections import ConfigDict

from mammo_jax.data import pipeline
from mammo_jax.errors import UserError
from mammo_jax.phantom import write_cbis_ddsm
from mammo_jax.training import workdir


def prepare(config: ConfigDict) -> None:
    """Makes the configured phantoms and packages them, unless that is done.

    Does nothing for `config.phantom.cases == 0`, when the data is the user's own.

    Raises:
      UserError: the data folder holds phantoms of other settings.
    """
    if not config.get("phantom") or not config.phantom.cases:
        return
    # Imported here: real data is packaged beforehand and training needs no builder.
    from tfds_builders.building import build

    data_dir = Path(config.data.data_dir)
    raw, settings = data_dir / "raw", config.phantom.to_dict()
    settings_file = data_dir / "phantom.json"
    if not raw.exists():
        write_cbis_ddsm(raw, **settings)
        workdir.write_json(settings_file, settings)
    elif workdir.read_json(settings_file) != settings:
        raise UserError(
            f"{raw} holds phantoms made with {workdir.read_json(settings_file)}, not "
            f"{settings}; choose another folder with --config.data.data_dir=DIR"
        )
    for part in (config.patch, config):
        name = part.data.dataset
        if not list((data_dir / name).glob("*/dataset_info.json")):
            build(name, manual_dir=raw, data_dir=data_dir)
    pipeline.newest_version(config.data.dataset, str(data_dir))
