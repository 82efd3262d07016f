"""RESULTS.md: the tables as measured, the paper's numbers, and the claims."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from mammo_jax.models.pretrained import file_digest
from mammo_jax.reproduction import (
    claims,
    gradients,
    outcomes,
    phantoms,
    presets,
    tables,
)
from mammo_jax.reproduction.plan import PlannedRun, Setting
from mammo_jax.reproduction.rows import Row
from mammo_jax.training import workdir as workdirs

TIME_FILE = "time.json"
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
    "resolution is, costs about four times the work in each step. Patch accuracies "
    "are not to be compared with Table 1's, nor with each other: the test patches are "
    "cut as the training patches are, so half of the background of s10hard's is "
    "harder, and those of the original resolution are other patches."
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
        _conditions(found, phantom[1]),
    ]
    for table in ("1", "2", "3", "4"):
        parts += [
            f"## {tables.TITLES[table]}",
            tables.as_markdown(_merged(_of(rows, table), found, real)),
        ]
    labels = {name: row.label for name, row in rows.items()}
    parts += [
        f"## {tables.TITLES['ensemble']}",
        f"Real data: {_real_ensemble(real)}. Phantoms:",
        tables.as_markdown(
            tables.ensemble_table(found, labels, phantom[1], tables.NOT_RUN["phantom"])
        ),
        "## The paper's claims on the phantoms",
        _VERDICTS,
        tables.as_markdown(
            tables.claim_table(
                [*claims.judge(found, phantom[1]), *gradients.judge(phantom[1])]
            )
        ),
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


def read_seconds(folder: Path) -> float:
    """The time that all calls took together; 0 where there was none."""
    path = folder / TIME_FILE
    return float(workdirs.read_json(path)["seconds"]) if path.exists() else 0.0


def _of(rows: Mapping[str, Row], table: str) -> list[Row]:
    return [row for row in rows.values() if row.table == table]


def _real_ensemble(real: Mapping[str, Sequence[PlannedRun]]) -> str:
    if real:
        return "see `reproduce.py --preset=paper --table=ensemble`"
    return tables.NOT_RUN["paper"]


def _conditions(found: Mapping[str, Sequence[PlannedRun]], setting: Setting) -> str:
    """Data, scale, commit, time: what a reader needs to judge the numbers."""
    if not found:
        return "Not run."
    scale = setting.scale
    assert scale is not None
    runs = [run for row in found.values() for run in row]
    measured = [tables.measure(row) for row in found.values()]
    seconds = sum(m.seconds * m.effect.seeds for m in measured)
    whole = read_seconds(setting.folder)
    commits = dict.fromkeys(commit for m in measured for commit in m.commits)
    drawn = scale.phantoms
    lines = [
        f"- {len(runs)} runs of {len(found)} rows: {seconds / 60:.0f} minutes; with "
        "drawing, packaging, pretraining, flips and gradients all calls together took "
        f"{whole / 60:.0f} minutes, waiting for each other included.",
        f"- Program: commit {', '.join(commits)} (+: with uncommitted changes). The "
        f"phantoms were drawn at commit {', '.join(phantoms.commits(setting.folder))}.",
        f"- Phantoms: {drawn.cases} patients in CBIS-DDSM's layout (seed {drawn.seed})"
        f", {drawn.inbreast_cases} examinations in INbreast's (seed {drawn.seed + 1})"
        f", lesion contrast {drawn.contrast:g}, as in `make demo`.",
        f"- Images {scale.height}x{scale.height * 896 // 1152}, trunks and tops "
        f"{scale.width:g} as wide as the paper's, torchvision's wiring, residual units "
        "that start as identities, batch statistics of the whole-image stage frozen, "
        "no turns, shears or zooms, no early stopping; the stages are the paper's with "
        "fewer epochs and higher rates (`mammo_jax/reproduction/presets.py`).",
        '- "Pretrained" means: the trunk learned the patch classes on '
        f"{drawn.pretraining_cases} other phantom patients (seed {drawn.seed + 2}). "
        "It is no ImageNet.",
    ]
    for trunk in ("resnet50", "vgg16", "vgg19"):
        file = presets.weights_file(setting.folder, trunk)
        if file.exists():
            lines.append(f"- {file.name}: SHA-256 {file_digest(file, 'sha256')}")
    return "\n".join(lines)


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
