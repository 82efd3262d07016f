"""Facts about the runs that a report is made of."""

import contextlib
import datetime
from collections.abc import Iterable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

import safetensors

import mammo_jax
from mammo_jax.common import run_directory
from mammo_jax.common.errors import UserError

# The files that `mammo_jax.weights` writes into a run's directory.
_DESCRIPTION_FILE, _WEIGHTS_FILE = "model.json", "model.safetensors"
# The file that `predict` and ensembles write beside their tables.
SETTINGS_FILE = "prediction.json"
_SIDES = ("height", "width")

# A run's directory and its configuration.
Runs = Mapping[Path, Mapping[str, Any]]


def describe_runs(runs: Runs) -> dict[str, str]:
    """Returns what is known of the runs by name, with today's date and the version."""
    found: dict[str, dict[str, None]] = {}
    for directory, config in runs.items():
        for name, value in _facts(directory, config):
            found.setdefault(name, {})[value] = None
    return {
        **{name: "; ".join(values) for name, values in found.items()},
        "date of this report": datetime.date.today().isoformat(),
        "made by": f"mammo_jax {mammo_jax.__version__}",
    }


def are_phantoms(directory: Path, config: Mapping[str, Any]) -> bool:
    """Tells whether a run's images are synthetic.

    Its `model.json` says so. Where it does not, as of a forest or an earlier version
    (whose False meant unknown), the note of phantoms with the data does.
    """
    data = config.get("data", {})
    folder, dataset = data.get("data_dir"), data.get("dataset", "")
    return bool(_read_description(directory).get("phantoms")) or (
        bool(folder) and run_directory.holds_phantoms(folder, dataset)
    )


def find_credits(tables: Iterable[Path]) -> list[str]:
    """Returns whose models scored: names on a hub, and others' licences and citations.

    A model's `model.json` says so, and the settings beside the tables of `predict` and
    of an ensemble.
    """
    found: dict[str, None] = {}
    for table in tables:
        is_run = table.parent.name == "predictions"
        folder = table.parent.parent if is_run else table.parent
        path = folder / (_DESCRIPTION_FILE if is_run else SETTINGS_FILE)
        # A table may lie beside other people's files.
        with contextlib.suppress(UserError):
            said = run_directory.read_json(
                path if path.exists() else folder / SETTINGS_FILE
            )
            if names := said.get("models"):
                found[f"Scored with {', '.join(map(str, names))}."] = None
            if credit := said.get("credit"):
                found[str(credit)] = None
    return [*found]


def _facts(directory: Path, config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    data, model = config.get("data", {}), config.get("model", {})
    if "dataset" in data:
        kind = " (phantoms)" * are_phantoms(directory, config)
        yield "data set", f"{data['dataset']}{kind}"
    if "trunk" in model:
        top = model.get("top", {}).get("kind")
        yield "network", ", ".join([model["trunk"], *([f"top: {top}"] if top else [])])
    weights = directory / _WEIGHTS_FILE
    if weights.is_file():
        # A damaged file's number is not known, which is no reason for no report.
        with contextlib.suppress(safetensors.SafetensorError, OSError):
            with safetensors.safe_open(weights, "numpy") as file:
                shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
            yield "values of the network", f"{sum(map(prod, shapes)):,}"
    # A patch classifier sees one patch of the grid at a time.
    with contextlib.suppress(KeyError):
        said = _read_description(directory)
        height, width = (said["patch_size"] or said[side] for side in _SIDES)
        yield "image size", f"{height} rows, {width} columns"
    stages = config.get("stages", {}).values()
    with contextlib.suppress(KeyError):
        epochs = sum(stage["epochs"] for stage in stages)
        text = f"seed {config['seed']}, batches of {config['batch_size']}, at most"
        if stages:
            yield "training", f"{text} {epochs} epochs"


def _read_description(directory: Path) -> Mapping[str, Any]:
    path = directory / _DESCRIPTION_FILE
    return run_directory.read_json(path) if path.is_file() else {}
