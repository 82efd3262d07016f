"""A prediction: files in, tables, overlays and a page out."""

import dataclasses
import heapq
import itertools
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import tqdm

from mammo_jax.errors import UserError
from mammo_jax.evaluation import overlays
from mammo_jax.prediction.inputs import (
    CaseBook,
    Input,
    Problem,
    read_inputs,
)
from mammo_jax.prediction.scorer import Scored, Scorer
from mammo_jax.prediction.tables import Row, write_tables
from mammo_jax.progress import progress_bar
from mammo_jax.training import workdir as workdirs

MADE_BY = "mammo_jax.predict"
SETTINGS_FILE = "prediction.json"
# A page with more would be slow to open.
MAX_PICTURES = 300
OVERLAYS_DIR, DICOM_DIR = "overlays", "dicom"


@dataclasses.dataclass(frozen=True)
class Options:
    """What a prediction writes.

    Attributes:
      out: the directory.
      about: which models score, and how, in a sentence.
      dicom: also write DICOM objects.
      keep_identifiers: patients keep their PatientID.
    """

    out: Path
    about: str
    dicom: bool
    keep_identifiers: bool


def prepare_output(out: Path) -> None:
    """Makes the directory, or clears it of an earlier prediction.

    Raises:
      UserError: it holds something else, or cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        settings = out / SETTINGS_FILE
        if any(out.iterdir()):
            made = workdirs.read_json(settings) if settings.is_file() else {}
            if made.get("made_by") != MADE_BY:
                raise UserError(
                    f"{out} is not empty and holds no prediction; choose another with "
                    "--out=DIR"
                )
        for folder in (OVERLAYS_DIR, DICOM_DIR):
            shutil.rmtree(out / folder, ignore_errors=True)
        for earlier in (*out.glob("*.csv"), out / "report.html"):
            earlier.unlink(missing_ok=True)
        workdirs.write_json(settings, {"made_by": MADE_BY})
        (out / OVERLAYS_DIR).mkdir()
    except OSError as error:
        raise UserError(
            f"{out} cannot be written: {error.strerror}; choose another with --out=DIR"
        ) from error


def predict(
    scorer: Scorer, files: Sequence[Path], batch_size: int, options: Options
) -> tuple[list[Row], list[Problem]]:
    """Scores the files and writes everything.

    Returns:
      What was scored, and what could not be.

    Raises:
      UserError: no file could be scored.
    """
    run = _Run(options)
    with progress_bar("scoring", total=len(files), unit="image") as bar:
        images = _only_images(read_inputs(files, scorer.grids), run, bar)
        for batch in _batches(images, batch_size):
            found = scorer.score(batch, batch_size)
            for image, scored in zip(batch, found, strict=True):
                run.add(image, scored)
                bar.update()
    write_tables(options.out, run.rows, run.problems)
    if not run.rows:
        raise UserError(
            f"none of the {len(files)} files could be scored; see "
            f"{options.out / 'problems.csv'}"
        )
    # Here, since figures take half a second to import.
    from mammo_jax.prediction.page import write_page

    page = options.out / "report.html"
    write_page(page, options.about, run.rows, run.thumbnails, run.problems)
    return run.rows, run.problems


class _Run:
    """What has been scored so far, and what of it is written as it comes."""

    def __init__(self, options: Options):
        self.rows: list[Row] = []
        self.problems: list[Problem] = []
        self._options = options
        self._book = CaseBook(keep_identifiers=options.keep_identifiers)
        self._best: list[tuple[float, int, str, bytes]] = []
        if options.dicom:
            (options.out / DICOM_DIR).mkdir()

    @property
    def thumbnails(self) -> dict[str, bytes]:
        """PNG of the highest scores by image id."""
        return {image_id: content for _, _, image_id, content in self._best}

    def report(self, problem: Problem) -> None:
        """Notes a file that is bad, and says so at once."""
        self.problems.append(problem)
        tqdm.tqdm.write(f"problem: {problem.path}: {problem.reason}", file=sys.stderr)

    def add(self, image: Input, scored: Scored) -> None:
        """Notes an image's score and writes its overlay."""
        identity = self._book.name(image)
        row = Row(identity, image.path, image.laterality, image.view, scored.score)
        overlay = overlays.draw_overlay(image.picture, scored.strength)
        path = self._options.out / OVERLAYS_DIR / f"{identity.image_id}.png"
        path.write_bytes(overlays.encode(overlay))
        # Of equal scores the first files stay.
        entry = (scored.score, -len(self.rows), identity.image_id)
        kept = (*entry, overlays.encode(overlays.thumbnail(overlay)))
        if len(self._best) < MAX_PICTURES:
            heapq.heappush(self._best, kept)
        else:
            heapq.heappushpop(self._best, kept)
        self.rows.append(row)
        if self._options.dicom:
            self._write_dicom(image, row, overlay)

    def _write_dicom(self, image: Input, row: Row, overlay: np.ndarray) -> None:
        from mammo_jax.prediction.dicom_output import write_dicom

        if not image.is_dicom:
            reason = "scored, but a picture has no DICOM instance to refer to"
            self.report(Problem(image.path, reason))
            return
        try:
            write_dicom(
                self._options.out / DICOM_DIR,
                image.path,
                row.identity,
                overlay,
                row.score,
                keep_identifiers=self._options.keep_identifiers,
            )
        except UserError as error:
            reason = str(error).removeprefix(f"{image.path}: ")
            self.report(Problem(image.path, f"scored, but: {reason}"))


def _only_images(
    found: Iterable[Input | Problem], run: _Run, bar: tqdm.tqdm
) -> Iterator[Input]:
    for one in found:
        if isinstance(one, Input):
            yield one
        else:
            run.report(one)
            bar.update()


def _batches(images: Iterator[Input], size: int) -> Iterator[list[Input]]:
    while batch := list(itertools.islice(images, size)):
        yield batch
