"""A row of the paper's tables, and the configuration that it stands for."""

import dataclasses
import runpy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from mammo_jax.common.errors import UserError
from mammo_jax.config import (
    FOREST,
    PRESETS,
    STAGES,
    WITHOUT_PATCH,
    apply_preset,
    set_top,
    stage_table,
    whole_config,
)
from mammo_jax.models.model_config import TOPS

KINDS = ("patch", "whole", "forest", "transfer")
TABLES = ("1", "2", "3", "4", "later", "ours")
PAPER_HEIGHT = 1152
_FULL = "full_resolution"
# The height of that preset.
_ORIGINAL_HEIGHT = 4608


@dataclasses.dataclass(frozen=True)
class Row:
    """One trained model of a table.

    Attributes:
      name: the name of the row's directory, and for `--rows`.
      table: "1" to "4" as in the paper; "later" for the models of its authors' later
        code; "ours" for designs beyond it.
      kind: see `KINDS`.
      label: the row's name in its table.
      paper: the authors' test accuracy (patches) or AUC; None where there is none.
      paper_epoch: the epoch of its best validation; None likewise.
      start: the row whose finished run this one starts from; "" for none.
      trunk: "resnet50", "vgg16", "vgg19" or "yaroslav".
      dataset: without the height behind it.
      stages: name of the table of stages in `mammo_jax.config`.
      top: name in `TOPS`; "" for patches, the forest and where the preset has it.
      pretrained: the trunk starts from ported weights; of patch classifiers only.
      preset: key of `PRESETS` whose fields come before the row's; "" for none.
      fields: further fields of the configuration.
    """

    name: str
    table: str
    kind: str
    label: str
    paper: float | None
    paper_epoch: int | None
    start: str
    trunk: str
    dataset: str
    stages: str
    top: str = ""
    pretrained: bool = False
    preset: str = ""
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def metric(self) -> str:
        """The test figure that the paper's table has."""
        return "accuracy" if self.kind == "patch" else "auc"

    @property
    def original(self) -> bool:
        """True at the original resolution, which phantoms do not have."""
        return self.preset == _FULL


def dataset_at(name: str, height: int) -> str:
    """Returns a data set's name with its height, unless that is the paper's."""
    return name if height == PAPER_HEIGHT else f"{name}_h{height}"


def by_name(rows: Sequence[Row]) -> dict[str, Row]:
    """Returns the rows by their names, checked.

    Raises:
      UserError: a name is there twice, or a row's table, kind, stages, top, preset or
        start does not exist, or it starts from a row after itself.
    """
    known: dict[str, Row] = {}
    patches = {row.name for row in rows if row.kind == "patch"}
    for row in rows:
        with_patch = row.kind == "patch" or row.start in patches
        presets = [p for p in PRESETS if not (with_patch and p in WITHOUT_PATCH)]
        choices = {
            "table": (row.table, TABLES),
            "kind": (row.kind, KINDS),
            "stages": (row.stages, ("", *STAGES)),
            "top": (row.top, ("", *TOPS)),
            "preset": (row.preset, ("", *presets)),
            "start": (row.start, ("", *known)),
        }
        for field, (value, allowed) in choices.items():
            if value not in allowed:
                raise UserError(
                    f"row {row.name!r}: {field} is {value!r}; it must be one of "
                    f"{', '.join(name for name in allowed if name)} (a row stands "
                    "after the one that it starts from)"
                )
        if row.name in known:
            raise UserError(f"row {row.name!r} is there twice")
        known[row.name] = row
    return known


def load_rows(path: Path) -> tuple[Row, ...]:
    """Reads `ROWS` of a file such as `configs/paper_rows.py`."""
    return tuple(runpy.run_path(str(path))["ROWS"])


def row_config(row: Row, rows: Mapping[str, Row]) -> ConfigDict:
    """Returns the whole configuration of a row at the paper's scale.

    A whole-image row that starts from a patch row has that row as its patch stage;
    one that starts from another whole-image row names its usual directory,
    `runs/ROW`, in `init_from`.
    """
    config = apply_preset(whole_config(), row.preset or "paper")
    patch = row if row.kind == "patch" else rows[row.start]
    if patch.kind == "patch":
        _put(config.patch, patch)
        file = f"weights/{patch.trunk}.safetensors"
        config.patch.pretrained = file if patch.pretrained else ""
    else:
        if "patch" in config:  # Some presets have none.
            del config["patch"]
        config.init_from = f"runs/{row.start}"
    if row is patch:
        return config.patch
    if row.kind == "forest":
        config.model.top.kind = "forest"
        config.forest = ConfigDict(FOREST)
    elif row.top:
        set_top(config, row.top)
    if row.kind == "transfer":
        # The paper's figures are of the validation images.
        config.data.test_split = "validation"
    _put(config, row)
    return config


def _put(config: ConfigDict, row: Row) -> None:
    """Puts in a row's trunk, data set, stages and further fields."""
    config.model.trunk = row.trunk
    height = _ORIGINAL_HEIGHT if row.original else PAPER_HEIGHT
    config.data.dataset = dataset_at(row.dataset, height)
    if row.stages:
        config.stages = stage_table(row.stages)
    config.update_from_flattened_dict(dict(row.fields))


def named_config(name: str, rows: Sequence[Row]) -> ConfigDict:
    """Returns the configuration of the row `name`.

    Raises:
      UserError: there is no such row.
    """
    known = by_name(rows)
    if name not in known:
        raise UserError(f"there is no row {name!r}; choose from {', '.join(known)}")
    return row_config(known[name], known)
