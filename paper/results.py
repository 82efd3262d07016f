"""RESULTS.md: the tables as measured, the paper's numbers, and the claims."""

from collections.abc import Mapping, Sequence

from paper import claims, gradients, outcomes, tables
from paper.conditions import conditions
from paper.ensembles import ENSEMBLES
from paper.plan import PlannedRun, Setting
from paper.rows import Row

_CAPTIONS = {
    "1": '"Pretrained": on real data the trunk has ImageNet\'s weights; on phantoms it '
    "learned the patch classes on other phantom patients, see above, which is a "
    "closer task than ImageNet's.",
    "4": "The validation images also choose each run's best epoch, as in the paper.",
}
_VERDICTS = (
    "A claim is judged **for** where every interval that there is of the effect lies "
    "where the claim holds, **against** where every one lies outside, and "
    "**undecided** otherwise, where there is none, and with fewer than "
    f"{claims.FEWEST_SEEDS} seeds. Intervals are of 95 %: over "
    "patients by the bootstrap with the trained models as they are, over seeds by "
    "Student's t with the test images as they are. Accuracies and gradients have one "
    "over seeds only."
)

_DESIGNS = (
    "All on ResNet50, whole images with the paper's best top, to be read against "
    "`ResNet50 (s10), [512-512-1024]x2 twice` of Table 2: as many steps, and batches "
    "as large. An image at twice the height and width, as the phantoms' original "
    "resolution is, costs about four times the work in each step. Two patch accuracies "
    "are not to be compared with Table 1's, because test patches are cut as training "
    "patches are: half of the background of s10hard's is harder, and at the original "
    "resolution they are other patches."
)


def results_text(
    rows: Mapping[str, Row],
    phantom: tuple[Sequence[PlannedRun], Setting],
    paper: tuple[Sequence[PlannedRun], Setting],
    pictures: Mapping[str, str],
) -> str:
    """The whole text.

    Args:
      rows: all of them.
      phantom: planned runs of the preset `phantom`, and where they are.
      paper: likewise of the preset `paper`.
      pictures: files of the phantoms' figures, by their titles.
    """
    found, real = outcomes.by_row(phantom[0]), outcomes.by_row(paper[0])
    parts = [
        "# Results",
        "Written by `python scripts/reproduce.py --preset=phantom --out=DIR "
        "--write_results=RESULTS.md` from the runs in DIR; no number is typed in.",
        "Two columns of measurements stand beside the paper's. **Real data**: "
        "CBIS-DDSM and INbreast at the paper's scale. **Phantoms**: synthetic "
        "mammograms of this project at a reduced scale; they say whether a comparison "
        "comes out as in the paper, and nothing about patients.",
        "## How the phantoms were run",
        conditions(found, phantom[1]),
    ]
    for table in ("1", "2", "3", "4"):
        parts += [f"## {tables.TITLES[table]}"]
        parts += [_CAPTIONS[table]] if table in _CAPTIONS else []
        parts += [tables.as_markdown(_merged(_of(rows, table), found, real))]
    labels = {name: row.label for name, row in rows.items()}
    more = (found, labels, phantom[1], tables.NOT_RUN["phantom"])
    parts += [
        f"### {tables.TITLES['untransferred']}",
        "The state that the transfers start from, on phantoms.",
        tables.as_markdown(tables.untransferred_table(*more)),
        f"## {tables.TITLES['ensemble']}",
        *_real_ensemble(real, labels, paper[1]),
        tables.as_markdown(tables.ensemble_table(*more)),
        *_claims(found, phantom[1]),
    ]
    parts += [f"![{title}]({file})\n\n*{title}*" for title, file in pictures.items()]
    if any(row.name in found for row in _of(rows, "ours")):
        parts += [
            f"## {tables.TITLES['ours']}",
            _DESIGNS,
            tables.as_markdown(_merged(_of(rows, "ours"), found, real)),
            "### Designs of this project against the paper's best top",
            tables.as_markdown(tables.claim_table(claims.judge_designs(found))),
        ]
    return "\n\n".join(parts) + "\n"


def _claims(found: Mapping[str, Sequence[PlannedRun]], setting: Setting) -> list[str]:
    findings = [*claims.judge(found, setting), *gradients.judge(setting)]
    judged = [finding for finding in findings if finding.effect is not None]
    designs = [f for f in claims.judge_designs(found) if f.effect is not None]
    return [
        "## The paper's claims on the phantoms",
        _VERDICTS,
        f"Claims judged here: {len(judged)}; designs judged further below: "
        f"{len(designs)}. Each interval is of 95 % for itself: none is corrected for "
        "their number.",
        tables.as_markdown(tables.claim_table(findings)),
    ]


def _of(rows: Mapping[str, Row], table: str) -> list[Row]:
    return [row for row in rows.values() if row.table == table]


def _real_ensemble(
    real: Mapping[str, Sequence[PlannedRun]],
    labels: Mapping[str, str],
    setting: Setting,
) -> list[str]:
    """Up to the table of the phantoms."""
    absent = tables.NOT_RUN["paper"]
    if not any(all(row in real for row in e.rows) for e in ENSEMBLES.values()):
        return [f"Real data: {absent}. Phantoms:"]
    measured = tables.ensemble_table(real, labels, setting, absent)
    return ["Real data:", tables.as_markdown(measured), "Phantoms:"]


_HEADER = (
    *("model", "paper", "real data", "phantoms", "95 %, patients", "95 %, seeds"),
    *("seeds", "best epoch (paper)", "s/run"),
)


def _merged(
    rows: Sequence[Row],
    found: Mapping[str, Sequence[PlannedRun]],
    real: Mapping[str, Sequence[PlannedRun]],
) -> list[Sequence[str]]:
    small = tables.row_table(rows, found, tables.NOT_RUN["phantom"])[1:]
    large = tables.row_table(rows, real, tables.NOT_RUN["paper"])[1:]
    cells: list[Sequence[str]] = [_HEADER]
    for (name, paper, epoch, *rest), full in zip(small, large, strict=True):
        value, patients, seeds, count, best, seconds = rest
        cells.append(
            (
                *(name, paper, full[3], value, patients, seeds, count),
                *(f"{best} ({epoch})", seconds),
            )
        )
    return cells
