"""Spread of the demo's test AUC over seeds and roundings, in a table that was measured.

`python -m benchmarks.demo_spread` writes the table.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.special
import scipy.stats
from ml_collections import ConfigDict

from mammo_jax.common.run_directory import (
    as_json,
    differences,
    holds_phantoms,
    read_json,
)

SPREAD_FILE = Path(__file__).with_name("demo_spread.json")


def settings_of(config: ConfigDict) -> dict[str, Any]:
    """Returns a configuration as JSON has it, without its seed and data folder."""
    fields = as_json(config)
    for part in (fields, fields.get("patch") or {}):
        part.pop("seed", None)
        (part.get("data") or {}).pop("data_dir", None)
    return fields


def read_spread(config: ConfigDict) -> list[list[float]]:
    """Returns the test AUCs of the demo's runs, for each seed those of its roundings.

    Nothing if `config` is not the demo's, or its images are no phantoms.
    """
    data = config.data
    if not config.get("phantom") or not holds_phantoms(data.data_dir, data.dataset):
        return []
    table = read_json(SPREAD_FILE)
    if any(differences(table["config"], settings_of(config))):
        return []
    by_seed = itertools.groupby(table["runs"], lambda run: run["seed"])
    return [[run["test_auc"] for run in runs] for _, runs in by_seed]


def widen(
    auc: float, interval: tuple[float, float], spread: Sequence[Sequence[float]]
) -> tuple[float, float]:
    """Widens an interval over patients by what another training would change.

    It is one of the mean AUC over trainings and patients. Variances add up on the logit
    scale. Those of a seed's roundings and of the seeds come from a one-way analysis of
    variance, with Student's factor for the degrees of freedom of their sum
    (Satterthwaite 1946).

    Args:
      auc: the AUC of a run, within 0..1 without the ends.
      interval: its interval of 95 % over patients, likewise.
      spread: AUCs of runs on the same images, likewise: of at least two seeds, as many
        of each and at least two.

    Returns:
      The lower and the upper bound.
    """
    odds = scipy.special.logit(spread)
    seeds, ways = odds.shape
    within = odds.var(axis=1, ddof=1).mean() * (1 - 1 / ways)
    parts = np.array([odds.mean(axis=1).var(ddof=1), within])
    freedoms = np.array([seeds - 1, seeds * (ways - 1)])
    training = 0.0
    if parts.any():
        freedom = parts.sum() ** 2 / (parts**2 / freedoms).sum()
        training = scipy.stats.t.isf(0.025, freedom) * np.sqrt(parts.sum())
    centre, *ends = scipy.special.logit([auc, *interval])
    low, high = centre + [-1, 1] * np.hypot(np.array(ends) - centre, training)
    return float(scipy.special.expit(low)), float(scipy.special.expit(high))
