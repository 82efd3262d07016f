"""The report that a run leaves in its directory."""

import dataclasses
from pathlib import Path

from mammo_jax.evaluation.analysis import Tables, analyse
from mammo_jax.evaluation.evaluation_report import report_sections
from mammo_jax.evaluation.prediction_table import PredictionTable, read_table
from mammo_jax.evaluation.report import REPORT_FILE, Section, write_report
from mammo_jax.training import workdir as workdirs


def write_run_report(workdir: Path) -> None:
    """Writes `report.html` of a finished run from its prediction tables.

    Thresholds are chosen on the validation table, unless it shares images with the
    test table.

    Raises:
      UserError: a table is missing or damaged.
    """
    test, validation = (_read(workdir, role) for role in ("test", "validation"))
    config = workdirs.read_json(workdir / workdirs.CONFIG_FILE)
    shared = {*test.image_ids} & {*validation.image_ids}
    tables = Tables(test, None if shared else validation)
    patches = config["task"] == "patch"
    sections = report_sections(tables, analyse(tables, patches=patches))
    about = [
        f"{config['task']} classifier, {config['model']['trunk']}, trained on "
        f"{config['data']['dataset']}."
    ]
    if patches:
        about.append(
            "Every row of the tables is a patch of a mammogram; its score is the "
            "probability of a malignant calcification or mass."
        )
    if shared:
        about.append(
            f"Test and validation share {len(shared)} images: the figures say nothing "
            "about new patients, and no threshold was chosen."
        )
    sections.insert(0, Section("The run", about))
    write_report(workdir / REPORT_FILE, f"Test of {workdir.name}", sections)


def _read(workdir: Path, role: str) -> PredictionTable:
    name = f"predictions/{role}.csv"
    return dataclasses.replace(read_table(workdir / name), name=name)
