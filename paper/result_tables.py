"""The tables: every row's figure beside the paper's, ensembles, claims, RESULTS.md."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from paper import claims, effects, rescoring, scales
from paper.effects import Effect
from paper.rescoring import ENSEMBLES
from paper.rows import Row
from paper.runs import Found, PlannedRun, Setting

TITLES = {
    "gate": "Gate: AUC of malignant against benign lesions, cut out and slid",
    "1": "Table 1: patch classifiers, test accuracy of five classes",
    "2": "Table 2: whole-image classifiers on ResNet50, test AUC",
    "3": "Table 3: whole-image classifiers on VGG, test AUC",
    "4": "Table 4 and section 3.2: transfer to INbreast, validation AUC",
    "untransferred": "Table 4's models before any transfer, INbreast validation AUC",
    "ensemble": "Section 4: four-flip averages and means of models, AUC",
    "later": "The authors' later code: YaroslavNet, accuracy of patches and test AUC",
    "ours": "Beyond the paper: designs of this project, the same budget",
    "claims": "The paper's claims",
    "designs": "Designs of this project against the paper's best top",
    "replication": "A second set of runs, and whether it lies within the first's 95 %",
}
NOT_RUN, NOTHING = "not run", "-"
_HOW = (
    "An interval is of 95 %, over seeds and patients together; of accuracies and "
    "gradients over seeds alone. On phantoms each seed has a pretrained trunk of its "
    "own. An effect is the mean figure of some rows less that of others, of gradients "
    "the mean log10 of the Jacobian's size; `paper/claims.py` names the rows. The "
    "p-value of a claim is corrected for the number of claims in its table (Holm); one "
    "that lacks rows or seeds is not judged. The validation images of a transfer also "
    "choose its epoch, as in the paper."
)
Cells = Sequence[Sequence[str]]


def measure(runs: Sequence[PlannedRun]) -> Effect:
    """Returns the mean test figure of a row's finished runs."""
    values = [*_figures(runs).values()]
    if runs[0].row.metric == "auc" and not np.isnan(values).any():
        return effects.auc_effect([[effects.test_table(run)] for run in runs])
    return effects.effect_of(values)


def _figures(runs: Sequence[PlannedRun]) -> dict[int, float]:
    """Reads a row's test figures by seed, NaN where it is not defined."""
    found = {run.seed: run.figures["test"][run.row.metric] for run in runs}
    return {seed: math.nan if x is None else float(x) for seed, x in found.items()}


def row_table(rows: Sequence[Row], found: Found) -> Cells:
    """Returns the cells of a table of rows, the header first."""
    header = (
        *("model", "paper", "measured", "95 %", "seeds"),
        *("best epoch (paper)", "s/run"),
    )
    cells = (_row_cells(row, found.get(row.name, ())) for row in rows)
    return [header, *cells]


def _row_cells(row: Row, runs: Sequence[PlannedRun]) -> Sequence[str]:
    paper = NOTHING if row.paper is None else f"{row.paper:.2f}"
    if not runs:
        return (row.label, paper, NOT_RUN, *[NOTHING] * 4)
    epoch = NOTHING
    if row.kind != "forest":
        mean = np.mean([run.figures["best_epoch"] for run in runs])
        epoch = f"{mean:.1f} ({row.paper_epoch or NOTHING})"
    seconds = f"{np.mean([run.seconds for run in runs]):.0f}"
    return (row.label, paper, *_effect_cells(measure(runs)), epoch, seconds)


def _effect_cells(effect: Effect, form: str = ".3f") -> tuple[str, str, str]:
    ends = effect.interval
    shown = NOTHING if ends is None else f"{ends[0]:.3f} to {ends[1]:.3f}"
    return format(effect.value, form), shown, str(effect.replicates)


def _scored_cells(name: str, found: Found) -> Sequence[str]:
    scored = rescoring.scores(name, found)
    if not scored:
        return (NOT_RUN, NOTHING, NOTHING)
    return _effect_cells(effects.auc_effect([*scored.values()]))


