"""The work of `scripts/reproduce.py`, in order."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from mammo_jax.common.errors import UserError
from mammo_jax.common.files import replace_file
from mammo_jax.common.tables import write_table
from paper import (
    claims,
    figures,
    gate,
    gradients,
    phantoms,
    rescoring,
    result_tables,
    runs,
    scales,
)
from paper.rows import TABLES, Row, by_name
from paper.runs import Found, PlannedRun, Setting, Train

ENSEMBLE = "ensemble"
_CAPTIONS = {
    "2": "Figure 2: loss of two VGG tops, a colour for each seed; the train curve is "
    "the running mean since the epoch's start, in training mode",
    "appendix": "Appendix 1: Jacobian of the log-odds by the trunk's last feature map, "
    "a line for each seed",
}
FIGURES = {
    "2": tuple(figures.FIGURE_2_ROWS),
    "appendix": gradients.ROWS,
}
_SEEDED_ROWS = claims.CLAIMED_ROWS.union(*FIGURES.values())


@dataclasses.dataclass(frozen=True)
class Request:
    """A checked command line: tables to print, figures to draw, rows chosen to run.

    `rows` are all that there are; `seeds` is None for the preset's own number.
    """

    rows: Mapping[str, Row]
    tables: tuple[str, ...]
    figures: tuple[str, ...]
    chosen: tuple[str, ...]
    seeds: int | None
    setting: Setting

    @property
    def plan(self) -> list[PlannedRun]:
        """The runs."""
        of_preset = scales.SEEDS[self.setting.preset]
        seeds = {
            name: self.seeds or (of_preset if name in _SEEDED_ROWS else 1)
            for name in self.chosen
        }
        return runs.plan_runs(seeds, self.rows, self.setting)


def check_request(
    all_rows: Sequence[Row],
    *,
    tables: Sequence[str] = (),
    figures: Sequence[str] = (),
    names: Sequence[str] = (),
    preset: str,
    seeds: int | None = None,
    out: Path,
    data_dir: str = "data",
) -> Request:
    """Refuses what is not there, before any work.

    Raises:
      UserError: an unknown table, figure, row or preset, or no seed; on phantoms also
        a row at the original resolution, which they do not have.
    """
    rows, setting = by_name(all_rows), Setting(preset, out, data_dir)
    if setting.is_small:
        rows = {name: row for name, row in rows.items() if not row.original}
    known_tables = (*TABLES, ENSEMBLE)
    for flag, given, allowed in (
        ("table", tables, known_tables),
        ("figure", figures, tuple(FIGURES)),
        ("rows", names, tuple(rows)),
        ("preset", (preset,), tuple(scales.SEEDS)),
    ):
        wrong = [name for name in given if name not in allowed]
        if wrong:
            raise UserError(
                f"--{flag}: there is no {', '.join(map(repr, wrong))}; choose from "
                f"{', '.join(allowed)}"
            )
    if seeds is not None and seeds < 1:
        raise UserError(f"--seeds is {seeds}; it must be at least 1")
    if not (tables or figures or names):
        tables, figures = known_tables, tuple(FIGURES)
    chosen = {row.name for row in rows.values() if row.table in tables} | {*names}
    if ENSEMBLE in tables:
        chosen |= {*rescoring.FLIPPED_ROWS}
    chosen = chosen.union(*(FIGURES[figure] for figure in figures))
    return Request(
        rows=rows,
        tables=tuple(tables),
        figures=tuple(figures),
        chosen=tuple(name for name in rows if name in chosen),
        seeds=seeds,
        setting=setting,
    )


def describe(request: Request) -> str:
    """Returns the plan as text, with the inputs that are missing; runs nothing.

    Raises:
      UserError: a finished run has another configuration.
    """
    plan = request.plan
    runs.check_finished(plan)
    text = runs.describe_plan(plan)
    if not request.setting.is_small:
        try:
            runs.check_inputs(plan)
        except UserError as error:
            return f"{text}\n{error}"
    return text


def reproduce(
    request: Request, train: Train | None = None
) -> tuple[str, dict[str, str]]:
    """Runs what is not finished; by `train_and_evaluate` if `train` is left out.

    Writes each table as `table_N.csv`, and the figures, into the preset's folder.

    Returns:
      The tables as text, and why runs failed, by their names.

    Raises:
      UserError: inputs are missing, or a finished run has another configuration.
      RunStoppedError: a signal arrived; the same command goes on.
    """
    if train is None:
        from mammo_jax.training.run import train_and_evaluate

        train = train_and_evaluate
    plan, setting = request.plan, request.setting
    runs.check_finished(plan)
    _prepare(request, plan, train)
    print(describe(request), flush=True)
    failures = runs.run_all(plan, train, lambda start: gate.check_gate(start, plan))
    found = runs.finished_runs(plan)
    if ENSEMBLE in request.tables:
        rescoring.score_again(rescoring.FLIPS, found)
    rescoring.score_again(rescoring.BEFORE, found)
    if "appendix" in request.figures:
        gradients.measure_all(found)
    parts = []
    for name, (header, *rows) in _tables(request, found).items():
        write_table(setting.folder / f"table_{name}.csv", header, rows)
        title = result_tables.TITLES.get(name, "The rows asked for")
        parts.append(f"{title}\n{result_tables.as_markdown([header, *rows])}")
    drawn = _draw(request.figures, found, setting.folder, "")
    parts += [f"written to {path}" for path in drawn.values()]
    return "\n\n".join(parts), failures


def _prepare(request: Request, plan: Sequence[PlannedRun], train: Train) -> None:
    setting = request.setting
    if setting.is_small:
        if all(run.finished for run in plan):
            return  # No training is left, so that its data need not be there.
        names = {run.config.data.dataset for run in plan}
        trunks = {(run.row.trunk, run.seed) for run in plan if run.row.pretrained}
        phantoms.prepare(setting.folder, names, trunks, train)
    runs.check_inputs(plan)


def _tables(request: Request, found: Found) -> dict[str, result_tables.Cells]:
    rows = request.rows
    if not request.tables and not request.figures:
        named = [rows[name] for name in request.chosen if name in found]
        return {"rows": result_tables.row_table(named, found)}
    cells = {}
    for table in request.tables:
        if table == ENSEMBLE:
            cells[table] = result_tables.ensemble_table(rows, found)
            continue
        shown = [row for row in rows.values() if row.table == table]
        cells[table] = result_tables.row_table(shown, found)
        if table == "4":
            before = result_tables.untransferred_table(rows, found)
            cells["untransferred"] = before
    return cells


def _draw(
    names: Sequence[str], found: Found, folder: Path, prefix: str
) -> dict[str, Path]:
    """Draws figures where there is something to draw; their files by their names."""
    drawn = {}
    if "2" in names:
        drawn["2"] = figures.draw_figure_2(found, folder / f"{prefix}figure_2.png")
    if "appendix" in names:
        path = folder / f"{prefix}appendix.png"
        drawn["appendix"] = figures.draw_appendix(found, path)
    return {name: path for name, path in drawn.items() if path is not None}


def write_results(request: Request, path: Path, again: Path | None = None) -> None:
    """Writes the whole account of what is finished in the preset's folder as Markdown.

    `again` is a second `--out`, of the same rows run once more.

    Raises:
      UserError: nothing is finished; a finished run has another configuration; nothing
        common is in `again`.
    """
    rows, setting = request.rows, request.setting
    found = _finished(request)
    if not found:
        raise UserError(
            f"{setting.folder}: holds no finished run; run the rows first, without "
            "--write_results"
        )
    everything = dataclasses.replace(request, tables=(*TABLES, ENSEMBLE))
    cells = {"gate": gate.gate_table(found), **_tables(everything, found)}
    fewest = scales.FEWEST_SEEDS[setting.preset]
    # Phantoms lack the row of the original resolution.
    designs = [c for c in claims.DESIGN_CLAIMS if rows.keys() >= {*c.first, *c.second}]
    for name, written in (("claims", claims.CLAIMS), ("designs", designs)):
        findings = [claims.find(claim, found, fewest) for claim in written]
        cells[name] = result_tables.claim_table(findings)
    if again is not None:
        anew = dataclasses.replace(setting, out=again)
        second = _finished(dataclasses.replace(request, setting=anew))
        if not found.keys() & second.keys():
            raise UserError(
                f"{anew.folder}: holds no finished run of a row that is finished in "
                f"{setting.folder}"
            )
        cells["replication"] = result_tables.replication_table(
            [*rows.values()], found, second
        )
    drawn = _draw(tuple(FIGURES), found, path.parent / "docs", "results_")
    pictures = {
        _CAPTIONS[name]: file.relative_to(path.parent).as_posix()
        for name, file in drawn.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with replace_file(path) as partial:
        text = result_tables.results_text(cells, setting, pictures)
        partial.write_text(text, encoding="utf-8")


def _finished(request: Request) -> Found:
    """Returns all finished runs, whichever rows were asked for."""
    rows, setting = request.rows, request.setting
    there = {name: _seeds_there(setting.folder / name) for name in rows}
    plan = [run for run in runs.plan_runs(there, rows, setting) if run.finished]
    runs.check_finished(plan)
    return runs.finished_runs(plan)


def _seeds_there(folder: Path) -> int:
    """Counts up to the highest seed that a row has a directory of."""
    seeds = [path.name.removeprefix("seed") for path in folder.glob("seed*")]
    return max((int(seed) + 1 for seed in seeds if seed.isdecimal()), default=0)
