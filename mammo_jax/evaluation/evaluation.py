"""An evaluation: prediction tables found and checked, their figures, the report."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mammo_jax.common import run_directory
from mammo_jax.common.errors import UserError
from mammo_jax.evaluation.analysis import Tables, analyse
from mammo_jax.evaluation.html_writer import write_html
from mammo_jax.evaluation.prediction_table import (
    PredictionTable,
    align,
    mean_table,
    overlap,
    read_table,
)
from mammo_jax.evaluation.report import (
    ABOUT_PATCHES,
    ABOUT_PHANTOMS,
    FIGURES,
    report_sections,
)
from mammo_jax.evaluation.run_facts import are_phantoms, describe_runs, find_credits

# One prediction table or run directory, or those of several models.
Paths = str | Path | Sequence[str | Path]


class Evaluation(dict[str, Any]):
    """The figures of an evaluation, as a dictionary of JSON types.

    It has `images`, `patients`, `malignant`, `auc`, `average_precision` and
    `calibration`; for whole images `subgroups`, `per_breast` and `per_patient`; with a
    validation table `validation` and `operating_points` (at thresholds chosen on it);
    with another model `comparison`; and where a run's validation table could not
    serve, `validation_not_used` says why. Shares and areas are 0..1, intervals
    [low, high] of 95 % over patients, and None what is undefined.

    Attributes:
      tables: the evaluated prediction tables.
      inputs: the tables' files by their part: `predictions`, `validation`, `compare`.
    """

    def __init__(
        self,
        tables: Tables,
        inputs: Mapping[str, Sequence[Path]],
        runs: Mapping[Path, Mapping[str, Any]],
        shared: str = "",
    ):
        """Computes the figures.

        `runs` are directories and configurations of those whose test tables they are;
        `shared` is what a validation table that is left out shares with the test's.
        """
        patches = any(_is_patch(config) for config in runs.values())
        super().__init__(analyse(tables, patches=patches))
        self.tables, self.inputs, self._runs = tables, inputs, runs
        phantoms = any(are_phantoms(*run) for run in runs.items())
        self._about = [ABOUT_PHANTOMS] * phantoms + [ABOUT_PATCHES] * patches
        self._about += find_credits(path for paths in inputs.values() for path in paths)
        chose = any(_trains(config) for config in runs.values())
        if "validation" in self:
            self["validation"]["chose_epoch"] = chose
        if shared:
            epoch = "they chose the epoch, " * chose
            why = (
                f"Test and validation share {shared}: {epoch}the figures say nothing "
                "about new patients, no threshold was chosen and no calibration fitted."
            )
            self["validation_not_used"] = why
            self._about.append(why)

    def write_html(
        self,
        path: str | Path,
        *,
        title: str = "Evaluation",
        about: Sequence[str] = (),
    ) -> None:
        """Writes the report as one HTML file, its curves also as `figures/*.png`.

        Args:
          path: the file; its directory is made.
          title: the title of the page.
          about: its first paragraphs, before what the evaluation adds.

        Raises:
          OSError: the directory cannot be written.
        """
        page = Path(path).expanduser()
        tables = _named_from(self.tables, page.parent)
        about = [*about, *self._about]
        sections = report_sections(tables, self, about, describe_runs(self._runs))
        write_html(page, title, sections, earlier_figures=FIGURES)


def _named_from(tables: Tables, folder: Path) -> Tables:
    """Leaves the page's own folder out of the tables' names: a page is passed on."""
    named = {
        part: table and replace(table, name=table.name.replace(f"{folder}/", ""))
        for part, table in vars(tables).items()
    }
    return replace(tables, **named)


def evaluate_predictions(
    predictions: Paths,
    *,
    validation: Paths | None = None,
    compare: Paths | None = None,
) -> Evaluation:
    """Evaluates prediction tables: AUC, thresholds, calibration, sub-groups.

    Wherever a table is asked for, the directory of a finished run stands for its own.
    The tables of several models are averaged: an ensemble.

    Args:
      predictions: the predictions of the test images.
      validation: the same models' tables of validation images, in the same order, to
        choose thresholds on and to fit the calibration (default: those of the run
        directories in `predictions`, unless they share patients with the test).
      compare: another model's scores of the same test images.

    Raises:
      UserError: no path, a table that is missing, damaged, named twice or of other
        images, patches beside whole images, or validation and test share patients.
    """
    inputs = _find_inputs(predictions, validation, compare)
    _check_kinds([path for paths in inputs.values() for path in paths])
    test = _mean(inputs["predictions"])
    chosen_on, other, shared = None, None, ""
    if inputs["validation"]:
        chosen_on = _mean(inputs["validation"])
        shared = overlap(test, chosen_on)
        if shared and validation is not None:
            raise UserError(
                f"{test.name} and {chosen_on.name} share {shared}; thresholds must "
                "be chosen on other patients than those they are applied to"
            )
    if inputs["compare"]:
        other = align(_mean(inputs["compare"]), test)
    tables = Tables(test, None if shared else chosen_on, other)
    runs = dict(found for path in inputs["predictions"] if (found := _find_run(path)))
    return Evaluation(tables, inputs, runs, shared)


def _mean(paths: Sequence[Path]) -> PredictionTable:
    return mean_table([read_table(path) for path in paths])


def _find_inputs(
    predictions: Paths, validation: Paths | None, compare: Paths | None
) -> dict[str, list[Path]]:
    given = _listed("predictions", predictions)
    if not given:
        raise UserError("predictions names no table")
    of_runs = validation is None and all(path.is_dir() for path in given)
    chosen_on = given if of_runs else _listed("validation", validation)
    found = {
        "predictions": _tables(given, "test"),
        "validation": _tables(chosen_on, "validation"),
        "compare": _tables(_listed("compare", compare), "test"),
    }
    models, others = len(found["predictions"]), len(found["validation"])
    if others not in (0, models):
        raise UserError(
            f"predictions has {models} tables and validation {others}; give the "
            "validation table of every model, in the same order"
        )
    return found


def _listed(name: str, paths: Any) -> list[Path]:
    """Takes what a caller gave apart, who need not have checked its type."""
    if paths is None:
        return []
    several = [paths] if isinstance(paths, str | Path) else paths
    if not isinstance(several, Sequence) or not all(
        isinstance(path, str | Path) and str(path) for path in several
    ):
        raise UserError(
            f"{name} is {paths!r}; it must be the path of a prediction table (CSV) or "
            "of a finished run, or a list of such paths"
        )
    return [Path(path).expanduser() for path in several]


def _tables(paths: Sequence[Path], role: str) -> list[Path]:
    tables: dict[Path, Path] = {}
    for path in paths:
        table = path / "predictions" / f"{role}.csv" if path.is_dir() else path
        if path.is_dir() and not table.is_file():
            raise UserError(
                f"{path} holds no finished run (no predictions/{role}.csv); name a "
                "prediction table, or the directory of a finished run"
            )
        if tables.setdefault(table.resolve(), table) is not table:
            raise UserError(f"{table} is named twice; every model counts once")
    return [*tables.values()]


def _find_run(table: Path) -> tuple[Path, Mapping[str, Any]] | None:
    """Returns directory and configuration of the run that a table lies in."""
    folder = table.parent.parent
    config = folder / run_directory.CONFIG_FILE
    if table.parent.name != "predictions" or not config.is_file():
        return None
    return folder, run_directory.read_json(config)


def _is_patch(config: Mapping[str, Any]) -> bool:
    return bool(config.get("task") == "patch")


def _trains(config: Mapping[str, Any]) -> bool:
    """Tells whether a run's validation images choose its epoch: not a forest's."""
    top = config.get("model", {}).get("top", {})
    return bool(top.get("kind") != "forest")


def _check_kinds(tables: Sequence[Path]) -> None:
    """Refuses patches beside whole images; a table alone is of whole images."""
    tasks: dict[bool, Path] = {}
    for table in tables:
        run = _find_run(table)
        tasks.setdefault(run is not None and _is_patch(run[1]), table)
    if len(tasks) > 1:
        raise UserError(
            f"{tasks[True]} is of patches and {tasks[False]} of whole images; they "
            "cannot be averaged or compared"
        )
