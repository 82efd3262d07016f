"""Spread of the demo's test AUC over seeds and roundings, in a table that was measured.

`python -m benchmarks.demo_spread` writes the table.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.special
import scipy.stats
from ml_collections import ConfigDict

from mammo_jax.common.run_directory import as_json, differences, read_json

SPREAD_FILE = Path(__file__).with_name("demo_spread.json")


def settings_of(config: ConfigDict) -> dict[str, Any]:
    """Returns a configuration as JSON has it, without its seed and data folder."""
    fields = as_json(config)
    for part in (fields, fields.get("patch") or {}):
        part.pop("seed", None)
        (part.get("data") or {}).pop("data_dir", None)
    return fields


def read_spread(config: ConfigDict) -> list[float]:
    """Returns the test AUCs of the demo's runs; none if `config` is not the demo's."""
    table = read_json(SPREAD_FILE)
    if any(differences(table["config"], settings_of(config))):
        return []
    return [run["test_auc"] for run in table["runs"]]


def widen(
    auc: float, interval: tuple[float, float], spread: Sequence[float]
) -> tuple[float, float]:
    """Widens an interval over patients by what another training would change.

    Both variances add up on the logit scale; that of the trainings comes with Student's
    factor for their number.

    Args:
      auc: the AUC of a run, within 0..1 without the ends.
      interval: its interval of 95 % over patients, likewise.
      spread: AUCs of at least two other runs on the same images, likewise.

    Returns:
      The lower and the upper bound.
    """
    centre, *ends = scipy.special.logit([auc, *interval])
    factor = scipy.stats.t.isf(0.025, len(spread) - 1)
    training = factor * np.std(scipy.special.logit(spread), ddof=1)
    low, high = centre + [-1, 1] * np.hypot(np.array(ends) - centre, training)
    return float(scipy.special.expit(low)), float(scipy.special.expit(high))
