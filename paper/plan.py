"""What will be run: which rows, from which, in which order, for how many steps."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from mammo_jax.common import run_directory as workdirs
from mammo_jax.common.errors import UserError
from mammo_jax.datasets.pipeline import newest_version, open_dataset
from mammo_jax.training.stages import read_stages
from paper import presets
from paper.rows import Row, row_config

_SHOWN = 5


@dataclasses.dataclass(frozen=True)
class Setting:
    """Where and at which scale the rows are run.

    Attributes:
      preset: name in `presets.SCALES`.
      out: of all results.
      data_dir: of the packaged data sets; read by the preset `paper` only.
      scale: differs from the preset's own in tests only.
    """

    preset: str
    out: Path
    data_dir: str = "data"
    scale: presets.Scale | None = None

    @property
    def folder(self) -> Path:
        """Of the preset's results."""
        return self.out / self.preset


@dataclasses.dataclass(frozen=True)
class PlannedRun:
    """A row with a seed.

    Attributes:
      row: what is trained.
      seed: of the run.
      directory: of the run.
      config: of the run.
    """

    row: Row
    seed: int
    directory: Path
    config: ConfigDict

    @property
    def finished(self) -> bool:
        """Whether it need not be run again; see also `check_finished`."""
        return (self.directory / workdirs.METRICS_FILE).exists()

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.row.name} (seed {self.seed})"


def choose_rows(
    rows: Mapping[str, Row], tables: Sequence[str], names: Sequence[str]
) -> list[Row]:
    """The rows of the tables, and those named.

    Raises:
      UserError: a name is no row's.
    """
    unknown = [name for name in names if name not in rows]
    if unknown:
        raise UserError(
            f"--rows: there is no row {', '.join(unknown)}; choose from "
            f"{', '.join(rows)}"
        )
    return [row for row in rows.values() if row.table in tables or row.name in names]


def plan_runs(
    seeds: Mapping[str, int], rows: Mapping[str, Row], setting: Setting
) -> list[PlannedRun]:
    """The runs of the chosen rows and of those that they start from.

    A row that others start from stands before them, once for each seed that any of
    them has.

    Args:
      seeds: of every chosen row.
      rows: all of them.
      setting: where and at which scale.
    """
    needed = dict.fromkeys(rows, 0)
    for name, count in seeds.items():
        while name:
            needed[name] = max(needed[name], count)
            name = rows[name].start
    return [
        _planned(row, rows, seed, setting)
        for row in rows.values()
        for seed in range(needed[row.name])
    ]


def run_directory(row: str, seed: int, setting: Setting) -> Path:
    """Of a row's run."""
    return setting.folder / row / f"seed{seed}"


def _planned(
    row: Row, rows: Mapping[str, Row], seed: int, setting: Setting
) -> PlannedRun:
    config = row_config(row, rows)
    config.seed = seed
    if row.start:
        # The start is a run of its own, which other rows share.
        if "patch" in config:
            del config["patch"]
        config.init_from = str(run_directory(row.start, seed, setting))
    if setting.scale is None:
        config.data.data_dir = setting.data_dir
    else:
        presets.apply_scale(config, row, setting.scale, setting.folder)
    return PlannedRun(row, seed, run_directory(row.name, seed, setting), config)


def datasets(plan: Sequence[PlannedRun]) -> list[str]:
    """Names of the data sets that the runs read."""
    return sorted({run.config.data.dataset for run in plan})


def pretrained_trunks(plan: Sequence[PlannedRun]) -> list[str]:
    """Trunks whose ported weights the runs start from."""
    return sorted({run.row.trunk for run in plan if run.row.pretrained})


def check_inputs(plan: Sequence[PlannedRun]) -> None:
    """Refuses a plan whose data sets or weights are not there.

    Raises:
      UserError: names all that are missing, and how to get them.
    """
    missing = []
    for name in datasets(plan):
        try:
            newest_version(name, _data_dir_of(plan, name))
        except UserError as error:
            missing.append(str(error))
    weights = {
        run.config.pretrained: run.row.trunk
        for run in plan
        if run.config.get("pretrained")
    }
    for file, trunk in sorted(weights.items()):
        if not Path(file).expanduser().is_file():
            missing.append(
                f"there is no weight file {file}; get it with python "
                f"scripts/convert_weights.py --download={trunk} --out={file}"
            )
    if missing:
        raise UserError(
            f"{len(missing)} inputs are missing, nothing was run:\n  "
            + "\n  ".join(missing)
        )


def check_finished(plan: Sequence[PlannedRun]) -> None:
    """Refuses finished runs of other configurations than the plan's.

    Raises:
      UserError: names the first of them, or one whose configuration is not there.
    """
    for run in plan:
        if run.finished:
            there = workdirs.read_json(run.directory / workdirs.CONFIG_FILE)
            wanted = workdirs.as_json(run.config)
            folder = run.directory.parents[1]
            check_same(moved(there, wanted, folder), wanted, run.directory)


