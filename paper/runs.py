"""The runs of the rows: which there are, from which they start, and running them."""

import dataclasses
import functools
import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

import mammo_jax
from mammo_jax.common import run_directory
from mammo_jax.common.errors import UserError
from mammo_jax.datasets.pipeline import newest_version
from mammo_jax.training.stages import read_stages
from paper import scales
from paper.rows import Row, row_config

_log = logging.getLogger(__name__)

Train = Callable[[ConfigDict, Path], Any]
Gate = Callable[[str], str]
# The errors of one run: wrong data, a full disk, no memory left.
_FAILURES = (UserError, OSError, RuntimeError, MemoryError)
# Of these paths the last two parts count, so that a folder of results may be moved.
_PATHS = ("init_from", "pretrained")
_SHOWN = 5


@dataclasses.dataclass(frozen=True)
class Setting:
    """The place and the preset with which the rows are run.

    `paper` reads `data_dir`; `phantom` has data of its own.
    """

    preset: str
    out: Path
    data_dir: str = "data"

    @property
    def is_small(self) -> bool:
        """True at the scale of `paper.scales`, not the paper's."""
        return self.preset == "phantom"

    @property
    def folder(self) -> Path:
        """The directory of the preset's results."""
        return self.out / self.preset


@dataclasses.dataclass(frozen=True)
class PlannedRun:
    """A row with a seed: the directory and the configuration of its run."""

    row: Row
    seed: int
    directory: Path
    config: ConfigDict

    @property
    def finished(self) -> bool:
        """True if it need not be run again; see also `check_finished`."""
        return (self.directory / run_directory.METRICS_FILE).exists()

    @property
    def derived(self) -> Path:
        """The folder of what was measured of the finished run since."""
        return self.directory / "derived"

    @property
    def name(self) -> str:
        """The run's name in messages."""
        return f"{self.row.name} (seed {self.seed})"

    @property
    def figures(self) -> dict[str, Any]:
        """The content of the finished run's `metrics.json`."""
        path = self.directory / run_directory.METRICS_FILE
        found = run_directory.read_json(path)
        if not isinstance(found.get("test"), dict):
            raise UserError(
                f"{path} is damaged, it holds no test figures; remove its folder and "
                "run the row again"
            )
        return found

    @property
    def seconds(self) -> float:
        """The time that all calls of the run took together; 0 where it is not known."""
        return float(self._record.get("seconds", 0.0))

    @property
    def version(self) -> str:
        """The version of this program that ran it."""
        return str(self._record.get("version", "an earlier one"))

    @property
    def _record(self) -> dict[str, Any]:
        path = _record_file(self.directory)
        return run_directory.read_json(path) if path.exists() else {}


# The finished runs of every row, in the order of their seeds.
Found = Mapping[str, Sequence[PlannedRun]]


