"""Run of `predict`: files in, tables, overlays and a page out."""

import contextlib
import csv
import dataclasses
import hashlib
import heapq
import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tqdm

from mammo_jax.common.ahead import one_behind
from mammo_jax.common.errors import RunStoppedError, UserError
from mammo_jax.common.files import remove_leftovers, replace_file
from mammo_jax.common.progress import progress
from mammo_jax.common.run_directory import read_json, write_json
from mammo_jax.common.signals import StopRequest
from mammo_jax.common.tables import GrowingTable, table_bytes
from mammo_jax.datasets.manifest import check_header
from mammo_jax.datasets.views import View
from mammo_jax.evaluation.predictions import COLUMNS
from mammo_jax.images import overlays
from mammo_jax.images.grid import shrink
from mammo_jax.prediction.dicom_output import write_dicom
from mammo_jax.prediction.identity import CaseBook
from mammo_jax.prediction.reading import Input, Problem
from mammo_jax.prediction.score_tables import (
    FILES_COLUMNS,
    FILES_TABLE,
    PREDICTION_TABLES,
    TABLES,
    ImageScore,
    remarks,
    shown_path,
    summary_tables,
)
from mammo_jax.prediction.scorer import Result, Scorer

MADE_BY = "mammo_jax.predict"
SETTINGS_FILE = "prediction.json"
# A page with more would be slow to open.
MAX_PICTURES = 300
_THUMBNAIL_HEIGHT = 240
REPORT_FILE = "report.html"
OVERLAYS_DIR, DICOM_DIR = "overlays", "dicom"


@dataclasses.dataclass(frozen=True)
class Options:
    """Settings of what a prediction writes.

    Attributes:
      out: the directory.
      inputs: models, files and what changes the scores, for telling one prediction
        from another.
      about: which models score, and how, in a sentence.
      fetched: names of those from a hub, with their commits.
      intents: of the images that they were trained on.
      threshold: the one model's, on the scale of these scores; None for none.
      credit: licence and citation of others' models; "" for none.
      planned: images of a manifest, by their files; their labels are written.
      calibrated: the scores are; with `dicom` by one model, with the flips of its
        fitting.
      dicom: also write DICOM objects.
      full_size: overlays have the original's rows and columns.
      keep_identifiers: patients keep their PatientID.
    """

    out: Path
    inputs: Mapping[str, Sequence[str]]
    about: str
    fetched: Sequence[str]
    intents: Sequence[str | None]
    threshold: float | None
    credit: str
    planned: Mapping[Path, View]
    calibrated: bool
    dicom: bool
    full_size: bool
    keep_identifiers: bool

    def settings(self) -> dict[str, Any]:
        """Returns what marks the directory; a digest, since paths may name patients."""
        digest = hashlib.sha256(json.dumps(self.inputs).encode()).hexdigest()
        fetched = {"models": [*self.fetched]} if self.fetched else {}
        return {
            "made_by": MADE_BY,
            "inputs": digest,
            "credit": self.credit,
            **fetched,
        }


def prepare_output(options: Options) -> None:
    """Makes the directory, or clears it of an earlier prediction of the same inputs.

    Raises:
      UserError: it holds something else, another prediction or tables that were filled
        in since, or cannot be written.
    """
    out, there = options.out, options.settings()
    try:
        out.mkdir(parents=True, exist_ok=True)
        remove_leftovers(out, [SETTINGS_FILE])
        made: dict[str, Any] = {}
        if any(out.iterdir()):
            settings = out / SETTINGS_FILE
            made = read_json(settings) if settings.is_file() else {}
            if made.get("made_by") != MADE_BY:
                raise UserError(
                    f"{out} is not empty and holds no prediction; choose another with "
                    "--out=DIR"
                )
            if made["inputs"] != there["inputs"]:
                raise UserError(
                    f"{out} holds the prediction of other models, files or options; "
                    "choose another with --out=DIR, or remove it"
                )
        _clear(options, made.get("tables"))
        write_json(out / SETTINGS_FILE, there)
        (out / OVERLAYS_DIR).mkdir(exist_ok=True)
        if options.dicom:
            (out / DICOM_DIR).mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{out} cannot be written: {error.strerror}; choose another with --out=DIR"
        ) from error


