"""Evaluates prediction tables: AUC, thresholds, calibration, sub-groups, a report.

  python -m mammo_jax.evaluate --predictions=runs/demo --out=evaluation

Writes metrics.json and report.html (self-contained; its figures also as PNG in
figures/) into the directory of --out. Wherever a table is asked for, the directory of
a finished run stands for its own. Several tables are averaged: an ensemble.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mammo_jax.common.errors import UserError, run_command

_MADE_BY = "mammo_jax.evaluate"


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; `--help` prints it."""
    parser = argparse.ArgumentParser(
        prog="python -m mammo_jax.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    tables = "CSV or run directory; several, with commas, are averaged"
    parser.add_argument(
        "--predictions", required=True, metavar="CSV[,CSV]", help=f"test: {tables}"
    )
    parser.add_argument(
        "--validation",
        metavar="CSV[,CSV]",
        help="the same models' tables of validation images, to choose thresholds and "
        "the temperature on (default: those of the run directories in --predictions)",
    )
    parser.add_argument(
        "--compare",
        metavar="CSV[,CSV]",
        help=f"another model's scores of the same test images: {tables}",
    )
    parser.add_argument("--out", required=True, help="directory to write into")
    parser.add_argument(
        "--traceback", action="store_true", help="show where an error happened"
    )
    return parser.parse_args(arguments)


def main(options: argparse.Namespace) -> None:
    """Evaluates, writes and prints."""
    from mammo_jax.common import run_directory as workdirs
    from mammo_jax.evaluation.analysis import analyse
    from mammo_jax.evaluation.evaluation_report import (
        ABOUT_PATCHES,
        FIGURES,
        about_overlap,
        report_sections,
    )
    from mammo_jax.evaluation.report import REPORT_FILE, Section, write_report

    inputs = find_inputs(options.predictions, options.validation, options.compare)
    patches = are_patches([path for paths in inputs.values() for path in paths])
    out = Path(options.out).expanduser()
    names = {key: [str(path) for path in paths] for key, paths in inputs.items()}
    _check_out(out, names)
    tables, shared = _read(inputs, may_share=options.validation is None)
    analysis = analyse(tables, patches=patches)
    figures = {"made_by": _MADE_BY, "inputs": names, **analysis}
    about = [ABOUT_PATCHES] * patches
    if shared:
        about.append(about_overlap(shared))
        figures["validation_not_used"] = about[-1]
    out.mkdir(parents=True, exist_ok=True)
    workdirs.write_json(out / workdirs.METRICS_FILE, figures)
    sections = report_sections(tables, figures)
    if about:
        sections.insert(0, Section("The tables", about))
    page = out / REPORT_FILE
    write_report(page, "Evaluation", sections, earlier_figures=FIGURES)
    print(summary(figures))
    print(f"written to {page}")


def find_inputs(
    predictions: str, validation: str | None, compare: str | None
) -> dict[str, list[Path]]:
    """The tables by their part: `predictions`, `validation`, `compare`.

    Raises:
      UserError: nothing named, a table twice, a directory without tables, or not one
        validation table for each model.
    """
    if validation is None and all(
        Path(part).expanduser().is_dir() for part in _split(predictions)
    ):
        validation = predictions
    found = {
        "predictions": _tables(predictions, "test"),
        "validation": _tables(validation or "", "validation"),
        "compare": _tables(compare or "", "test"),
    }
    if not found["predictions"]:
        raise UserError("--predictions names no table")
    models, given = len(found["predictions"]), len(found["validation"])
    if given not in (0, models):
        raise UserError(
            f"--predictions has {models} tables and --validation {given}; give the "
            "validation table of every model, in the same order"
        )
    return found


def _split(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


def _tables(text: str, role: str) -> list[Path]:
    tables: dict[Path, Path] = {}
    for part in _split(text):
        table = _table(Path(part).expanduser(), role)
        if tables.setdefault(table.resolve(), table) is not table:
            raise UserError(f"{table} is named twice; every model counts once")
    return [*tables.values()]


def _table(path: Path, role: str) -> Path:
    if not path.is_dir():
        return path
    table = path / "predictions" / f"{role}.csv"
    if not table.is_file():
        raise UserError(
            f"{path} holds no finished run (no predictions/{role}.csv); name a "
            "prediction table, or the directory of a finished run"
        )
    return table


def are_patches(tables: Sequence[Path]) -> bool:
    """Whether the tables are of patches, as the runs that they lie in say.

    A table outside of a run is taken for one of whole images.

    Raises:
      UserError: some tables are of patches and some of whole images.
    """
    from mammo_jax.common import run_directory as workdirs

    tasks: dict[bool, Path] = {}
    for table in tables:
        config = table.parent.parent / workdirs.CONFIG_FILE
        of_run = table.parent.name == "predictions" and config.is_file()
        task = workdirs.read_json(config).get("task") if of_run else None
        tasks.setdefault(task == "patch", table)
    if len(tasks) > 1:
        raise UserError(
            f"{tasks[True]} is of patches and {tasks[False]} of whole images; they "
            "cannot be averaged or compared"
        )
    return True in tasks


def _check_out(out: Path, names: dict[str, list[str]]) -> None:
    """Refuses a directory that holds anything but an evaluation of the same tables."""
    from mammo_jax.common import run_directory as workdirs

    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; choose a directory with --out=DIR")
    if not out.exists() or not any(out.iterdir()):
        return
    metrics = out / workdirs.METRICS_FILE
    there = workdirs.read_json(metrics) if metrics.is_file() else {}
    if there.get("made_by") != _MADE_BY:
        raise UserError(
            f"{out} is not empty and holds no evaluation; choose another with --out=DIR"
        )
    if there.get("inputs") != names:
        raise UserError(
            f"{out} holds the evaluation of other tables "
            f"({there.get('inputs')}); choose another with --out=DIR"
        )


def _read(inputs: dict[str, list[Path]], *, may_share: bool) -> tuple[Any, str]:
    """The tables, and what test and validation share.

    Args:
      inputs: see `find_inputs`.
      may_share: leave a validation out that shares images or patients with the test,
        as that of a run on INbreast does; nobody asked for it.
    """
    from mammo_jax.evaluation.analysis import Tables
    from mammo_jax.evaluation.prediction_table import align, average_tables, overlap

    test = average_tables(inputs["predictions"])
    validation, other, shared = None, None, ""
    if inputs["validation"]:
        validation = average_tables(inputs["validation"])
        shared = overlap(test, validation)
        if shared and not may_share:
            raise UserError(
                f"{test.name} and {validation.name} share {shared}; thresholds must "
                "be chosen on other patients than those they are applied to"
            )
    if inputs["compare"]:
        other = align(average_tables(inputs["compare"]), test)
    return Tables(test, None if shared else validation, other), shared


def summary(figures: dict[str, Any]) -> str:
    """The main figures as a small table for the terminal."""
    from mammo_jax.evaluation.evaluation_report import interval, number

    auc, precision = figures["auc"], figures["average_precision"]
    brier = figures["calibration"]["as_predicted"]["brier"]
    rows: list[Sequence[str]] = [
        ("", "value", "95 % DeLong", "95 % bootstrap"),
        ("AUC", number(auc["value"]), *map(interval, _ends(auc))),
        (
            "average precision",
            number(precision["value"]),
            "-",
            interval(precision["bootstrap_95"]),
        ),
        ("Brier score", number(brier), "", ""),
    ]
    if "comparison" in figures:
        found = figures["comparison"]
        rows += [
            (
                "AUC of the other model",
                number(found["other_auc"]["value"]),
                *map(interval, _ends(found["other_auc"])),
            ),
            ("difference", number(found["difference"]), *map(interval, _ends(found))),
            ("p-value (DeLong)", number(found["delong_p_value"], 4), "", ""),
        ]
    lines = [
        f"{name:<24}{value:>7}   {delong:<16}   {drawn}".rstrip()
        for name, value, delong, drawn in rows
    ]
    lines.append(
        f"{figures['images']} images of {figures['patients']} patients, "
        f"{figures['malignant']} malignant"
    )
    if auc["value"] is None:
        lines.append("AUC undefined: the images are all of one class")
    if "validation_not_used" in figures:
        lines.append(figures["validation_not_used"])
    youden = (figures.get("thresholds_from_validation") or {}).get("Youden")
    if youden is not None and auc["value"] is not None:
        place = "above every score"
        if youden["threshold"] is not None:
            place = f"at {number(youden['threshold'])}"
        lines.append(
            f"{place} (Youden, chosen on validation): "
            f"sensitivity {youden['sensitivity'][0]:.3f}, "
            f"specificity {youden['specificity'][0]:.3f}"
        )
    return "\n".join(lines)


def _ends(found: dict[str, Any]) -> tuple[Any, Any]:
    return found["delong_95"], found["bootstrap_95"]


if __name__ == "__main__":
    parsed = parse_arguments()
    run_command(lambda: main(parsed), traceback=parsed.traceback)
