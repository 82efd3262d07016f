"""What `scripts/reproduce.py` does, in order."""

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from mammo_jax.common import run_directory as workdirs
from mammo_jax.common.errors import UserError
from mammo_jax.common.files import replace_file
from paper import (
    boards,
    claims,
    ensembles,
    figures,
    gradients,
    outcomes,
    phantoms,
    plan,
    presets,
    tables,
    timing,
    untransferred,
)
from paper.conditions import (
    FIRST_START,
    LAST_END,
    TIME_FILE,
    read_seconds,
    read_span,
)
from paper.plan import PlannedRun, Setting
from paper.results import results_text
from paper.rows import TABLES, Row, by_name
from paper.run import Train, run_all

ENSEMBLE = "ensemble"
_FIGURE_2_CAPTION = (
    "Figure 2: loss of two VGG tops; the train curve is the running mean since the "
    "epoch's start, in training mode"
)
FIGURES = {
    "2": tuple(figures.FIGURE_2_ROWS),
    "appendix": tuple(dict.fromkeys(d.row for d in gradients.DESIGNS)),
}


@dataclasses.dataclass(frozen=True)
class Request:
    """A checked command line.

    Attributes:
      rows: all that there are.
      tables: to print.
      figures: to draw.
      chosen: names of the rows to run, without those that they start from.
      seeds: of every row; None for the preset's own.
      setting: where and at which scale.
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
        return _plan(self, self.chosen)

    @property
    def designs(self) -> list[PlannedRun]:
        """The runs whose training the appendix repeats, and those they start from."""
        if "appendix" not in self.figures:
            return []
        return _plan(self, FIGURES["appendix"])


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
      UserError: an unknown table, figure, row or preset, or no seed.
    """
    rows = by_name(all_rows)
    known_tables = (*TABLES, ENSEMBLE)
    for flag, given, allowed in (
        ("table", tables, known_tables),
        ("figure", figures, tuple(FIGURES)),
        ("preset", (preset,), tuple(presets.SCALES)),
    ):
        wrong = [name for name in given if name not in allowed]
        if wrong:
            raise UserError(
                f"--{flag}: there is no {', '.join(map(repr, wrong))}; choose from "
                f"{', '.join(allowed)}"
            )
    if seeds is not None and seeds < 1:
        raise UserError(f"--seeds is {seeds}; it must be at least 1")
    named = [row.name for row in plan.choose_rows(rows, (), names)]
    if not (tables or figures or names):
        tables, figures = known_tables, tuple(FIGURES)
    chosen = {row.name for row in plan.choose_rows(rows, tables, ())} | {*named}
    if ENSEMBLE in tables:
        chosen |= {*ensembles.ROWS}
    for figure in figures:
        chosen |= _needed_by(figure, rows)
    return Request(
        rows=rows,
        tables=tuple(tables),
        figures=tuple(figures),
        chosen=tuple(name for name in rows if name in chosen),
        seeds=seeds,
        setting=Setting(preset, out, data_dir, presets.SCALES[preset]),
    )


def _needed_by(figure: str, rows: Mapping[str, Row]) -> set[str]:
    """The appendix needs only what its designs start from."""
    if figure == "appendix":
        return {rows[row].start for row in FIGURES[figure]}
    return {*FIGURES[figure]}


def _plan(request: Request, names: Sequence[str]) -> list[PlannedRun]:
    seeds = {
        name: request.seeds or _seeds(name, request.setting.preset) for name in names
    }
    return plan.plan_runs(seeds, request.rows, request.setting)


def _seeds(row: str, preset: str) -> int:
    return presets.SEEDS[preset] if row in _SEEDED_ROWS else 1


_SEEDED_ROWS = (
    claims.CLAIMED_ROWS
    | {*FIGURES["2"]}
    | {f"patch_{design.trunk}_s10" for design in gradients.DESIGNS}
)


def describe(request: Request) -> str:
    """The plan as text; runs nothing.

    At the paper's scale a step of each kind is timed for an estimate of the hours, the
    appendix's included; where inputs are missing, they are named instead.

    Raises:
      UserError: a finished run has another configuration.
    """
    runs = request.plan
    plan.check_finished(runs)
    besides = _besides(request, runs)
    if request.setting.scale is not None:
        return plan.describe_plan(runs, {}, besides=besides)
    read = [*runs, *request.designs]
    try:
        plan.check_inputs(read)
    except UserError as error:
        return f"{plan.describe_plan(runs, {}, besides=besides)}\n{error}"
    left = [run for run in runs if not run.finished]
    seconds = timing.time_steps(left + [run for part in besides for run in part.runs])
    return plan.describe_plan(
        runs,
        plan.count_examples(read),
        lambda run: seconds.get(timing.kind_of_step(run), 0.0),
        besides,
    )