def _clear(options: Options, digests: Mapping[str, str] | None) -> None:
    """Removes what an earlier prediction wrote, and nothing else.

    Args:
      options: of the next prediction.
      digests: digests of the tables as written; None if nobody noted them.
    """
    out = options.out
    for name in PREDICTION_TABLES:
        # Labels that were filled in are work that a new prediction must not replace.
        path = out / name
        if path.exists() and not _is_untouched(path, digests):
            raise UserError(
                f"{path} has been filled in or changed since it was written; "
                "move it away, or choose another directory with --out=DIR"
            )
    names = ["case_*", *(view.image_id for view in options.planned.values())]
    if digests and (out / "predictions.csv").exists():
        # The manifest may have lost rows since.
        names += [row["image_index"] for row in _rows(out / "predictions.csv")]
    for folder, ending in {OVERLAYS_DIR: ".png", DICOM_DIR: "_*.dcm"}.items():
        for name, part in itertools.product(names, ("", ".part")):
            for earlier in (out / folder).glob(f"{name}{ending}{part}"):
                earlier.unlink()
        with contextlib.suppress(OSError):  # Somebody's own files keep it.
            (out / folder).rmdir()
    remove_leftovers(out, [*TABLES, REPORT_FILE])
    for name in (*TABLES, REPORT_FILE):
        (out / name).unlink(missing_ok=True)


def _is_untouched(path: Path, digests: Mapping[str, str] | None) -> bool:
    if digests is not None:
        return _digest(path.read_bytes()) == digests.get(path.name)
    # Earlier versions noted no digests, and wrote no labels.
    header = [*PREDICTION_TABLES[path.name]]
    rows = _rows(path)
    return all([*row] == header and row["malignant_label"] == "" for row in rows)


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return list(csv.DictReader(file))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def predict(
    scorer: Scorer, inputs: Iterator[Input | Problem], files: int, options: Options
) -> tuple[list[ImageScore], list[Problem]]:
    """Scores the files and writes everything.

    Args:
      scorer: the models.
      inputs: the images, or the reasons why they could not be read.
      files: number of the inputs.
      options: settings of the outputs.

    Returns:
      What was scored, and what could not be.

    Raises:
      UserError: no file could be scored, or the disk is full; what had been scored is
        written.
      RunStoppedError: a signal arrived; likewise.
      Exception: whatever the scoring raised; likewise.
    """
    run = _Run(options, files)
    ended: Exception | RunStoppedError | None = None
    with StopRequest() as stop, stop.deferred():
        try:
            _score(scorer, inputs, run, stop)
        except (Exception, RunStoppedError) as error:  # the scores are kept
            ended = error
        said = f"{len(run.rows)} of {files} files were scored"
        if isinstance(ended, OSError):
            run.make_room()
        try:
            # A path would not be for those that the page is passed on to.
            why = f"the scoring failed ({type(ended).__name__})"
            if isinstance(ended, OSError):
                why = str(ended.strerror)
            elif isinstance(ended, RunStoppedError):
                why = said
            run.finish(f"Incomplete: {why}." if ended else "")
        except OSError as error:
            ended = ended or error
    if isinstance(ended, OSError):
        raise UserError(
            f"{ended.filename or options.out}: {ended.strerror}; the scores of"
            f" {len(run.rows)} of {files} files are in {options.out}; make room, and"
            " give the same command again"
        ) from ended
    if isinstance(ended, RunStoppedError):
        where = f"{said}; their scores are in {options.out}"
        raise RunStoppedError(stop.signal_number or 0, where)
    if ended is not None:
        raise ended
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
        batches = iter(lambda: list(itertools.islice(images, scorer.batch_size)), [])
        # The rows and overlays of a batch are written while the next one is scored.
        begun = ((batch, scorer.begin(batch)) for batch in batches)
        for batch, results in one_behind(begun):
            for image, scored in zip(batch, results(), strict=True):
                run.add(image, scored)
                bar.update()