def plan_runs(
    seeds: Mapping[str, int], rows: Mapping[str, Row], setting: Setting
) -> list[PlannedRun]:
    """Plans the chosen rows, by their numbers of seeds, and those they start from.

    A row that others start from stands before them, for each seed that any of them has.
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


def _planned(
    row: Row, rows: Mapping[str, Row], seed: int, setting: Setting
) -> PlannedRun:
    config = row_config(row, rows)
    config.seed = seed
    if row.start:
        # The start is a run of its own, which other rows share.
        if "patch" in config:
            del config["patch"]
        config.init_from = str(_directory(row.start, seed, setting))
    if setting.is_small:
        scales.apply_scale(config, row, setting.folder, seed)
    else:
        config.data.data_dir = setting.data_dir
    return PlannedRun(row, seed, _directory(row.name, seed, setting), config)


def _directory(row: str, seed: int, setting: Setting) -> Path:
    return setting.folder / row / f"seed{seed}"


def finished_runs(plan: Sequence[PlannedRun]) -> dict[str, list[PlannedRun]]:
    """Groups the finished runs by their rows, see `Found`."""
    found: dict[str, list[PlannedRun]] = {}
    for run in plan:
        if run.finished:
            found.setdefault(run.row.name, []).append(run)
    return found


def check_inputs(plan: Sequence[PlannedRun]) -> None:
    """Refuses a plan whose data sets or weights are not there.

    Raises:
      UserError: names all that are missing, and how to get them.
    """
    missing = []
    datasets = {(run.config.data.dataset, run.config.data.data_dir) for run in plan}
    for name, data_dir in sorted(datasets):
        try:
            newest_version(name, data_dir)
        except UserError as error:
            missing.append(str(error))
    weights = {(run.config.get("pretrained"), run.row.trunk) for run in plan}
    missing += [
        f"there is no weight file {file}; get it with mammo-jax convert-weights "
        f"--download={trunk} --out={file}"
        for file, trunk in sorted(pair for pair in weights if pair[0])
        if not Path(file).expanduser().is_file()
    ]
    if missing:
        listed = "\n  ".join(missing)
        raise UserError(
            f"{len(missing)} inputs are missing, nothing was run:\n  {listed}"
        )


def check_finished(plan: Sequence[PlannedRun]) -> None:
    """Refuses finished runs of other configurations, and of mixed versions.

    Raises:
      UserError: names the first of them, or one whose configuration is not there.
    """
    versions: dict[str, PlannedRun] = {}
    for run in plan:
        if run.finished:
            there = run_directory.read_json(run.directory / run_directory.CONFIG_FILE)
            check_same(there, run.config, run.directory)
        if run.finished or _record_file(run.directory).exists():
            versions.setdefault(run.version, run)
        else:
            versions.setdefault(mammo_jax.__version__, run)
    if len(versions) > 1:
        listed = ", ".join(f"{v} ({run.name})" for v, run in versions.items())
        raise UserError(
            "results of different versions of this program are not to be mixed: "
            f"{listed}; use another --out, or the version that began"
        )


def check_same(there: Mapping[str, Any], config: ConfigDict, path: Path) -> None:
    """Refuses what was made with another configuration than wanted, but for folders.

    Raises:
      UserError: names `path`, what was made, and the fields that differ.
    """
    wanted = _without_folders(run_directory.as_json(config))
    different = list(run_directory.differences(_without_folders(there), wanted))
    if different:
        raise UserError(
            f"{path} holds a run with another configuration: "
            f"{'; '.join(different[:_SHOWN])}; use another --out"
        )


def _without_folders(values: Mapping[str, Any]) -> dict[str, Any]:
    last = {name: Path(str(values.get(name) or "")).parts[-2:] for name in _PATHS}
    data = values.get("data")
    if isinstance(data, Mapping):  # A damaged file may hold anything.
        data = {**data, "data_dir": ""}
    return {
        **values,
        **{name: "/".join(parts) for name, parts in last.items()},
        "data": data,
    }


def describe_plan(plan: Sequence[PlannedRun]) -> str:
    """Lists the runs with their optimiser steps, where the configuration says them."""
    lines = [f"{'row':<52}{'seed':>4}  {'starts from':<32}{'steps':>8}  state"]
    for run in plan:
        steps = "-"
        if run.row.kind != "forest":
            epochs = sum(stage.epochs for stage in read_stages(run.config.stages))
            steps = str(epochs * run.config.steps_per_epoch or f"{epochs} ep.")
        lines.append(
            f"{run.row.name:<52}{run.seed:>4}  {run.row.start or '-':<32}{steps:>8}  "
            f"{'finished' if run.finished else 'to run'}"
        )
    left = sum(not run.finished for run in plan)
    return "\n".join([*lines, f"{len(plan)} runs, {left} to run"])


def run_all(
    plan: Sequence[PlannedRun], train: Train, gate: Gate = lambda row: ""
) -> dict[str, str]:
    """Runs what is not finished of a plan, in its order.

    A run that fails does not stop the others, but for those that start from it.
    `gate` says why no run may start from a patch row; see `paper.gate.check_gate`.

    Returns:
      Why runs failed, by their names.

    Raises:
      UserError: a finished run has another configuration.
      RunStoppedError: a signal arrived; the same command goes on.
    """
    check_finished(plan)
    failures: dict[str, str] = {}
    failed: set[str] = set()
    patches = {run.row.name for run in plan if run.row.kind == "patch"}
    closed = functools.cache(gate)
    for run in plan:
        if run.finished:
            continue
        start = run.config.get("init_from", "")
        try:
            if start in failed:
                raise UserError(f"{start} has failed, which it starts from")
            if run.row.start in patches and (why := closed(run.row.start)):
                raise UserError(why)
            _log.info("%s", run.name)
            _timed(run, train)
        except _FAILURES as error:
            failures[run.name] = str(error) or type(error).__name__
            failed.add(str(run.directory))
            _log.error("%s: %s", run.name, failures[run.name])
    return failures


def _timed(run: PlannedRun, train: Train) -> None:
    before, start = run.seconds, time.perf_counter()
    # One that is trained anew is measured anew.
    shutil.rmtree(run.derived, ignore_errors=True)
    try:
        train(run.config, run.directory)
    finally:
        # Otherwise a hundred runs' compiled steps would stay in memory.
        jax.clear_caches()
        seconds = round(before + time.perf_counter() - start, 1)
        path = _record_file(run.directory)
        path.parent.mkdir(parents=True, exist_ok=True)
        record = {"seconds": seconds, "version": mammo_jax.__version__}
        run_directory.write_json(path, record)


def _record_file(directory: Path) -> Path:
    return directory.with_suffix(".json")