def _besides(request: Request, runs: Sequence[PlannedRun]) -> list[plan.Besides]:
    """What is left to do besides the runs; nothing where there is none of it."""
    setting = request.setting
    work: list[tuple[int, str, tuple[PlannedRun, ...], int]] = []
    if setting.scale is not None:
        trunks = [] if _is_complete(request, runs) else plan.pretrained_trunks(runs)
        missing = phantoms.missing_trunks(setting.folder, trunks, setting.scale)
        steps = phantoms.pretraining_steps(setting.folder, missing, setting.scale)
        work.append((len(missing), "trunks to pretrain", (), steps))
    repeated = gradients.trainings_left(request.designs, setting)
    work.append((len(repeated), "trainings for the appendix", repeated, 0))
    scores = {
        "models to score in four flips": (
            ENSEMBLE,
            ensembles.ROWS,
            ensembles.is_flipped,
        ),
        "models to score before transfer": (
            "4",
            untransferred.ROWS,
            untransferred.is_scored,
        ),
    }
    for what, (table, rows, is_done) in scores.items():
        left = [
            run
            for run in runs
            if table in request.tables
            and run.row.name in rows
            and not is_done(run, setting)
        ]
        work.append((len(left), what, (), 0))
    return [
        plan.Besides(f"besides, {what}: {count}", repeats, steps)
        for count, what, repeats, steps in work
        if count
    ]


def reproduce(
    request: Request, train: Train | None = None
) -> tuple[str, dict[str, str]]:
    """Runs what is not finished.

    Writes each table as `table_N.csv` and `table_N.md`, the figures, and TensorBoard's
    files, into the preset's folder.

    Args:
      request: see `check_request`.
      train: of a run; `mammo_jax.training.run.train_and_evaluate` if left out.

    Returns:
      The tables as text, and why runs failed, by their names.

    Raises:
      UserError: inputs are missing, or a finished run has another configuration.
      RunStoppedError: a signal arrived; the same command goes on.
    """
    if train is None:
        from mammo_jax.training.run import train_and_evaluate

        train = train_and_evaluate
    runs, folder = request.plan, request.setting.folder
    plan.check_finished(runs)
    gradients.check_curves(request.designs, request.setting)
    has_work = bool(_besides(request, runs)) or any(not run.finished for run in runs)
    with _clocked(folder, runs, has_work=has_work):
        _prepare(request, runs, train)
        print(describe(request), flush=True)
        failures = run_all(runs, train)
        with phantoms.alone(folder, "results"):
            found = outcomes.by_row(runs)
            if ENSEMBLE in request.tables:
                ensembles.score_flips(found, request.setting)
            if "4" in request.tables:
                untransferred.score_models(found, request.setting)
            if request.designs:
                gradients.measure_all(request.designs, request.setting)
            parts = [*_tables(request, found), *_draw(request, found)]
            boards.write_boards(found, request.setting)
    return "\n\n".join(parts), failures


@contextlib.contextmanager
def _clocked(
    folder: Path, runs: Sequence[PlannedRun], *, has_work: bool
) -> Iterator[None]:
    """Adds this call's time to that of the earlier ones.

    A call without work does not move the last end: tables may be printed much later.
    """
    start, began = time.perf_counter(), datetime.now(UTC)
    try:
        yield
    finally:
        if folder.exists() and runs:
            with phantoms.alone(folder, "time"):
                span = _widened(folder, began if has_work else None)
                seconds = read_seconds(folder) + time.perf_counter() - start
                values = {"seconds": round(seconds, 1), **span}
                workdirs.write_json(folder / TIME_FILE, values)


def _widened(folder: Path, began: datetime | None) -> dict[str, str]:
    """First start and last end with this call's, which began then and ends now."""
    span = read_span(folder)
    if span is None:
        if began is None or (folder / TIME_FILE).exists():
            return {}  # When the earlier calls began is not known.
        span = began, began
    first, last = span
    if began is not None:
        first, last = min(first, began), max(last, datetime.now(UTC))
    return {FIRST_START: first.isoformat(), LAST_END: last.isoformat()}