class _Run:
    """Scores so far; rows, overlays and DICOM objects are written as they come."""

    def __init__(self, options: Options, files: int):
        self.files = files
        self.rows: list[ImageScore] = []
        self.problems: list[Problem] = []
        self._options = options
        self.book = CaseBook(
            keep_identifiers=options.keep_identifiers, planned=options.planned
        )
        self._best: list[tuple[float, int, str, bytes]] = []
        self._last_overlay: Path | None = None
        self._scores = GrowingTable(options.out / "predictions.csv", COLUMNS)
        self._files = GrowingTable(options.out / FILES_TABLE, FILES_COLUMNS)

    def make_room(self) -> None:
        """Removes the last overlay, so that the tables find room on a full disk."""
        if self._last_overlay:
            self._last_overlay.unlink(missing_ok=True)

    def finish(self, remark: str) -> None:
        """Writes the tables and the page."""
        out, options = self._options.out, self._options
        tables = summary_tables(self.rows, self.problems)
        scores = table_bytes([COLUMNS, *(row.cells() for row in self.rows)])
        written = {**tables, "predictions.csv": scores}
        digests = {name: _digest(written[name]) for name in PREDICTION_TABLES}
        growing = (self._scores, self._files)
        for table in growing:
            table.close()
        # Before the tables, which a next prediction must know as its own; they stay in
        # their .part where there is no room for it.
        write_json(out / SETTINGS_FILE, {**options.settings(), "tables": digests})
        for table in growing:
            table.finish()
        for name, content in tables.items():
            with replace_file(out / name) as partial:
                partial.write_bytes(content)
        if self.rows:
            # Here, since figures take half a second to import.
            from mammo_jax.prediction.page import write_page

            thumbnails = {image_id: png for _, _, image_id, png in self._best}
            said = [f"{options.about} {remark}".strip()]
            if options.planned:
                said.append("Images have the patients' codes of the table.")
            said += remarks(self.rows, options.intents)
            path, threshold = out / REPORT_FILE, options.threshold
            write_page(path, said, self.rows, thumbnails, self.problems, threshold)

    def check(self, image: Input) -> Input | Problem:
        """Returns the image as its manifest calls it, or why it does not count."""
        if planned := self._options.planned.get(image.path):
            try:
                check_header(planned, image.laterality, image.view)
            except UserError as error:
                return Problem(image.path, str(error).removeprefix(f"{image.path}: "))
            image = dataclasses.replace(
                image, laterality=planned.laterality, view=planned.view
            )
        if self.book.is_copy(image):
            return Problem(image.path, "a copy of an image of the same case")
        return image

    def report(self, problem: Problem) -> None:
        """Notes a file that is bad, and says so at once."""
        self.problems.append(problem)
        # The terminal may have been closed; the table has the problem.
        with contextlib.suppress(OSError):
            text = f"problem: {problem.path}: {problem.reason}"
            tqdm.tqdm.write(text, file=sys.stderr)

    def add(self, image: Input, result: Result) -> None:
        """Notes an image's score and writes its overlay."""
        identity = self.book.name(image)
        planned = self._options.planned.get(image.path)
        label = str(int(planned.is_malignant)) if planned else ""
        row = ImageScore(
            *(identity, image.path, image.laterality, image.view, result.score, label),
            image.intent,
        )
        small = overlay = result.overlay()
        if self._options.full_size or (self._options.dicom and image.is_dicom):
            assert image.original is not None
            overlay = overlays.draw_overlay(image.original, result.map)
        path = self._options.out / OVERLAYS_DIR / f"{identity.image_id}.png"
        with replace_file(path) as partial:
            shown = overlay if self._options.full_size else small
            partial.write_bytes(overlays.encode(shown))
        self._last_overlay = path
        # The first files stay where scores are equal.
        entry = (result.score, -len(self.rows), identity.image_id)
        kept = (*entry, overlays.encode(shrink(small, _THUMBNAIL_HEIGHT / len(small))))
        if len(self._best) < MAX_PICTURES:
            heapq.heappush(self._best, kept)
        else:
            heapq.heappushpop(self._best, kept)
        self._scores.add(row.cells())
        self.rows.append(row)
        self._files.add([identity.image_id, shown_path(image.path)])
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
                credit=self._options.credit,
            )
        except UserError as error:
            reason = str(error).removeprefix(f"{image.path}: ")
            self.report(Problem(image.path, f"scored, but: {reason}", scored=True))


def _only_images(
    found: Iterable[Input | Problem], run: _Run, bar: tqdm.tqdm, stop: StopRequest
) -> Iterator[Input]:
    for one in found:
        stop.raise_if_set("")  # More may be scored until the end.
        one = run.check(one) if isinstance(one, Input) else one
        if isinstance(one, Input):
            yield one
        else:
            run.report(one)
            bar.update()
