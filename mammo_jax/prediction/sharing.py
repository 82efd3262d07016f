"""Model directories that are passed on: prepared from a run, and checked elsewhere."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors

from mammo_jax.common.errors import UserError
from mammo_jax.common.files import whole_folder
from mammo_jax.common.run_directory import (
    CONFIG_FILE,
    METRICS_FILE,
    read_json,
    write_json,
)
from mammo_jax.prediction.expected_scores import (
    EXPECTED_FILE,
    Phantom,
    expected_scores,
    score_again,
    write_expected,
)
from mammo_jax.prediction.leaks import codes_of, refuse_leaks
from mammo_jax.prediction.model_card import CARD_FILE, UNKNOWN, CardFacts, write_card
from mammo_jax.weights import hub
from mammo_jax.weights.model_description import (
    DESCRIPTION_FILE,
    WEIGHTS_FILE,
    read_config,
    save_description,
)
from mammo_jax.weights.model_directory import load_model
from mammo_jax.weights.released import LICENCE as RELEASED_LICENCE
from mammo_jax.weights.weight_files import read_weights, write_weights

_JSON = (CONFIG_FILE, DESCRIPTION_FILE, METRICS_FILE)
SHARED = (*_JSON, WEIGHTS_FILE, CARD_FILE, EXPECTED_FILE)
# People and the hub's programs put them beside a model.
_MAY_BE_THERE = {"LICENSE", "LICENSE.md", "LICENSE.txt", ".gitattributes"}
_MAY_BE_THERE |= {".git", ".cache"}
_RELEASED_ID = "cc-by-nc-sa-4.0"
# Fields of a configuration with paths of the machine; of a model on the hub, they stay.
_PATHS = ("pretrained", "init_from", "ensemble")
_DATA_DIR = "data"


def share_model(directory: Path, out: Path, licence: str | None) -> str:
    """Makes a folder of a finished run's model that can be passed on.

    Nothing else of the run is taken, and paths of the machine are left out of the
    configuration.

    Args:
      directory: the run.
      out: a new or an empty folder; its name is the model's.
      licence: the hub's identifier, such as "cc-by-4.0"; None if none is named.

    Returns:
      The licence that the card names.

    Raises:
      UserError: the directory holds no model, or `out` something; the licence is none,
        or contradicts the model's own; or a file holds a patient's code, a path, or a
        number that JSON has not.
    """
    out = out.expanduser().absolute()
    model = load_model(directory)
    licence = _licence(licence, model.description.credit)
    config = without_paths(read_config(directory))
    metrics = read_json(directory / METRICS_FILE)
    metrics.pop("ensemble", None)  # Figures of other models, by their paths.
    for name, content in ((CONFIG_FILE, config), (METRICS_FILE, metrics)):
        try:
            json.dumps(content, allow_nan=False)
        except ValueError as error:
            raise UserError(
                f"{directory / name} holds NaN or Infinity, which is no JSON; take it "
                "out, and share again"
            ) from error
    codes = codes_of(directory)
    refuse_leaks("--out", out.name, codes, "give the folder another name")
    with whole_folder(out) as folder:
        write_json(folder / CONFIG_FILE, config)
        write_json(folder / METRICS_FILE, metrics)
        # Not a copy: a header may hold more than its readers look at.
        weights = directory / WEIGHTS_FILE
        said = _metadata(weights)
        write_weights(folder / WEIGHTS_FILE, read_weights(weights), said or None)
        save_description(folder, model.description)
        for name in _JSON:
            remedy = f"take it out of {directory / name} and share again"
            refuse_leaks(name, read_json(folder / name), codes, remedy)
        remedy = "write the weights anew, without metadata"
        refuse_leaks(WEIGHTS_FILE, said, codes, remedy)
        facts = CardFacts(out.name, licence, config, metrics, model.description)
        write_card(folder, facts)
        # Markdown's backslashes stand before signs of names of a hub, too.
        text = re.sub(r"\\(.)", r"\1", (folder / CARD_FILE).read_text("utf-8"))
        refuse_leaks(CARD_FILE, text, codes, "share again under another name")
        write_expected(folder, expected_scores(load_model(folder)))
    return licence


def check_model(directory: Path) -> list[tuple[Phantom, Phantom]]:
    """Checks the files of a model that was passed on, and scores its phantoms.

    Returns:
      The phantoms as they were drawn and scored where it was made, and here; see
      `refuse_differences`.

    Raises:
      UserError: a file is missing, damaged or should not be there, or the phantoms are
        of another version.
    """
    model = load_model(directory)
    found = {entry.name for entry in directory.iterdir()}
    if missing := sorted({*SHARED} - found):
        raise UserError(
            f"{directory} has no {', '.join(missing)}; share-model makes a folder with "
            "them of a run"
        )
    if others := [name for name in SHARED if not (directory / name).is_file()]:
        raise UserError(f"{directory}: {', '.join(others)} is no file; open none of it")
    if surplus := sorted(found - {*SHARED} - _MAY_BE_THERE):
        shown = ", ".join(map(repr, surplus[:5])) + ", ..." * (len(surplus) > 5)
        raise UserError(
            f"{directory} holds more than a model: {shown}; open none of it, ask who "
            "made it, or remove it"
        )
    return score_again(model, directory)


def without_paths(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a configuration in which no path but the last part of each is left."""
    kept = {
        name: without_paths(value) if isinstance(value, Mapping) else value
        for name, value in config.items()
    }
    for name in _PATHS:
        if isinstance(value := kept.get(name), str):
            kept[name] = ",".join(map(_last_part, value.split(",")))
    if "data_dir" in kept:
        kept["data_dir"] = _DATA_DIR
    return kept


def _last_part(path: str) -> str:
    path = path.strip()
    is_public = hub.NAME.fullmatch(path) or path.startswith("https://")
    return path if is_public else Path(path.replace("\\", "/")).name


def _licence(given: str | None, credit: str | None) -> str:
    """Returns the licence to name; one of a model of others binds what comes of it."""
    bound = RELEASED_LICENCE in (credit or "")
    if given is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,63}", given):
        raise UserError(
            f"--licence={given!r:.80} is no identifier of the Hugging Face hub, such "
            "as cc-by-4.0 or apache-2.0"
        )
    if bound and given not in (None, _RELEASED_ID):
        raise UserError(
            f"--licence={given}: the model comes from one of the paper's authors, "
            f"under {RELEASED_LICENCE}, which binds it, too; leave the option out"
        )
    return _RELEASED_ID if bound else given or UNKNOWN


def _metadata(weights: Path) -> dict[str, str]:
    with safetensors.safe_open(weights, "numpy") as file:
        return {**(file.metadata() or {})}
