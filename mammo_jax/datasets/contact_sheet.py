"""A page to look at a packaged data set with: images, regions, patches, greys."""

import base64
import collections
import html
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Int, UInt8, UInt16

from mammo_jax.common.errors import UserError
from mammo_jax.common.progress import progress
from mammo_jax.datasets.records import split_outlines
from mammo_jax.images.grid import shrink

_THUMBNAIL_HEIGHT = 320
_HISTOGRAM_BINS = 64
# Blue, green, red; benign is green, malignant red.
_COLOURS = {"benign": (80, 200, 80), "malignant": (60, 60, 255)}
_STYLE = """
body { font: 14px sans-serif; margin: 2em; background: #111; color: #ddd }
table { border-collapse: collapse } td, th { padding: .2em 1em; text-align: right }
figure { display: inline-block; margin: .4em } figcaption { font-size: 11px }
img { display: block } svg { background: #222 } rect { fill: #8bf }
"""


def write_contact_sheet(dataset_dir: str | Path, out: str | Path, count: int) -> None:
    """Writes one HTML file with no outside links.

    Args:
      dataset_dir: folder of a built data set, the one with dataset_info.json.
      out: the file to write.
      count: images shown of each class of each split.

    Raises:
      UserError: there is no data set, or `out` cannot be written.
    """
    dataset_dir, out = (Path(path).expanduser() for path in (dataset_dir, out))
    try:
        builder = tfds.builder_from_directory(dataset_dir)
        sources = {name: builder.as_data_source(name) for name in builder.info.splits}
    except (OSError, ValueError, tfds.core.DatasetNotFoundError) as error:
        raise UserError(
            f"{dataset_dir}: no built data set; give the folder that holds"
            " dataset_info.json"
        ) from error
    features = builder.info.features
    names = features["label"].names
    roi_names = features["rois"]["class"].names if "rois" in features else []
    parts = [f"<h1>{html.escape(builder.info.full_name)}</h1>"]
    sections = []
    rows = []
    for split, source in sources.items():
        survey = _Survey(names, roi_names, count)
        for example in progress(source, f"reading {split}", unit="example"):
            survey.add(example)
        rows.append([split, *survey.counts()])
        sections.append(f"<h2>{html.escape(split)}</h2>{survey.to_html()}")
    parts.append(_table(["split", "examples", "patients", "images", *names], rows))
    facts = _table(["setting", "value"], sorted(_flat(builder.info.metadata or {})))
    parts.append(f"<details><summary>settings</summary>{facts}</details>")
    page = (
        f"<!doctype html><meta charset=utf-8><title>{html.escape(builder.name)}</title>"
        f"<style>{_STYLE}</style>{''.join(parts + sections)}"
    )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror})") from error


def _flat(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Names, with those above them and dots between, and values."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{name}.")
        else:
            yield above + name, value


class _Survey:
    """One sweep over a split: counts, greys and the first few of each class."""

    def __init__(self, names: Sequence[str], roi_names: Sequence[str], count: int):
        self._names = names
        self._roi_names = roi_names
        self._count = count
        self._labels: collections.Counter[int] = collections.Counter()
        self._patients: set[bytes] = set()
        self._images: set[bytes] = set()
        self._greys = np.zeros(_HISTOGRAM_BINS, np.int64)
        self._figures: dict[int, list[str]] = {}

    def add(self, example: Mapping[str, Any]) -> None:
        label = int(example["label"])
        image = example["image"][..., 0]
        self._labels[label] += 1
        self._patients.add(example["patient_id"])
        self._images.add(example["image_id"])
        # The highest bits are the bin; every fourth pixel tells enough.
        self._greys += np.bincount(
            (image[::2, ::2] >> 10).ravel(), minlength=_HISTOGRAM_BINS
        )
        figures = self._figures.setdefault(label, [])
        if len(figures) < self._count:
            figures.append(_figure(image, example, self._roi_names))

    def counts(self) -> list[int]:
        return [
            sum(self._labels.values()),
            len(self._patients),
            len(self._images),
            *(self._labels[label] for label in range(len(self._names))),
        ]

    def to_html(self) -> str:
        parts = ["<p>grey levels, black to white</p>", _histogram(self._greys)]
        for label, figures in sorted(self._figures.items()):
            parts.append(f"<h3>{html.escape(self._names[label])}</h3>")
            parts.extend(figures)
        return "".join(parts)


def _figure(
    image: UInt16[np.ndarray, "height width"],
    example: Mapping[str, Any],
    roi_names: Sequence[str],
) -> str:
    scale = min(1.0, _THUMBNAIL_HEIGHT / image.shape[0])
    small = shrink(image, scale) // 256
    picture = cv2.cvtColor(small.astype(np.uint8), cv2.COLOR_GRAY2BGR)
    caption = [example["image_id"].decode()]
    classes, outlines = [], []
    if "rois" in example:
        classes, outlines = example["rois"]["class"], split_outlines(example)
    for number, outline in zip(classes, outlines, strict=True):
        name = roi_names[number]
        caption.append(name)
        _draw_outline(picture, outline, scale, _COLOURS[name.rpartition("_")[2]])
    if "overlap" in example:
        caption.append(f"overlap {float(example['overlap']):.2f}")
    text = html.escape(", ".join(caption))
    return (
        f'<figure><img alt="" src="{_data_url(picture)}">'
        f"<figcaption>{text}</figcaption></figure>"
    )


def _draw_outline(
    picture: UInt8[np.ndarray, "height width 3"],
    outline: Int[np.ndarray, "corners 2"],
    scale: float,
    colour: tuple[int, int, int],
) -> None:
    corners = np.rint((outline[:, ::-1] + 0.5) * scale - 0.5).astype(np.int32)
    cv2.polylines(picture, [corners], True, colour, 1)


def _data_url(picture: UInt8[np.ndarray, "height width 3"]) -> str:
    _, encoded = cv2.imencode(".jpg", picture, (cv2.IMWRITE_JPEG_QUALITY, 85))
    return f"data:image/jpeg;base64,{base64.b64encode(encoded.tobytes()).decode()}"


def _histogram(counts: Int[np.ndarray, " bins"]) -> str:
    """Bars of the logarithm: black outweighs all else."""
    heights = np.log1p(counts)
    heights = heights / max(1e-9, heights.max()) * 80
    bars = "".join(
        f'<rect x="{5 * i}" y="{80 - height:.1f}" width="4" height="{height:.1f}"/>'
        for i, height in enumerate(heights)
    )
    return f'<svg width="{5 * len(counts)}" height="80">{bars}</svg>'


def _table(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    lines = ["".join(f"<th>{html.escape(name)}</th>" for name in header)]
    lines += [
        "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) for row in rows
    ]
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"