def replication_table(rows: Sequence[Row], first: Found, second: Found) -> Cells:
    """Returns the cells of the table of rows that were run a second time.

    The seeds that both sets have are also compared one by one: what a seed brings with
    it, its trunk and its order of images, is the same in both.
    """
    header = (
        *("row", "first", "95 %", "seeds", "second", "its seeds", "within"),
        *("second less first, same seeds", "95 % over these"),
    )
    cells: list[Sequence[str]] = [header]
    for row in rows:
        if not (row.name in first and row.name in second):
            continue
        once, again = (measure(found[row.name]) for found in (first, second))
        value, _, seeds = _effect_cells(again)
        verdict = NOTHING
        low, high = once.interval or (math.nan, math.nan)
        if math.isfinite(high - low) and math.isfinite(again.value):
            verdict = "yes" if low <= again.value <= high else "no"
        before, after = (_figures(found[row.name]) for found in (first, second))
        same = [after[seed] - before[seed] for seed in after if seed in before]
        change: Sequence[str] = [NOTHING] * 2
        if same:
            change = _effect_cells(effects.effect_of(same), "+.3f")[:2]
        cells.append((row.name, *_effect_cells(once), value, seeds, verdict, *change))
    return cells


def untransferred_table(rows: Mapping[str, Row], found: Found) -> Cells:
    """Returns the cells of the table of the models before transfer."""
    pairs = zip(rescoring.TRANSFERRED, rescoring.TRANSFER_ROWS, strict=True)
    cells = (
        (rows[model].label, *_scored_cells(f"before: {row}", found))
        for model, row in pairs
    )
    return [("model", "measured", "95 %", "seeds"), *cells]


def ensemble_table(rows: Mapping[str, Row], found: Found) -> Cells:
    """Returns the cells of the table of section 4."""
    header = (
        *("model", "paper", "paper, flips", "measured"),
        *("with flips", "95 % with flips", "seeds"),
    )
    cells: list[Sequence[str]] = [header]
    for ensemble in ENSEMBLES:
        title, count = ensemble.title, len(ensemble.rows)
        mean = ("-", f"{ensemble.paper_mean:.2f}")
        names = [
            *(
                (rows[row].label, row, f"flips: {row}", *(f"{x:.2f}" for x in paper))
                for row, paper in zip(ensemble.rows, ensemble.paper, strict=True)
            ),
            (
                *(f"mean of the {count}", f"mean without flips: {title}"),
                *(f"mean: {title}", *mean),
            ),
        ]
        for label, plain, flips, *paper in names:
            measured = _scored_cells(plain, found)[0]
            flipped = _scored_cells(flips, found)
            cells.append((f"{title}: {label}", *paper, measured, *flipped))
    return cells


def claim_table(findings: Sequence[claims.Finding]) -> Cells:
    """Returns the cells of a table of claims, judged together."""
    header = ("claim", "effect", "95 %", "seeds", "p", "verdict")
    cells: list[Sequence[str]] = [header]
    for finding, p_value, verdict in claims.verdicts(findings):
        shown: Sequence[str] = [NOTHING] * 4
        if finding.effect is not None:
            shown = (*_effect_cells(finding.effect, "+.3f"), f"{p_value:.3f}")
        cells.append((finding.text, *shown, verdict))
    return cells


def as_markdown(cells: Cells) -> str:
    """Returns a Markdown table with columns of even width."""
    safe = [[cell.replace("|", "\\|") for cell in row] for row in cells]
    widths = [max(map(len, column)) for column in zip(*safe, strict=True)]
    rows = [safe[0], ["-" * width for width in widths], *safe[1:]]
    return "\n".join(
        f"| {' | '.join(c.ljust(w) for c, w in zip(row, widths, strict=True))} |"
        for row in rows
    )


def results_text(
    tables: Mapping[str, Cells], setting: Setting, pictures: Mapping[str, str]
) -> str:
    """Returns RESULTS.md: tables by the names of `TITLES`, pictures by their titles."""
    parts = [
        "# Results",
        f"Written by `python scripts/reproduce.py --preset={setting.preset} --out=DIR "
        "--write_results=FILE` from the runs in DIR; no number is typed in.",
    ]
    if setting.is_small:
        parts.append(
            "Synthetic mammograms at a reduced scale, see `paper/scales.py`: they say "
            "whether a comparison comes out as in the paper, and nothing about "
            f"patients. The phantoms: `{scales.PHANTOMS}`."
        )
    parts.append(_HOW)
    for name, cells in tables.items():
        parts += [f"## {TITLES.get(name, name)}", as_markdown(cells)]
    parts += [f"![{title}]({file})\n\n*{title}*" for title, file in pictures.items()]
    return "\n\n".join(parts) + "\n"
