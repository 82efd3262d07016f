"""Evaluates prediction tables: AUC, thresholds, calibration, sub-groups, a report.

  python -m mammo_jax.evaluate --predictions=runs/demo --out=evaluation

Writes metrics.json and report.html (self-contained; its figures also as PNG in
figures/) into the directory of --out. Wherever a table is asked for, the directory of
a finished run stands for its own. Several tables are averaged: an ensemble.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mammo_jax.common.command_line import make_parser, run_main
from mammo_jax.common.errors import UserError
from mammo_jax.common.files import remove_leftovers

_MADE_BY = "mammo_jax.evaluate"


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line; `--help` prints it."""
    parser = make_parser(__doc__, prog="python -m mammo_jax.evaluate")
    tables = "CSV or run directory; several, with commas, are averaged"
    several: Any = {"type": _split, "metavar": "CSV[,CSV]"}
    parser.add_argument(
        "--predictions", required=True, help=f"test: {tables}", **several
    )
    parser.add_argument(
        "--validation",
        **several,
        help="the same models' tables of validation images, to choose thresholds and "
        "the calibration on (default: those of the run directories in --predictions)",
    )
    parser.add_argument(
        "--compare",
        **several,
        help=f"another model's scores of the same test images: {tables}",
    )
    parser.add_argument("--out", required=True, help="directory to write into")
    return parser.parse_args(arguments)


def main(options: argparse.Namespace) -> None:
    """Evaluates, writes and prints."""
    from mammo_jax.common import run_directory
    from mammo_jax.evaluation.evaluation import evaluate_predictions
    from mammo_jax.evaluation.html_writer import REPORT_FILE

    evaluation = evaluate_predictions(
        options.predictions, validation=options.validation, compare=options.compare
    )
    out = Path(options.out).expanduser()
    names = {part: [*map(str, paths)] for part, paths in evaluation.inputs.items()}
    _check_out(out, names)
    out.mkdir(parents=True, exist_ok=True)
    figures = {"made_by": _MADE_BY, "inputs": names, **evaluation}
    run_directory.write_json(out / run_directory.METRICS_FILE, figures)
    evaluation.write_html(out / REPORT_FILE)
    print(summary(evaluation))
    print(f"written to {out / REPORT_FILE}")


def _split(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


def _check_out(out: Path, names: dict[str, list[str]]) -> None:
    """Refuses a directory that holds anything but an evaluation of the same tables."""
    from mammo_jax.common import run_directory

    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; choose a directory with --out=DIR")
    if out.exists():
        remove_leftovers(out, [run_directory.METRICS_FILE, "report.html"])
    if not out.exists() or not any(out.iterdir()):
        return
    metrics = out / run_directory.METRICS_FILE
    there = run_directory.read_json(metrics) if metrics.is_file() else {}
    if there.get("made_by") != _MADE_BY:
        raise UserError(
            f"{out} is not empty and holds no evaluation; choose another with --out=DIR"
        )
    if there.get("inputs") != names:
        raise UserError(
            f"{out} holds the evaluation of other tables "
            f"({there.get('inputs')}); choose another with --out=DIR"
        )


def summary(figures: Mapping[str, Any]) -> str:
    """Returns the main figures as a small table for the terminal."""
    from mammo_jax.evaluation.report import estimate, number

    brier = figures["calibration"]["as_predicted"]["brier"]
    rows = [
        ("", "value", "95 %, patients"),
        ("AUC", *estimate(figures["auc"])),
        ("average precision", *estimate(figures["average_precision"])),
        ("Brier score", number(brier), ""),
    ]
    if "comparison" in figures:
        found = figures["comparison"]
        rows += [
            ("AUC of the other model", *estimate(found["other_auc"])),
            ("difference", *estimate(found["difference"])),
            ("p-value", number(found["p_value"], 4), ""),
        ]
    lines = [f"{name:<24}{value:>7}   {ends}".rstrip() for name, value, ends in rows]
    lines.append(
        f"{figures['images']} images of {figures['patients']} patients, "
        f"{figures['malignant']} malignant"
    )
    if figures["auc"]["value"] is None:
        lines.append("AUC undefined: the images are all of one class")
    elif figures["auc"]["patients_95"] is None:
        lines.append("no interval of the AUC: too few patients of one class")
    if "validation_not_used" in figures:
        lines.append(figures["validation_not_used"])
    youden = (figures.get("operating_points") or {}).get("Youden")
    if youden is not None and figures["auc"]["value"] is not None:
        place = "above every score"
        if youden["threshold"] is not None:
            place = f"at {number(youden['threshold'])}"
        lines.append(
            f"{place} (Youden, chosen on validation): "
            f"sensitivity {youden['sensitivity'][0]:.3f}, "
            f"specificity {youden['specificity'][0]:.3f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    run_main(parse_arguments, main)
