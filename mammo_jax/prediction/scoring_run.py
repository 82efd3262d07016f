"""Run of `predict`: files in, tables, overlays and a page out."""

import contextlib
import dataclasses
import hashlib
import heapq
import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import tqdm

from mammo_jax.common.errors import RunStoppedError, UserError
from mammo_jax.common.progress import progress
from mammo_jax.common.run_directory import read_json, write_json
from mammo_jax.common.signals import StopRequest
from mammo_jax.images import overlays
from mammo_jax.prediction.dicom_output import write_dicom
from mammo_jax.prediction.identity import CaseBook
from mammo_jax.prediction.reading import Input, Problem
from mammo_jax.prediction.score_tables import (
    PREDICTION_TABLES,
    TABLES,
    ImageScore,
    is_as_written,
    write_tables,
)
from mammo_jax.prediction.scorer import Result, Scorer

MADE_BY = "mammo_jax.predict"
SETTINGS_FILE = "prediction.json"
# A page with more would be slow to open.
MAX_PICTURES = 300
REPORT_FILE = "report.html"
OVERLAYS_DIR, DICOM_DIR = "overlays", "dicom"
# An earlier prediction may have left these files in these folders; others stay.
_OWN = {OVERLAYS_DIR: "case_*.png", DICOM_DIR: "case_*.dcm"}


@dataclasses.dataclass(frozen=True)
class Options:
    """Settings of what a prediction writes.

    Attributes:
      out: the directory.
      about: which models score, and how, in a sentence.
      calibrated: the scores are.
      dicom: also write DICOM objects.
      full_size: overlays have the original's rows and columns.
      keep_identifiers: patients keep their PatientID.
    """

    out: Path
    about: str
    calibrated: bool
    dicom: bool
    full_size: bool
    keep_identifiers: bool


