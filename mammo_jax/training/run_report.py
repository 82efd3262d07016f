"""The report that a run leaves in its directory."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from mammo_jax.common import run_directory
from mammo_jax.evaluation.analysis import Tables, analyse
from mammo_jax.evaluation.evaluation_report import (
    ABOUT_PATCHES,
    FIGURES,
    about_overlap,
    report_sections,
)
from mammo_jax.evaluation.prediction_table import (
    PredictionTable,
    align,
    overlap,
    read_table,
)
from mammo_jax.evaluation.report import REPORT_FILE, Section, write_report
from mammo_jax.training import ensemble


def write_run_report(workdir: Path, subject: str) -> None:
    """Writes `report.html` of a finished run from its prediction tables.

    Thresholds are chosen on the validation table, unless it shares images or
    patients with the test table. An ensemble is compared with the run, and has a
    report of its own.

    Args:
      workdir: directory of the run.
      subject: name of what was trained.

    Raises:
      UserError: a table is missing or damaged.
    """
    config = run_directory.read_json(workdir / run_directory.CONFIG_FILE)
    patches = config["task"] == "patch"
    about = [f"{subject}, trained on {config['data']['dataset']}."]
    if config.get("tta"):
        about.append("Every score is the mean over the four flips of an image.")
    if patches:
        about.append(ABOUT_PATCHES)
    other = None
    others = [str(path) for path in ensemble.members(config)]
    if others:
        mean = f"the mean of the scores of this run's model and {', '.join(others)}"
        about.append(
            f'The second of the "Two models" below is an ensemble: {mean}. Its own '
            f"report is {ensemble.ENSEMBLE_DIR}/{REPORT_FILE}."
        )
        folder = workdir / ensemble.ENSEMBLE_DIR
        title = f"Test of the ensemble of {workdir.name}"
        _write(folder, title, [f"An ensemble: {mean}."])
        table = f"{ensemble.ENSEMBLE_DIR}/predictions/test.csv"
        other = _read(workdir, table)
    _write(workdir, f"Test of {workdir.name}", about, other, patches=patches)


def _write(
    folder: Path,
    title: str,
    about: Sequence[str],
    other: PredictionTable | None = None,
    *,
    patches: bool = False,
) -> None:
    test, validation = (
        _read(folder, f"predictions/{role}.csv") for role in ("test", "validation")
    )
    shared = overlap(test, validation)
    tables = Tables(
        test,
        None if shared else validation,
        None if other is None else align(other, test),
    )
    if shared:
        about = [*about, about_overlap(shared)]
    sections = report_sections(tables, analyse(tables, patches=patches))
    sections.insert(0, Section("The run", about))
    write_report(folder / REPORT_FILE, title, sections, earlier_figures=FIGURES)


def _read(folder: Path, name: str) -> PredictionTable:
    return dataclasses.replace(read_table(folder / name), name=name)