def _is_complete(request: Request, runs: Sequence[PlannedRun]) -> bool:
    """Whether no training is left, so that its data need not be there."""
    return all(run.finished for run in runs) and not request.designs


def _prepare(request: Request, runs: Sequence[PlannedRun], train: Train) -> None:
    setting, read = request.setting, [*runs, *request.designs]
    if setting.scale is None:
        plan.check_inputs(read)
        return
    if _is_complete(request, runs):
        return
    phantoms.prepare(
        setting.folder,
        setting.scale,
        plan.datasets(read),
        plan.pretrained_trunks(runs),
        train,
    )
    plan.check_inputs(read)


def _tables(request: Request, found: Mapping[str, Sequence[PlannedRun]]) -> list[str]:
    setting, texts = request.setting, []
    absent = tables.NOT_RUN["phantom"]
    named = [name for name in request.chosen if name in found]
    shown = {
        name: [row for row in request.rows.values() if row.table == name]
        for name in request.tables
        if name != ENSEMBLE
    }
    if not request.tables and not request.figures:
        shown = {"rows": [request.rows[name] for name in named]}
    cells = {
        name: tables.row_table(rows, found, absent) for name, rows in shown.items()
    }
    labels = {name: row.label for name, row in request.rows.items()}
    if "4" in request.tables:
        before = tables.untransferred_table(found, labels, setting, absent)
        cells["untransferred"] = before
    if ENSEMBLE in request.tables:
        cells[ENSEMBLE] = tables.ensemble_table(found, labels, setting, absent)
    for name, table in cells.items():
        stem = setting.folder / f"table_{name}"
        _write(stem.with_suffix(".csv"), tables.as_csv(table))
        _write(stem.with_suffix(".md"), tables.as_markdown(table) + "\n")
        title = tables.TITLES.get(name, "The rows asked for")
        texts.append(f"{title}\n{tables.as_text(table)}")
    return texts


def _draw(request: Request, found: Mapping[str, Sequence[PlannedRun]]) -> list[str]:
    folder = request.setting.folder
    drawn = []
    if "2" in request.figures:
        drawn.append(figures.draw_figure_2(found, folder / "figure_2.png"))
    if "appendix" in request.figures:
        path = folder / "appendix.png"
        drawn.append(figures.draw_appendix(request.setting, path))
    return [f"written to {path}" for path in drawn if path is not None]


def write_results(request: Request, path: Path) -> None:
    """Writes the whole account of what is finished below `--out` as Markdown.

    Raises:
      UserError: a finished run of the request's preset has another configuration.
    """
    with phantoms.alone(request.setting.folder, "results"):
        _write(path, _account(request, path))


def _account(request: Request, path: Path) -> str:
    parts = {}
    for preset, scale in presets.SCALES.items():
        setting = dataclasses.replace(
            request.setting,
            preset=preset,
            scale=request.setting.scale if preset == request.setting.preset else scale,
        )
        there = {name: _seeds_there(setting.folder / name) for name in request.rows}
        runs = plan.plan_runs(there, request.rows, setting)
        parts[preset] = (runs, setting)
    # Where the other preset's data are is not known here.
    plan.check_finished(parts[request.setting.preset][0])
    found = outcomes.by_row(parts["phantom"][0])
    pictures = path.parent / "docs"
    drawn = {
        _FIGURE_2_CAPTION: figures.draw_figure_2(
            found, pictures / "results_figure_2.png"
        ),
        "Appendix 1: gradient at the last trunk layer": figures.draw_appendix(
            parts["phantom"][1], pictures / "results_appendix.png"
        ),
    }
    shown = {
        title: file.relative_to(path.parent).as_posix()
        for title, file in drawn.items()
        if file is not None
    }
    return results_text(request.rows, parts["phantom"], parts["paper"], shown)


def _seeds_there(folder: Path) -> int:
    """One more than the highest seed that a row has a directory of."""
    seeds = [path.name.removeprefix("seed") for path in folder.glob("seed*")]
    return max((int(seed) + 1 for seed in seeds if seed.isdecimal()), default=0)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replace_file(path) as partial:
        partial.write_text(text, encoding="utf-8")
