"""The data of the preset `phantom`: drawn, packaged, and trunks pretrained on it.

Nothing of a real data set is needed. Three sets of phantoms have no patient in common:
one in CBIS-DDSM's layout for Tables 1 to 3, one in INbreast's for Table 4, and one that
stands in for ImageNet: trunks learn to tell the five patch classes apart on it.
"""

import contextlib
import fcntl
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from mammo_jax import config as base
from mammo_jax.common import run_directory as workdirs
from mammo_jax.common.errors import UserError
from mammo_jax.phantom import LAYOUTS
from paper import presets
from paper.plan import check_same, moved
from paper.presets import Scale
from paper.run import commit_of_program, last_change

_log = logging.getLogger(__name__)

_PRETRAINING = "pretraining"
# Of the program, and of the last change to what draws, when a set was drawn.
_COMMIT, _GENERATOR = "commit", "generator_commit"
_GENERATOR_CODE = "mammo_jax/phantom"
_UNKNOWN = "not recorded"
_PRETRAINING_SET = "cbis_ddsm/paper_s10"


def prepare(
    folder: Path,
    scale: Scale,
    datasets: Sequence[str],
    trunks: Sequence[str],
    train: Callable[[ConfigDict, Path], Any],
) -> None:
    """Makes what is not there yet; a second process waits for the first.

    Args:
      folder: of the preset's results.
      scale: what to draw.
      datasets: names with their configs to package.
      trunks: to pretrain.
      train: runs a configuration in a directory.

    Raises:
      UserError: the folder holds phantoms of other settings or trunks of another
        pretraining, or cannot be written.
    """
    data = presets.data_dir(folder)
    with alone(folder, "data"):
        for layout in sorted({name.partition("/")[0] for name in datasets}):
            raw = _draw(data / "raw" / layout, layout, scale)
            _package(raw, data, [n for n in datasets if n.partition("/")[0] == layout])
        missing = missing_trunks(folder, trunks, scale)
        if missing:
            pretraining = folder / _PRETRAINING
            raw = _draw(pretraining / "raw", _PRETRAINING, scale)
            _package(raw, pretraining, [f"{_PRETRAINING_SET}_h{scale.height}"])
        for trunk in missing:
            _pretrain(folder, trunk, scale, train)


@contextlib.contextmanager
def alone(folder: Path, part: str) -> Iterator[None]:
    """Within, no other process that shares the folder is at the same part.

    Parts have locks of their own, so that none waits for another's work in vain. A
    process that is within must not enter the same part again.

    Args:
      folder: of the preset's results; made if it is not there.
      part: "data", "results" or "time".
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f".{part}.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _log.info("waiting for another process: %s of %s", part, folder)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _settings(layout: str, scale: Scale) -> dict[str, Any]:
    phantoms = scale.phantoms
    cases, seed = {
        "cbis_ddsm": (phantoms.cases, phantoms.seed),
        "inbreast": (phantoms.inbreast_cases, phantoms.seed + 1),
        _PRETRAINING: (phantoms.pretraining_cases, phantoms.seed + 2),
    }[layout]
    return {
        "cases": cases,
        "seed": seed,
        "height": phantoms.height,
        "contrast": phantoms.contrast,
    }


def _draw(raw: Path, layout: str, scale: Scale) -> Path:
    settings = _settings(layout, scale)
    record = _record(raw)
    if record.exists():
        there = workdirs.read_json(record)
        for key in (_COMMIT, _GENERATOR):  # Most commits do not change the phantoms.
            there.pop(key, None)
        if there != settings:
            raise UserError(
                f"{raw} holds phantoms made with {there}, not {settings}; choose "
                "another folder with --out=DIR"
            )
    if not raw.exists():
        raw.parent.mkdir(parents=True, exist_ok=True)
        commit = commit_of_program()
        generator = last_change(_GENERATOR_CODE) or _UNKNOWN
        workdirs.write_json(record, settings | {_COMMIT: commit, _GENERATOR: generator})
        _log.info("drawing phantoms in %s", raw)
        LAYOUTS["cbis_ddsm" if layout == _PRETRAINING else layout](raw, **settings)
    return raw


def _record(raw: Path) -> Path:
    return raw.with_name(f"{raw.name}.json")


def commits(folder: Path) -> list[str]:
    """Of the program when it drew the sets of phantoms in a preset's folder."""
    return list(dict.fromkeys(str(r.get(_COMMIT, _UNKNOWN)) for r in _records(folder)))


