"""The data of the preset `phantom`: drawn, packaged, and trunks pretrained on it.

Nothing of a real data set is needed. Three sets of phantoms have no patient in common:
one in CBIS-DDSM's layout for Tables 1 to 3, one in INbreast's for Table 4, and one that
stands in for ImageNet: trunks learn to tell the five patch classes apart on it.
"""

import logging
from collections.abc import Iterable
from pathlib import Path

from ml_collections import ConfigDict

from mammo_jax.common import run_directory
from mammo_jax.common.errors import UserError
from mammo_jax.config import patch_config, stage_table
from mammo_jax.phantom import LAYOUTS
from mammo_jax.weights.model_directory import load_variables
from mammo_jax.weights.pretrained import save_trunk
from paper import scales
from paper.runs import Train, check_same

_log = logging.getLogger(__name__)

_PRETRAINING = "pretraining"
_DATASET = f"cbis_ddsm/paper_s10_h{scales.HEIGHT}"


def prepare(
    folder: Path,
    datasets: Iterable[str],
    trunks: Iterable[tuple[str, int]],
    train: Train,
) -> None:
    """Makes what is not there yet in the folder of the preset's results.

    `datasets` are names with their configs; `trunks` the kinds and seeds of those to
    pretrain; `train` runs a configuration in a directory.

    Raises:
      UserError: the folder holds phantoms of other settings or trunks of another
        pretraining, or cannot be written.
    """
    data = scales.data_dir(folder)
    for name in sorted(datasets):
        layout = name.partition("/")[0]
        _package(_draw(data / "raw" / layout, layout), data, name)
    for trunk, seed in _missing(folder, trunks):
        weights = scales.weights_file(folder, trunk, seed)
        directory = _pretraining_folder(folder, trunk, seed)
        config = pretraining_config(folder, trunk, seed)
        raw = _draw(folder / _PRETRAINING / "raw", _PRETRAINING)
        _package(raw, folder / _PRETRAINING, _DATASET)
        train(config, directory)
        _save_trunk(directory, config, weights)


def _pretraining_folder(folder: Path, trunk: str, seed: int) -> Path:
    return folder / _PRETRAINING / f"{trunk}_{seed}"


def _missing(folder: Path, trunks: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    """Returns the trunks that are not pretrained; refuses those that are otherwise."""
    missing = []
    for trunk, seed in sorted({*trunks}):
        weights = scales.weights_file(folder, trunk, seed)
        directory = _pretraining_folder(folder, trunk, seed)
        record = directory / run_directory.CONFIG_FILE
        if not weights.exists():
            missing.append((trunk, seed))
        elif not record.exists():
            raise UserError(
                f"{weights} is there, but not {record}, which says how it was "
                "pretrained; delete the weights, or use another --out"
            )
        else:
            wanted = pretraining_config(folder, trunk, seed)
            check_same(run_directory.read_json(record), wanted, directory)
    return missing


def _draw(raw: Path, layout: str) -> Path:
    settings, record = scales.PHANTOMS[layout], raw.with_name(f"{raw.name}.json")
    there = run_directory.read_json(record) if record.exists() else settings
    if there != settings:
        raise UserError(
            f"{raw} holds phantoms made with {there}, not {settings}; choose another "
            "folder with --out=DIR"
        )
    if not raw.exists():
        raw.parent.mkdir(parents=True, exist_ok=True)
        run_directory.write_json(record, settings)
        # Reports call the images of this folder phantoms.
        note = raw.parents[0 if layout == _PRETRAINING else 1]
        run_directory.write_json(note / run_directory.PHANTOM_FILE, settings)
        _log.info("drawing phantoms in %s", raw)
        LAYOUTS["cbis_ddsm" if layout == _PRETRAINING else layout](raw, **settings)
    return raw


def _package(raw: Path, data: Path, name: str) -> None:
    from tfds_builders.building import build

    build(name, manual_dir=raw, data_dir=data)


def pretraining_config(folder: Path, trunk: str, seed: int) -> ConfigDict:
    """Returns the configuration of the patch classifier that stands in for ImageNet."""
    config = patch_config()
    config.seed = seed
    config.model.trunk = trunk
    config.model.width, config.model.stride = scales.WIDTH, scales.STRIDE
    config.pretrained = ""
    config.stages = stage_table("patch_random")
    config.data.data_dir = str(folder / _PRETRAINING)
    config.data.dataset = _DATASET
    config.update_from_flattened_dict(scales.FIELDS["patch"])
    config.update_from_flattened_dict(scales.PRETRAINING)
    for group in config.stages.stage1.rates:
        config.stages.stage1.rates[group] = scales.PRETRAINING_RATES[trunk]
    return config


def _save_trunk(directory: Path, config: ConfigDict, weights: Path) -> None:
    _, params, stats = load_variables(directory)
    drawn = scales.PHANTOMS[_PRETRAINING]
    save_trunk(
        config.model.trunk,
        config.model.wiring,
        params | stats,
        f"patch classes of phantoms, {drawn['cases']} patients of seed {drawn['seed']}",
        weights,
    )
