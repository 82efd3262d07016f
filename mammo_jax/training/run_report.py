"""The report that a run leaves in its directory."""

from collections.abc import Sequence
from pathlib import Path

from mammo_jax.common import run_directory
from mammo_jax.evaluation.evaluation import evaluate_predictions
from mammo_jax.evaluation.html_writer import REPORT_FILE
from mammo_jax.training import ensemble
from mammo_jax.weights.hub import is_on_hub


def write_run_report(workdir: Path, subject: str) -> None:
    """Writes `report.html` of a finished run from its prediction tables.

    Thresholds are chosen on the validation table, unless it shares images or
    patients with the test table. An ensemble is compared with the run, and has a
    report of its own.

    Raises:
      UserError: a table is missing or damaged.
    """
    config = run_directory.read_json(workdir / run_directory.CONFIG_FILE)
    about = [
        f"{subject[0].upper()}{subject[1:]}, trained on {config['data']['dataset']}."
    ]
    if config.get("tta"):
        about.append("Every score is the mean over the four flips of an image.")
    title = f"Test of {workdir.name}"
    if is_on_hub(start := config.get("init_from", "")):
        about.append(f"It started from the model {start}.")
    others = ensemble.members(config)
    if not others:
        _write(workdir, title, about)
        return
    mean = f"the mean of the scores of this run's model and {', '.join(others)}"
    about.append(
        f'The second of the "Two models" below is an ensemble: {mean}. Its own '
        f"report is {ensemble.ENSEMBLE_DIR}/{REPORT_FILE}."
    )
    folder = workdir / ensemble.ENSEMBLE_DIR
    _write(folder, f"Test of the ensemble of {workdir.name}", [f"An ensemble: {mean}."])
    _write(workdir, title, about, compare=folder)


def _write(
    folder: Path, title: str, about: Sequence[str], compare: Path | None = None
) -> None:
    evaluation = evaluate_predictions(folder, compare=compare)
    evaluation.write_html(folder / REPORT_FILE, title=title, about=about)
