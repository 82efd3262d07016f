"""The tables: every row's figure beside the paper's, for people and for programs."""

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence

import numpy as np

from mammo_jax.evaluation.prediction_table import mean_table
from paper import claims, ensembles, outcomes, untransferred
from paper.ensembles import ENSEMBLES
from paper.outcomes import Effect, Ends
from paper.plan import PlannedRun, Setting
from paper.rows import Row
from paper.run import read_record

TITLES = {
    "1": "Table 1: patch classifiers, test accuracy of five classes",
    "2": "Table 2: whole-image classifiers on ResNet50, test AUC",
    "3": "Table 3: whole-image classifiers on VGG, test AUC",
    "4": "Table 4 and section 3.2: transfer to INbreast, validation AUC",
    "ours": "Beyond the paper: designs of this project, the same budget",
    "untransferred": "Table 4's models before any transfer, INbreast validation AUC",
    "ensemble": "Section 4: four-flip averages and means of models, AUC",
}
NOT_RUN = {"paper": "not run: needs the data", "phantom": "not run"}
NOTHING = "-"


@dataclasses.dataclass(frozen=True)
class Measured:
    """A row's figures over its seeds.

    Attributes:
      row: what was run.
      effect: the mean and its intervals.
      epoch: mean epoch of the best validation.
      seconds: mean of a run.
      commits: of the program in these runs.
    """

    row: Row
    effect: Effect
    epoch: float
    seconds: float
    commits: tuple[str, ...]


def measure(runs: Sequence[PlannedRun]) -> Measured:
    """Figures of a row's finished runs."""
    row = runs[0].row
    metrics = [outcomes.figures(run) for run in runs]
    values = [figures["test"][row.metric] for figures in metrics]
    if row.metric == "auc" and None not in values:
        effect = outcomes.auc_effect([[ensembles.single(run)] for run in runs])
    else:
        known = [float("nan") if value is None else value for value in values]
        effect = Effect(
            float(np.mean(known)), outcomes.seed_interval(known), None, len(known)
        )
    records = [read_record(run) for run in runs]
    return Measured(
        row=row,
        effect=effect,
        epoch=float(np.mean([figures["best_epoch"] for figures in metrics])),
        seconds=float(np.mean([record.seconds for record in records])),
        commits=tuple(dict.fromkeys(c for r in records for c in r.commits)),
    )


HEADER = (
    *("model", "paper", "epoch", "measured", "95 %, patients", "95 %, seeds"),
    *("seeds", "best epoch", "s/run"),
)


def row_table(
    rows: Sequence[Row],
    found: Mapping[str, Sequence[PlannedRun]],
    absent: str,
) -> list[Sequence[str]]:
    """The cells of a table of rows, the header first.

    Args:
      rows: of the table.
      found: the finished runs, by row.
      absent: what is said of a row without any.
    """
    return [HEADER, *(_cells(row, found.get(row.name, ()), absent) for row in rows)]


def _cells(row: Row, runs: Sequence[PlannedRun], absent: str) -> Sequence[str]:
    paper = [row.label, _or_nothing(row.paper, ".2f"), _or_nothing(row.paper_epoch, "")]
    if not runs:
        return (*paper, absent, *[NOTHING] * 5)
    found = measure(runs)
    trained = row.kind != "forest"
    return (
        *paper,
        f"{found.effect.value:.3f}",
        interval(found.effect.by_patients),
        interval(found.effect.by_seeds),
        str(found.effect.seeds),
        f"{found.epoch:.1f}" if trained else NOTHING,
        f"{found.seconds:.0f}",
    )


def _or_nothing(value: float | None, form: str) -> str:
    return NOTHING if value is None else format(value, form)


def interval(ends: Ends | None) -> str:
    """The two ends, or a dash."""
    return NOTHING if ends is None else f"{ends[0]:.3f} to {ends[1]:.3f}"


