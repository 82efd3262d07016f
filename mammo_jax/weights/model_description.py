"""Facts that scoring needs before it loads a model: `model.json` of its run.

Without JAX, so that the first images are read while it is being imported.
"""

import dataclasses
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mammo_jax
from mammo_jax.common import run_directory
from mammo_jax.common.errors import UserError
from mammo_jax.images.grid import Grid
from mammo_jax.weights.published import file_digest

DESCRIPTION_FILE, WEIGHTS_FILE = "model.json", "model.safetensors"
# Version of what `model.json` holds; those before 2 did not state one, nor a digest.
FORMAT = 2
# Kinds of a model's images: films on their scanner's scale, or a detector's images for
# presentation (PresentationIntentType), each stretched to the full range.
FILM, FOR_PRESENTATION = "film", "FOR PRESENTATION"
_INTENTS = {"cbis_ddsm": FILM, "ddsm": FILM, "inbreast": FOR_PRESENTATION}
_MAX_SIDE = 1 << 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Description:
    """Preparation of a model's images, and meaning of its outputs."""

    task: str  # "whole" or "patch"
    dataset: str  # that it was trained on, such as `cbis_ddsm/paper_whole`
    class_names: tuple[str, ...]  # in the order of the model's outputs
    malignant_classes: tuple[int, ...]  # indices of those that mean malignancy
    pixel_mean: float  # to subtract, on the scale 0..255
    height: int  # rows of the grid that whole mammograms are squeezed to
    width: int
    stretch: bool  # each mammogram is stretched to the full range first
    intent: str | None  # FILM or FOR_PRESENTATION; None: unknown, of one's own images
    patch_size: int  # side of the training patches on that grid; 0 for whole images
    phantoms: bool | None = None  # the images were synthetic; None: unknown
    # Slope and intercept of the line through the log-odds of its scores, fitted on its
    # validation images; see `mammo_jax.evaluation.calibration`. None where there is
    # none: of patches, of earlier versions, of too few images.
    calibration: tuple[float, float] | None = None
    # Score of the largest sensitivity + specificity on the same images; likewise.
    threshold: float | None = None
    # Licence and citation of the model of others that this one is, or was trained from;
    # the reports of its scores have them.
    credit: str | None = None
    # SHA-256 of `model.safetensors`, as it was when this was written; None before there
    # were weights, and in format 1.
    sha256: str | None = None

    @property
    def grid(self) -> Grid:
        """Grid of the model's images."""
        return Grid(self.height, self.width, self.stretch)


def intent_of(dataset: str) -> str | None:
    """Returns what the images of a data set are; None where its owner alone knows."""
    return _INTENTS.get(dataset.lower().partition("/")[0])


def save_description(directory: Path, description: Description) -> None:
    """Writes `model.json`, with the digest of the weights that are there by then."""
    weights = directory / WEIGHTS_FILE
    digest = file_digest(weights, "sha256") if weights.is_file() else None
    values = {"format": FORMAT, **dataclasses.asdict(description), "sha256": digest}
    run_directory.write_json(directory / DESCRIPTION_FILE, values)


def load_description(directory: Path) -> Description:
    """Reads `model.json`.

    Raises:
      UserError: it is missing, damaged or of a newer format, or the directory is no
        finished run's.
    """
    read_config(directory)
    path = directory / DESCRIPTION_FILE
    if not path.is_file():
        raise UserError(
            f"{directory} has no {DESCRIPTION_FILE}, which says how its images are "
            "prepared; copy it back from where the run was made (a run that trains no "
            "network keeps none)"
        )
    # Earlier versions had no such fields.
    newer = dict.fromkeys(("phantoms", "calibration", "threshold", "credit", "sha256"))
    values = {"format": 1, **newer, **run_directory.read_json(path)}
    version = values.pop("format")
    if type(version) is int and version > FORMAT:
        raise UserError(
            f"{path} is of format {version!r:.40}, which a newer mammo_jax wrote; this "
            f"one, {mammo_jax.__version__}, reads up to {FORMAT}: update it"
        )
    if type(version) is not int or version < 1:
        raise UserError(f"{path} is damaged: its format is {version!r:.40}")
    if version > 1 and not values["sha256"]:
        raise UserError(f"{path} is damaged: its sha256 is missing")
    values.setdefault("intent", intent_of(str(values.get("dataset"))))
    if values.keys() != _VALID.keys():
        raise UserError(f"{path} is damaged: it must have {', '.join(sorted(_VALID))}")
    for name, is_valid in _VALID.items():
        if not is_valid(values[name]):
            raise UserError(f"{path} is damaged: {name} is {values[name]!r:.40}")
    if (values["task"] == "patch") != (values["patch_size"] > 0):
        raise UserError(f"{path} is damaged: its patch_size is not that of its task")
    for name in ("class_names", "malignant_classes", "calibration"):
        values[name] = values[name] and tuple(values[name])
    malignant = {*values["malignant_classes"]}
    if len(malignant) < len(values["malignant_classes"]) or not malignant < {
        *range(len(values["class_names"]))
    }:
        raise UserError(
            f"{path} is damaged: malignant_classes must be some of the classes, each "
            "once"
        )
    return Description(**values)


def read_config(directory: Path) -> dict[str, Any]:
    """Reads the configuration of a finished run.

    Raises:
      UserError: the directory is no run's, or its run is unfinished.
    """
    if not directory.is_dir():
        raise UserError(f"{directory}: no such directory; give a run's directory")
    if not (directory / run_directory.CONFIG_FILE).is_file():
        raise UserError(
            f"{directory} holds no model (no {run_directory.CONFIG_FILE}); give the "
            "directory of a finished run, such as runs/demo"
        )
    config = run_directory.read_json(directory / run_directory.CONFIG_FILE)
    if not isinstance(config.get("model"), dict):
        raise UserError(
            f"{directory / run_directory.CONFIG_FILE} is of no run of this program"
        )
    if not (directory / run_directory.METRICS_FILE).exists():
        raise UserError(
            f"{directory} holds no finished run (no {run_directory.METRICS_FILE}); "
            "finish it by giving its training command again"
        )
    return config


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 < value < _MAX_SIDE


def _is_list_of(kind: type, value: Any) -> bool:
    return isinstance(value, list) and value != [] and {*map(type, value)} == {kind}


# Rules for the fields' values in JSON.
_VALID: dict[str, Callable[[Any], bool]] = {
    "task": lambda value: value in ("whole", "patch"),
    "dataset": lambda value: isinstance(value, str),
    "class_names": lambda value: _is_list_of(str, value),
    "malignant_classes": lambda value: _is_list_of(int, value) and min(value) >= 0,
    "pixel_mean": lambda value: type(value) in (int, float) and 0 <= value <= 255,
    "height": _is_count,
    "width": _is_count,
    "stretch": lambda value: isinstance(value, bool),
    "intent": lambda value: value in (None, FILM, FOR_PRESENTATION),
    "patch_size": lambda value: type(value) is int and (value == 0 or _is_count(value)),
    "phantoms": lambda value: value is None or isinstance(value, bool),
    "threshold": lambda value: (
        value is None or (type(value) is float and 0 <= value <= 1)
    ),
    "credit": lambda value: value is None or isinstance(value, str),
    "sha256": lambda value: (
        value is None
        or (isinstance(value, str) and bool(re.fullmatch("[0-9a-f]{64}", value)))
    ),
    "calibration": lambda value: (
        value is None
        or (
            (_is_list_of(float, value) and len(value) == 2 and value[0] > 0)
            and all(map(math.isfinite, value))
        )
    ),
}