def generator_commits(folder: Path) -> list[str]:
    """The last changes to what draws phantoms, before these sets were drawn."""
    found = (
        str(r[_GENERATOR])
        if _GENERATOR in r
        else last_change(_GENERATOR_CODE, str(r.get(_COMMIT, ""))) or _UNKNOWN
        for r in _records(folder)
    )
    return list(dict.fromkeys(found))


def _records(folder: Path) -> list[dict[str, Any]]:
    raws = [presets.data_dir(folder) / "raw" / layout for layout in sorted(LAYOUTS)]
    raws.append(folder / _PRETRAINING / "raw")
    return [workdirs.read_json(_record(r)) for r in raws if _record(r).exists()]


def _package(raw: Path, data: Path, datasets: Sequence[str]) -> None:
    from tfds_builders.building import build

    for name in datasets:
        build(name, manual_dir=raw, data_dir=data)


def pretraining_config(folder: Path, trunk: str, scale: Scale) -> ConfigDict:
    """Of the patch classifier whose trunk stands in for ImageNet's."""
    config = base.patch_config()
    config.model.trunk = trunk
    config.model.width = scale.width
    config.pretrained = ""
    config.stages = base.stage_table("patch_random")
    config.data.data_dir = str(folder / _PRETRAINING)
    config.data.dataset = f"{_PRETRAINING_SET}_h{scale.height}"
    config.update_from_flattened_dict(dict(scale.fields["patch"]))
    config.update_from_flattened_dict(dict(scale.pretraining))
    for group in config.stages.stage1.rates:
        config.stages.stage1.rates[group] = scale.pretraining_rates[trunk]
    return config


def pretraining_steps(folder: Path, trunks: Sequence[str], scale: Scale) -> int:
    """Optimiser steps of all these trunks' pretraining."""
    configs = [pretraining_config(folder, trunk, scale) for trunk in trunks]
    return sum(
        config.steps_per_epoch * sum(s.epochs for s in config.stages.values())
        for config in configs
    )


def missing_trunks(folder: Path, trunks: Sequence[str], scale: Scale) -> list[str]:
    """Those that are not pretrained yet.

    Raises:
      UserError: one was pretrained with another configuration, or none says with which.
    """
    missing = []
    for trunk in trunks:
        if presets.weights_file(folder, trunk).exists():
            _check_trunk(folder, trunk, scale)
        else:
            missing.append(trunk)
    return missing


def _check_trunk(folder: Path, trunk: str, scale: Scale) -> None:
    directory = folder / _PRETRAINING / trunk
    record = directory / workdirs.CONFIG_FILE
    if not record.exists():
        raise UserError(
            f"{presets.weights_file(folder, trunk)} is there, but not {record}, which "
            "says how it was pretrained; delete the weights, or use another --out"
        )
    wanted = workdirs.as_json(pretraining_config(folder, trunk, scale))
    check_same(moved(workdirs.read_json(record), wanted, folder), wanted, directory)


def _pretrain(
    folder: Path, trunk: str, scale: Scale, train: Callable[[ConfigDict, Path], Any]
) -> None:
    from mammo_jax.weights.model_directory import load_variables
    from mammo_jax.weights.pretrained import save_trunk

    config = pretraining_config(folder, trunk, scale)
    directory = folder / _PRETRAINING / trunk
    train(config, directory)
    _, params, stats = load_variables(directory)
    phantoms = _settings(_PRETRAINING, scale)
    save_trunk(
        trunk,
        config.model.wiring,
        config.model.width,
        params | stats,
        f"patch classes of phantoms, {phantoms['cases']} patients of seed "
        f"{phantoms['seed']}",
        presets.weights_file(folder, trunk),
    )