ENSEMBLE_HEADER = (
    *("model", "paper", "paper, flips", "measured", "with flips"),
    *("95 % with flips, patients", "seeds"),
)


def ensemble_table(
    found: Mapping[str, Sequence[PlannedRun]],
    labels: Mapping[str, str],
    setting: Setting,
    absent: str,
) -> list[Sequence[str]]:
    """The cells of the table of section 4, the header first."""
    cells: list[Sequence[str]] = [ENSEMBLE_HEADER]
    for ensemble in ENSEMBLES.values():
        tables = claims.ensemble_tables(ensemble.rows, found, setting)
        why = absent
        if all(row in found for row in ensemble.rows):
            why = claims.why_no_ensemble(ensemble.rows, found)
        for number, (row, paper) in enumerate(
            zip(ensemble.rows, ensemble.paper, strict=True)
        ):
            name = f"{ensemble.title}: {labels[row]}"
            known = [f"{value:.2f}" for value in paper]
            if not tables:
                cells.append((name, *known, why, *[NOTHING] * 3))
                continue
            plain, flips = (
                outcomes.auc_effect([[seed[part][number]] for seed in tables.values()])
                for part in (0, 1)
            )
            cells.append((name, *known, f"{plain.value:.3f}", *_flip_cells(flips)))
        name = f"{ensemble.title}: mean of the {len(ensemble.rows)}"
        known = [NOTHING, f"{ensemble.paper_mean:.2f}"]
        if not tables:
            cells.append((name, *known, why, *[NOTHING] * 3))
            continue
        plain, flips = (
            outcomes.auc_effect([[mean_table(seed[part])] for seed in tables.values()])
            for part in (0, 1)
        )
        cells.append((name, *known, f"{plain.value:.3f}", *_flip_cells(flips)))
    return cells


def _flip_cells(flips: Effect) -> Sequence[str]:
    return f"{flips.value:.3f}", interval(flips.by_patients), str(flips.seeds)


UNTRANSFERRED_HEADER = (
    *("model", "measured", "95 %, patients", "95 %, seeds", "seeds"),
)


def untransferred_table(
    found: Mapping[str, Sequence[PlannedRun]],
    labels: Mapping[str, str],
    setting: Setting,
    absent: str,
) -> list[Sequence[str]]:
    """The cells of the table of the models before transfer, the header first."""
    cells: list[Sequence[str]] = [UNTRANSFERRED_HEADER]
    for model, row in zip(untransferred.MODELS, untransferred.ROWS, strict=True):
        scored = untransferred.tables([row], found, setting)
        if not scored:
            cells.append((labels[model], absent, *[NOTHING] * 3))
            continue
        effect = outcomes.auc_effect(list(scored.values()))
        cells.append(
            (
                *(labels[model], f"{effect.value:.3f}"),
                *(interval(effect.by_patients), interval(effect.by_seeds)),
                str(effect.seeds),
            )
        )
    return cells


CLAIM_HEADER = (
    *("claim", "measured", "effect", "95 %, patients", "95 %, seeds", "seeds"),
    "verdict",
)


def claim_table(findings: Sequence[claims.Finding]) -> list[Sequence[str]]:
    """The cells of the table of claims, the header first."""
    cells: list[Sequence[str]] = [CLAIM_HEADER]
    for finding in findings:
        effect = finding.effect
        values = [NOTHING] * 4
        if effect is not None:
            values = [
                f"{effect.value:+.3f}",
                interval(effect.by_patients),
                interval(effect.by_seeds),
                str(effect.seeds),
            ]
        cells.append((finding.text, finding.measured, *values, finding.verdict))
    return cells


def as_markdown(cells: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    header, *rows = ([cell.replace("|", "\\|") for cell in row] for row in cells)
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)


def as_csv(cells: Sequence[Sequence[str]]) -> str:
    """A CSV table."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(cells)
    return text.getvalue()


def as_text(cells: Sequence[Sequence[str]]) -> str:
    """Columns of even width, for a terminal."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in cells
    )
