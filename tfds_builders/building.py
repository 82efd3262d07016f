"""Packaging a data set: raw files in, a TFDS data set out."""

import contextlib
import dataclasses
import difflib
import fcntl
import importlib
import logging
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mammo_jax.common.errors import UserError
from mammo_jax.datasets.packaging import describe_age
from tfds_builders.beam_runs import make_beam_options

_LOGGER = logging.getLogger(__name__)
# The builder's module by name, imported when it is needed: TFDS takes a second.
_BUILDERS = {
    name: f"tfds_builders.{name}.{name}_dataset_builder"
    for name in ("cbis_ddsm", "inbreast", "manifest")
}


@dataclasses.dataclass(frozen=True)
class BuildReport:
    """Outcome of a build.

    Attributes:
      path: folder of the data set, for `tfds.builder_from_directory`.
      was_there: True if it had been built before and was left alone.
      splits: number of examples of each split.
      metadata: pixel_mean, repairs and so on.
      problems: number of files skipped, listed in `path/problems.csv`.
    """

    path: Path
    was_there: bool
    splits: dict[str, int]
    metadata: dict[str, Any]
    problems: int


def build(
    name: str,
    manual_dir: str | Path,
    data_dir: str | Path,
    num_workers: int | None = None,
    beam_options: Sequence[str] | None = None,
) -> BuildReport:
    """Builds the data set `name` ("cbis_ddsm/paper_s10"), or finds it built.

    An interrupted build goes on where it was; the result is the same for any number of
    workers. Call it under `if __name__ == "__main__"`: workers import it.

    Args:
      name: data set and config.
      manual_dir: the raw files.
      data_dir: TFDS's folder of data sets.
      num_workers: processes, None for one each core.
      beam_options: run on Apache Beam instead (`beam_runs`), with these options.

    Raises:
      UserError: an unknown name, missing or malformed tables, no usable image, a
        folder that cannot be written, another build of the same data set running, or
        no Apache Beam.
    """
    module, config = _find_builder(name)
    # Shells leave a tilde behind `--data_dir=` as it is.
    manual_dir, data_dir = (Path(p).expanduser() for p in (manual_dir, data_dir))
    builder = module.Builder(
        config=config,
        data_dir=str(data_dir),
        num_workers=num_workers,
        beam_options=beam_options,
    )
    # TFDS writes beside and renames: a folder with this file is whole.
    if Path(builder.data_dir, "dataset_info.json").exists():
        return _report(builder, was_there=True)
    if not manual_dir.is_dir() or not any(manual_dir.iterdir()):
        raise UserError(
            f"{manual_dir}: no such folder, or empty; --manual_dir names the folder"
            " with the raw files"
        )
    pipeline_options = None if beam_options is None else make_beam_options(beam_options)
    with _only_build(builder.work_dir.parent):
        _prepare(builder, manual_dir, pipeline_options)
    return _report(builder, was_there=False)


def take_inventory(name: str, manual_dir: str | Path) -> dict[str, Any]:
    """Counts what `build` would use; JSON can hold it, and nothing is written.

    Raises:
      UserError: an unknown name, missing or malformed tables.
    """
    module, config = _find_builder(name)
    found = module.Builder.builder_configs[config]
    inventory: dict[str, Any] = module.Builder.planner.take_inventory(
        Path(manual_dir).expanduser(), seed=found.split_seed, **found.options
    )
    return inventory


def _find_builder(name: str) -> tuple[Any, str]:
    data_set, _, config = name.partition("/")
    if data_set not in _BUILDERS:
        raise UserError(
            f"unknown data set {data_set!r}{_nearest(data_set, list(_BUILDERS))}"
        )
    module = importlib.import_module(_BUILDERS[data_set])
    configs = list(module.Builder.builder_configs)
    if config not in configs:
        raise UserError(
            f"{data_set} has no config {config!r}{_nearest(config, configs)}"
        )
    return module, config


def _nearest(word: str, words: list[str]) -> str:
    near = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else f"; one of {', '.join(words)}"


def _prepare(builder: Any, manual_dir: Path, pipeline_options: Any) -> None:
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()  # ours shows the time left
    try:
        with contextlib.redirect_stdout(None):  # it speaks of a download
            builder.download_and_prepare(
                download_config=tfds.download.DownloadConfig(
                    manual_dir=str(manual_dir.absolute()),
                    beam_options=pipeline_options,
                )
            )
    except OSError as error:
        raise UserError(
            f"{builder.data_dir}: cannot be written ({error.strerror or error}); free"
            " space or choose another --data_dir"
        ) from error


def _report(builder: Any, *, was_there: bool) -> BuildReport:
    metadata = dict(builder.info.metadata or {})
    if remark := describe_age(builder.name, metadata):
        _LOGGER.warning("%s: %s", builder.data_dir, remark)
    return BuildReport(
        path=Path(builder.data_dir),
        was_there=was_there,
        splits={
            name: split.num_examples for name, split in builder.info.splits.items()
        },
        metadata=metadata,
        problems=metadata.get("problems", 0),
    )


@contextlib.contextmanager
def _only_build(folder: Path) -> Iterator[None]:
    """Holds the folder's lock; it goes with the process, however that ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "build.lock").open("w")
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written ({error.strerror}); choose another --data_dir"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{folder}: another process is building this data set; wait for it"
            ) from None
        for stale in folder.glob("incomplete.*"):  # of builds that were killed
            shutil.rmtree(stale, ignore_errors=True)
        yield
