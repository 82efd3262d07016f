"""Packaging: every view of every split into finished examples on the disk.

Resumable, parallel, and the same whatever the number of workers.
"""

import collections
import dataclasses
import functools
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mammo_jax.common.errors import UserError
from mammo_jax.common.progress import progress
from mammo_jax.datasets.records import read_header, write_examples
from mammo_jax.datasets.views import Packing, Problems, View, ViewResult

_LOGGER = logging.getLogger(__name__)
# Version of what the examples are made of: raise it when they change. It is part of
# every finished file's name and kept in the packaged data set; from 4 on, padding and
# falling grey scales are read, and what is no whole mammogram for presentation is left
# out.
EXAMPLES_VERSION = 4

PROBLEM_COLUMNS = ("image_id", "file", "reason")

# Reads a view and makes its examples; a function of a module, for the workers.
Maker = Callable[[Any, Packing], ViewResult]
# Runs a function over views, in processes or elsewhere, and yields its results in their
# order. Another function, `on_death`, stands in for a view that kills its worker.
Mapper = Callable[..., Iterator[Path]]


@dataclasses.dataclass(frozen=True)
class Finished:
    """Outcome of `process_views`.

    Attributes:
      paths: split to the files of its examples (`records.read_example`).
      pixel_mean: mean of the whole gridded training images, 0..255.
      pixel_mean_of: "train", or "all" where there are no training images.
      repairs: number of things put right, by name.
      problems: (image id, file or folder, reason) of all that was skipped.
    """

    paths: dict[str, list[Path]]
    pixel_mean: float
    pixel_mean_of: str
    repairs: dict[str, int]
    problems: Problems


def process_views(
    splits: Mapping[str, Sequence[View]],
    make: Maker,
    packing: Packing,
    work_dir: Path,
    run: Mapper,
) -> Finished:
    """Makes the examples of all views, each in a file of its own in `work_dir`.

    A file that an earlier, interrupted call left there for the same image files
    and the same packing is used as it is, unless it tells of problems. An image that
    was there before, under another name, is skipped.

    Raises:
      UserError: not a single example came out, or `work_dir` cannot be written.
    """
    tasks = [(split, view) for split, views in splits.items() for view in views]
    process = functools.partial(
        _process_view, make=make, packing=packing, work_dir=work_dir
    )
    try:
        work_dir.mkdir(parents=True, exist_ok=True)
        paths = run(
            process,
            [view for _, view in tasks],
            on_death=functools.partial(_record_death, work_dir=work_dir),
        )
        done = list(progress(paths, "images", total=len(tasks), unit="image"))
    except OSError as error:
        raise UserError(f"{work_dir}: cannot be written ({error.strerror})") from error
    return _sum_up([split for split, _ in tasks], done)


def _process_view(view: View, *, make: Maker, packing: Packing, work_dir: Path) -> Path:
    """Runs in the workers; the examples stay on the disk, only the path goes back."""
    path = work_dir / f"{view.image_id}-{_fingerprint(view, packing)}.examples"
    if not path.exists():
        try:
            result = make(view, packing)
        except Exception as error:  # codecs fail in too many ways to list
            reason = f"cannot be read ({type(error).__name__}); export it again"
            result = ViewResult(problems=[(view.image, f"{view.image}: {reason}")])
        if result.problems:
            path = _unkept(view, work_dir)
        _write_result(path, view, result)
    return path


def _unkept(view: View, work_dir: Path) -> Path:
    """Names the file of what a later build tries again; memory may suffice by then."""
    return work_dir / f"{view.image_id}.again"


def _record_death(view: View, *, work_dir: Path) -> Path:
    """Stands in for a view that kills its worker."""
    path = _unkept(view, work_dir)
    reason = "reading it crashed or took too much memory or time; download it again"
    _write_result(path, view, ViewResult(problems=[(view.image, reason)]))
    return path


def _write_result(path: Path, view: View, result: ViewResult) -> None:
    summary = {name: v for name, v in vars(result).items() if name != "examples"}
    summary |= {"image_id": view.image_id, "source": view.image}
    write_examples(path, summary, result.examples)


def _fingerprint(view: View, packing: Packing) -> str:
    """Digests everything that the examples depend on."""
    sources: list[list[str | int]] = []
    for path in view.sources:
        try:
            stat = os.stat(path)
        except OSError:  # reading it will say what is wrong
            sources.append([path])
        else:
            sources.append([path, stat.st_size, stat.st_mtime_ns])
    facts = [EXAMPLES_VERSION, packing.to_json(), repr(view), sources]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _sum_up(split_of: Sequence[str], done: Sequence[Path]) -> Finished:
    paths: dict[str, list[Path]] = {}
    repairs: collections.Counter[str] = collections.Counter()
    problems: Problems = []
    means: dict[str, list[float]] = {}
    first_with: dict[str, str] = {}
    for split, path in zip(split_of, done, strict=True):
        header = read_header(path)
        summary = header["summary"]
        image_id, digest = summary["image_id"], summary["digest"]
        if digest and first_with.setdefault(digest, image_id) != image_id:
            # Under two names it could train and test, or have two labels.
            reason = f"the same image as {first_with[digest]}; remove one of them"
            problems.append((image_id, summary["source"], reason))
            continue
        repairs.update(summary["repairs"])
        problems += [
            (image_id, source, reason) for source, reason in summary["problems"]
        ]
        if summary["mean"] is not None:
            means.setdefault(split, []).append(summary["mean"])
        if header["lengths"]:
            paths.setdefault(split, []).append(path)
    if not paths:
        first = f", for example {problems[0][2]}" if problems else ""
        raise UserError(
            f"none of the {len(done)} mammograms could be used{first}; mend the files"
            " and start again"
        )
    chosen = means.get("train") or [mean for found in means.values() for mean in found]
    for name, count in sorted(repairs.items()):
        _LOGGER.info("%s: %d", name.replace("_", " "), count)
    return Finished(
        paths,
        sum(chosen) / len(chosen),
        "train" if "train" in means else "all",
        dict(sorted(repairs.items())),
        problems,
    )


def describe_age(name: str, metadata: Mapping[str, Any]) -> str:
    """Returns what an older version may have packaged wrongly; else nothing.

    Films, of CBIS-DDSM, have neither padding nor slopes, but nothing stretches them.
    """
    if metadata.get("examples_version", 0) >= EXAMPLES_VERSION:
        return ""
    faults = (
        "read padding as tissue, taken a negative RescaleSlope for a rising one, and"
        " kept raw and magnified images"
    )
    if name.startswith("cbis_ddsm"):
        faults = "left images of fewer than 16 bits too dark"
    return (
        f"built by an older version, which may have {faults}; unless its files are"
        " free of these, remove the folder and build it again"
    )