def prepare_output(out: Path, inputs: Mapping[str, Sequence[str]]) -> None:
    """Makes the directory, or clears it of an earlier prediction of the same inputs.

    Args:
      out: the directory.
      inputs: what is scored: absolute paths of the models and of the arguments.

    Raises:
      UserError: it holds something else, another prediction or tables that were filled
        in since, or cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        settings = out / SETTINGS_FILE
        # A digest, since paths may name patients.
        digest = hashlib.sha256(json.dumps(inputs).encode()).hexdigest()
        there = {"made_by": MADE_BY, "inputs": digest}
        if any(out.iterdir()):
            made = read_json(settings) if settings.is_file() else {}
            if made.get("made_by") != MADE_BY:
                raise UserError(
                    f"{out} is not empty and holds no prediction; choose another with "
                    "--out=DIR"
                )
            if made != there:
                raise UserError(
                    f"{out} holds the prediction of other models or files; choose "
                    "another with --out=DIR, or remove it"
                )
        _clear(out)
        write_json(settings, there)
        (out / OVERLAYS_DIR).mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{out} cannot be written: {error.strerror}; choose another with --out=DIR"
        ) from error


def _clear(out: Path) -> None:
    """Removes what an earlier prediction wrote, and nothing else."""
    for name in PREDICTION_TABLES:
        if not is_as_written(out / name):
            raise UserError(
                f"{out / name} has been filled in or changed since it was written; "
                "move it away, or choose another directory with --out=DIR"
            )
    for folder, pattern in _OWN.items():
        for earlier in (out / folder).glob(pattern):
            earlier.unlink()
        with contextlib.suppress(OSError):  # Somebody's own files keep it.
            (out / folder).rmdir()
    for name in (*TABLES, REPORT_FILE):
        (out / name).unlink(missing_ok=True)


def predict(
    scorer: Scorer, inputs: Iterator[Input | Problem], files: int, options: Options
) -> tuple[list[ImageScore], list[Problem]]:
    """Scores the files and writes everything.

    Args:
      scorer: the models.
      inputs: what was read, or why not.
      files: how many that will be.
      options: what to write.

    Returns:
      What was scored, and what could not be.

    Raises:
      UserError: no file could be scored.
      RunStoppedError: a signal arrived; what had been scored is written.
    """
    run = _Run(options, files)
    about, stopped = options.about, None
    with StopRequest() as stop, stop.deferred():
        try:
            _score(scorer, inputs, run, stop)
        except RunStoppedError as error:
            stopped = error
            about = f"{about} Incomplete: {error}."
        write_tables(options.out, run.rows, run.problems)
        if run.rows:
            # Here, since figures take half a second to import.
            from mammo_jax.prediction.page import write_page

            page = options.out / REPORT_FILE
            write_page(page, about, run.rows, run.thumbnails, run.problems)
    if stopped is not None:
        where = f"{stopped}; their scores are in {options.out}"
        raise RunStoppedError(stop.signal_number or 0, where)
    if not run.rows:
        raise UserError(
            f"none of the {files} files could be scored; see "
            f"{options.out / 'problems.csv'}"
        )
    return run.rows, run.problems


def _score(
    scorer: Scorer, inputs: Iterator[Input | Problem], run: "_Run", stop: StopRequest
) -> None:
    with progress(None, "scoring", total=run.files, unit="image") as bar:
        images = _only_images(inputs, run, bar, stop)
        for batch in _batches(images, scorer.batch_size):
            found = scorer.score(batch)
            for image, scored in zip(batch, found, strict=True):
                run.add(image, scored)
                bar.update()


class _Run:
    """Scores so far; overlays and DICOM objects are written as they come."""

    def __init__(self, options: Options, files: int):
        self.files = files
        self.rows: list[ImageScore] = []
        self.problems: list[Problem] = []
        self._options = options
        self._book = CaseBook(keep_identifiers=options.keep_identifiers)
        self._best: list[tuple[float, int, str, bytes]] = []
        if options.dicom:
            (options.out / DICOM_DIR).mkdir(exist_ok=True)

    @property
    def thumbnails(self) -> dict[str, bytes]:
        """PNG of the highest scores by image id."""
        return {image_id: content for _, _, image_id, content in self._best}

    def is_copy(self, image: Input) -> bool:
        """See `CaseBook.is_copy`."""
        return self._book.is_copy(image)

    def report(self, problem: Problem) -> None:
        """Notes a file that is bad, and says so at once."""
        self.problems.append(problem)
        tqdm.tqdm.write(f"problem: {problem.path}: {problem.reason}", file=sys.stderr)

    def add(self, image: Input, result: Result) -> None:
        """Notes an image's score and writes its overlay."""
        identity = self._book.name(image)
        row = ImageScore(
            identity, image.path, image.laterality, image.view, result.score
        )
        small = overlay = result.overlay()
        if self._options.full_size or (self._options.dicom and image.is_dicom):
            assert image.original is not None
            class_map = overlays.enlarge(result.map, image.size)
            overlay = overlays.draw_overlay(image.original, class_map)
        path = self._options.out / OVERLAYS_DIR / f"{identity.image_id}.png"
        path.write_bytes(overlays.encode(overlay if self._options.full_size else small))
        # The first files stay where scores are equal.
        entry = (result.score, -len(self.rows), identity.image_id)
        kept = (*entry, overlays.encode(overlays.thumbnail(small)))
        if len(self._best) < MAX_PICTURES:
            heapq.heappush(self._best, kept)
        else:
            heapq.heappushpop(self._best, kept)
        self.rows.append(row)
        if self._options.dicom:
            self._write_dicom(image, row, overlay)

    def _write_dicom(self, image: Input, row: ImageScore, overlay: np.ndarray) -> None:
        if not image.is_dicom:
            reason = "scored, but a picture has no DICOM instance to refer to"
            self.report(Problem(image.path, reason, scored=True))
            return
        try:
            write_dicom(
                self._options.out / DICOM_DIR,
                image,
                row.identity,
                overlay,
                row.score,
                calibrated=self._options.calibrated,
                keep_identifiers=self._options.keep_identifiers,
            )
        except UserError as error:
            reason = str(error).removeprefix(f"{image.path}: ")
            self.report(Problem(image.path, f"scored, but: {reason}", scored=True))


def _only_images(
    found: Iterable[Input | Problem], run: _Run, bar: tqdm.tqdm, stop: StopRequest
) -> Iterator[Input]:
    for one in found:
        stop.raise_if_set(f"{len(run.rows)} of {run.files} files were scored")
        if isinstance(one, Input) and run.is_copy(one):
            one = Problem(one.path, "a copy of an image of the same case")
        if isinstance(one, Input):
            yield one
        else:
            run.report(one)
            bar.update()


def _batches(images: Iterator[Input], size: int) -> Iterator[list[Input]]:
    while batch := list(itertools.islice(images, size)):
        yield batch
