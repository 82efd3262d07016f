"""The page of a prediction: every image's overlay, the highest score first."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from mammo_jax.evaluation.html_writer import Picture, Section, Table, write_html
from mammo_jax.images import overlays
from mammo_jax.prediction.reading import Problem
from mammo_jax.prediction.score_tables import ImageScore

_COLOURS = (
    "Colour shows the class map, on one scale in all pictures: yellow to red for "
    "malignancy, blue against it. For whole-image classifiers these are the odds at "
    "each place, no colour at even odds and full colour at 50 to 1; for patch "
    "classifiers the probability of a malignant patch. It says what the score is made "
    "of, not where a lesion is."
)
_SCALE = "blue: against malignancy; no colour: even; yellow to red: for malignancy"
_THRESHOLD = (
    "The model's threshold is {:.3f}: on the validation images of its training, the "
    "sum of sensitivity and specificity was largest there. {} of these {} images score "
    "as much or more and have a star; elsewhere another threshold may be right."
)
_NO_THRESHOLD = (
    "These scores have no threshold: models have one for themselves alone and the "
    "flips of their own evaluation, and older ones and those of patches have none."
)
_FILES = (
    "A click on a picture opens it in full. Which file each image is says files.csv, "
    "and not this page: the names of files may name patients."
)
_CAVEAT = "For research. Not a medical device; no clinical decision may rest on it."


def write_page(
    path: Path,
    about: Sequence[str],
    rows: Sequence[ImageScore],
    thumbnails: Mapping[str, bytes],
    problems: Sequence[Problem],
    threshold: float | None,
) -> None:
    """Writes the page, self-contained but for links to the overlays beside it.

    Args:
      path: the HTML file.
      about: which models, and how; remarks on the scores.
      rows: every image that was scored.
      thumbnails: PNG by image id, of those to show.
      problems: the files that could not be scored, or not without a remark.
      threshold: the model's own, from which a score is marked; None for none.
    """
    shown = [row for row in rows if row.identity.image_id in thumbnails]
    shown.sort(key=lambda row: -row.score)
    text = [*about, _COLOURS, _FILES, _CAVEAT]
    marked = {
        row.identity.image_id
        for row in rows
        if threshold is not None and row.score >= threshold
    }
    said = _NO_THRESHOLD
    if threshold is not None:
        said = _THRESHOLD.format(threshold, len(marked), len(rows))
    text.insert(1, said)
    if len(shown) < len(rows):
        text.append(
            f"The {len(shown)} images of the highest scores of {len(rows)}; all are "
            "in predictions.csv."
        )
    pictures = [
        Picture(
            row.identity.image_id,
            thumbnails[row.identity.image_id],
            f"{row.score:.3f}{'*' * (row.identity.image_id in marked)}  "
            f"{row.identity.image_id}",
            f"overlays/{row.identity.image_id}.png",
        )
        for row in shown
    ]
    scale = overlays.encode(overlays.draw_scale())
    sections = [
        Section("What is shown", text, pictures=[Picture("scale", scale, _SCALE)]),
        Section("Images by score", pictures=pictures),
    ]
    if problems:
        sections.append(_problem_section(problems))
    write_html(path, "Scores of mammograms", sections)


def _problem_section(problems: Sequence[Problem]) -> Section:
    # Without paths and cells: a page is passed on, and they may name a patient.
    reasons = Counter(
        "a row of the table cannot be used" if problem.of_row else problem.reason
        for problem in problems
    )
    table = Table(("problem", "files"), [(why, str(n)) for why, n in reasons.items()])
    remarks = sum(problem.scored for problem in problems)
    kinds = {
        "could not be scored": len(problems) - remarks,
        "were scored, but not all was written": remarks,
    }
    text = [
        f"Files that {kind}: {count}; see problems.csv."
        for kind, count in kinds.items()
        if count
    ]
    return Section("Problems", text, [table])