def moved(
    there: Mapping[str, Any], wanted: Mapping[str, Any], folder: Path
) -> dict[str, Any]:
    """A recorded configuration as it reads after its preset's folder was moved.

    What lies below the folder is the same wherever the folder is, so results may be
    moved and those of several machines merged; all other paths stay as they are.

    Args:
      there: as recorded, as JSON has it.
      wanted: of the plan, likewise.
      folder: the preset's, as the plan has it.
    """
    result = {**there, "data": dict(there.get("data", {}))}
    for ours, theirs, field in (
        (wanted["data"], result["data"], "data_dir"),
        (wanted, result, "init_from"),
        (wanted, result, "pretrained"),
    ):
        here, old = ours.get(field), theirs.get(field)
        if not (here and old and Path(here).is_relative_to(folder)):
            continue
        # With the folder's own name, or every other folder `data` would do.
        inside = (folder.name, *Path(here).relative_to(folder).parts)
        if Path(old).parts[-len(inside) :] == inside:
            theirs[field] = here
    return result


def check_same(there: Mapping[str, Any], wanted: Mapping[str, Any], path: Path) -> None:
    """Refuses what was made with another configuration, both as JSON has them.

    Raises:
      UserError: names `path` and the fields that differ.
    """
    different = [
        name
        for name in sorted({*there, *wanted})
        if there.get(name) != wanted.get(name)
    ]
    if different:
        raise UserError(
            f"{path} holds a run with another configuration "
            f"({', '.join(different[:_SHOWN])}); use another --out"
        )


def _data_dir_of(plan: Sequence[PlannedRun], dataset: str) -> str:
    return next(
        run.config.data.data_dir for run in plan if run.config.data.dataset == dataset
    )


def number_of_steps(run: PlannedRun, examples: int) -> int:
    """Optimiser steps of a run that is never stopped early; 0 of a forest."""
    if run.row.kind == "forest":
        return 0
    config = run.config
    epochs = sum(stage.epochs for stage in read_stages(config.stages))
    return epochs * (config.steps_per_epoch or examples // config.batch_size)


def count_examples(plan: Sequence[PlannedRun]) -> dict[str, int]:
    """Training examples of each data set that is there."""
    counts = {}
    for name in datasets(plan):
        opened = open_dataset(name, _data_dir_of(plan, name))
        counts[name] = len(opened.sources["train"])
    return counts


@dataclasses.dataclass(frozen=True)
class Besides:
    """Work that is left besides the plan's runs.

    Attributes:
      what: in words, with how many there are.
      runs: those whose steps it repeats.
      steps: of the optimiser, besides those of `runs`.
    """

    what: str
    runs: tuple[PlannedRun, ...] = ()
    steps: int = 0


def _known_steps(run: PlannedRun, examples: Mapping[str, int]) -> int | None:
    name = run.config.data.dataset
    if name not in examples and not run.config.steps_per_epoch:
        return None
    return number_of_steps(run, examples.get(name, 0))


def describe_plan(
    plan: Sequence[PlannedRun],
    examples: Mapping[str, int],
    seconds: Callable[[PlannedRun], float] | None = None,
    besides: Sequence[Besides] = (),
) -> str:
    """The plan as a table, with the hours that are left where a step was timed.

    Args:
      plan: the runs.
      examples: see `count_examples`; a data set that is missing has steps only where
        the configuration says how many an epoch has.
      seconds: of a run's optimiser step.
      besides: what else is left to do; a line for each.
    """
    lines = [f"{'row':<52}{'seed':>4}  {'starts from':<32}{'steps':>8}  state"]
    for run in plan:
        steps = _known_steps(run, examples)
        lines.append(
            f"{run.row.name:<52}{run.seed:>4}  {run.row.start or '-':<32}"
            f"{'?' if steps is None else steps:>8}  "
            f"{'finished' if run.finished else 'to run'}"
        )
    left = tuple(run for run in plan if not run.finished)
    work = [Besides(f"{len(plan)} runs, {len(left)} to run", left), *besides]
    hours = 0.0
    for part in work:
        counted = [(run, _known_steps(run, examples)) for run in part.runs]
        known = [(run, steps) for run, steps in counted if steps is not None]
        least = "at least " if len(known) < len(counted) else ""
        total = part.steps + sum(steps for _, steps in known)
        steps_left = f", {least}{total} optimiser steps" if counted or total else ""
        lines.append(f"{part.what}{steps_left}")
        if seconds:
            hours += sum(steps * seconds(run) for run, steps in known) / 3600
    if seconds:
        lines.append(
            f"about {hours:.1f} hours of steps on this machine: every step counted "
            "as one that trains all layers, none saved by early stopping"
        )
    return "\n".join(lines)
