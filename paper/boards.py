"""The reproduction's results for TensorBoard: `tensorboard --logdir OUT/PRESET`.

A run's own files know its configuration, but neither its row nor its table, and what
several models or the appendix gave is in no run. All of it goes to OUT/PRESET/
tensorboard, every part of it anew with each call, so that nothing stands there twice.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from mammo_jax.evaluation.prediction_table import mean_table
from mammo_jax.training.logs import Logs, log_hyperparameters
from paper import (
    claims,
    ensembles,
    gradients,
    outcomes,
    untransferred,
)
from paper.plan import PlannedRun, Setting

FOLDER = "tensorboard"


def write_boards(found: Mapping[str, Sequence[PlannedRun]], setting: Setting) -> None:
    """Writes what the finished runs, the ensembles and the appendix came to."""
    for runs in found.values():
        for run in runs:
            _write_run(run, setting)
    _write_ensembles(found, setting)
    for row in untransferred.ROWS:
        for seed, (table,) in untransferred.tables([row], found, setting).items():
            place = f"untransferred/{row}/seed{seed}"
            with _fresh(setting, place) as logs:
                logs.scalars(0, {"untransferred/auc": outcomes.auc(table)})
    for design in gradients.DESIGNS:
        for seed, curve in gradients.read_curves(design, setting).items():
            place = f"{gradients.FOLDER}/{design.name}/seed{seed}"
            with _fresh(setting, place) as logs:
                for step, norm in zip(curve.steps, curve.norms, strict=True):
                    logs.scalars(step, {"appendix/gradient_norm": norm})


def _fresh(setting: Setting, place: str) -> Logs:
    directory = setting.folder / FOLDER / Path(place)
    shutil.rmtree(directory, ignore_errors=True)
    return Logs(directory, resumed_at=-1)


def _write_run(run: PlannedRun, setting: Setting) -> None:
    row = {"name": run.row.name, "table": run.row.table, "label": run.row.label}
    config = run.config.copy_and_resolve_references()
    config.row = ConfigDict(row)
    with _fresh(setting, f"rows/{run.row.name}/seed{run.seed}") as logs:
        log_hyperparameters(logs, config, outcomes.figures(run))


def _write_ensembles(
    found: Mapping[str, Sequence[PlannedRun]], setting: Setting
) -> None:
    for name, ensemble in ensembles.ENSEMBLES.items():
        scored = claims.ensemble_tables(ensemble.rows, found, setting)
        for seed, (plain, flips) in scored.items():
            models = [
                *zip(ensemble.rows, plain, flips, strict=True),
                (f"mean_of_{name}", mean_table(plain), mean_table(flips)),
            ]
            for model, single, flipped in models:
                values = {
                    "ensemble/auc": outcomes.auc(single),
                    "ensemble/auc_flips": outcomes.auc(flipped),
                }
                with _fresh(setting, f"ensemble/{model}/seed{seed}") as logs:
                    logs.scalars(0, values)
