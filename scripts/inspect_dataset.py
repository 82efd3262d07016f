"""Writes an HTML contact sheet of a built data set.

  python scripts/inspect_dataset.py OUT/cbis_ddsm/official_whole/1.0.0 --out=sheet.html

It shows the split table, grey levels, and some images of each class with the outlines
of their regions of interest: benign in green, malignant in red.
"""

import argparse
import collections
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mammo_jax.common.command_line import make_parser, run_main
from mammo_jax.common.errors import UserError

if TYPE_CHECKING:  # They take long to import, and the help needs none of them.
    import numpy as np

    from mammo_jax.evaluation.html_writer import Picture, Section

_THUMBNAIL_HEIGHT = 320
_HISTOGRAM_BINS = 64
# Red, green, blue.
_COLOURS = {"benign": (80, 200, 80), "malignant": (255, 60, 60)}
_LEGEND = (
    "Regions of interest are outlined: benign in green, malignant in red. Pictures are"
    " shown as the networks get them, but smaller and in 8 bits."
)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; `--help` prints it."""
    parser = make_parser(__doc__)
    parser.add_argument("dataset_dir", help="folder that holds dataset_info.json")
    parser.add_argument("--out", required=True, help="HTML file to write")
    parser.add_argument(
        "--count", type=int, default=12, help="images of each class and split"
    )
    return parser.parse_args(arguments)


def main(options: argparse.Namespace) -> None:
    """Writes the sheet, one file with no outside links."""
    import tensorflow_datasets as tfds

    from mammo_jax.common.progress import progress
    from mammo_jax.evaluation.html_writer import Section, Table, write_html

    dataset_dir, out = (
        Path(path).expanduser() for path in (options.dataset_dir, options.out)
    )
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
    sections, rows = [], []
    for split, source in sources.items():
        examples = progress(source, f"reading {split}", unit="example")
        counts, own = _survey(split, examples, names, roi_names, options.count)
        rows.append([split, *map(str, counts)])
        sections += own
    header = ("split", "examples", "patients", "images", *names)
    overview = Section("Splits", [_LEGEND], [Table(header, rows)])
    facts = [(name, str(value)) for name, value in _flat(builder.info.metadata or {})]
    settings = Section("Settings", tables=[Table(("setting", "value"), sorted(facts))])
    title = builder.info.full_name.replace("/", " / ")
    write_html(out, title, [overview, *sections, settings])
    print(out)


def _flat(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yields names, with those above them and dots between, and values."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{name}.")
        else:
            yield above + name, value


def _survey(
    split: str,
    examples: Iterator[Mapping[str, Any]],
    names: list[str],
    roi_names: list[str],
    count: int,
) -> tuple[list[int], list["Section"]]:
    """Sweeps over a split: counts, greys, and the first few of each class."""
    import numpy as np

    from mammo_jax.evaluation.html_writer import Section

    labels: collections.Counter[int] = collections.Counter()
    patients, images = set(), set()
    greys = np.zeros(_HISTOGRAM_BINS, np.int64)
    pictures: dict[int, list[Picture]] = {number: [] for number in range(len(names))}
    for example in examples:
        label, image = int(example["label"]), example["image"][..., 0]
        labels[label] += 1
        patients.add(example["patient_id"])
        images.add(example["image_id"])
        # The highest bits are the bin; every fourth pixel tells enough.
        greys += np.bincount((image[::2, ::2] >> 10).ravel(), minlength=_HISTOGRAM_BINS)
        if labels[label] <= count:
            pictures[label].append(_draw(image, example, roi_names))
    numbers = [labels.total(), len(patients), len(images)]
    numbers += [labels[label] for label in pictures]
    return numbers, [
        Section(f"{split}: grey levels", pictures=[_draw_histogram(split, greys)]),
        *(Section(f"{split}: {names[n]}", pictures=own) for n, own in pictures.items()),
    ]


def _draw(
    image: "np.ndarray", example: Mapping[str, Any], roi_names: list[str]
) -> "Picture":
    """Draws an example small, with its outlines."""
    import cv2
    import numpy as np

    from mammo_jax.datasets.records import split_outlines
    from mammo_jax.evaluation.html_writer import Picture
    from mammo_jax.images.grid import shrink
    from mammo_jax.images.overlays import encode

    scale = min(1.0, _THUMBNAIL_HEIGHT / image.shape[0])
    small = (shrink(image, scale) // 256).astype(np.uint8)
    picture = cv2.cvtColor(small, cv2.COLOR_GRAY2RGB)
    image_id = example["image_id"].decode()
    caption = [image_id]
    if "rois" in example:
        classes = [roi_names[number] for number in example["rois"]["class"]]
        caption += classes
        for name, outline in zip(classes, split_outlines(example), strict=True):
            corners = np.rint((outline[:, ::-1] + 0.5) * scale - 0.5).astype(np.int32)
            cv2.polylines(picture, [corners], True, _COLOURS[name.rpartition("_")[2]])
    if "overlap" in example:
        caption.append(f"overlap {float(example['overlap']):.2f}")
    return Picture(image_id, encode(picture), ", ".join(caption))


def _draw_histogram(split: str, counts: "np.ndarray") -> "Picture":
    """Draws the grey levels on a logarithmic scale: black outweighs all else."""
    import numpy as np
    from matplotlib.figure import Figure

    from mammo_jax.evaluation.html_writer import Picture, draw

    figure = Figure(figsize=(4, 2.4), layout="tight")
    axes = figure.subplots()
    axes.bar((np.arange(len(counts)) + 0.5) * (65536 / len(counts)), counts, 1000)
    axes.set(yscale="log", xlabel="grey level", ylabel="pixels", xlim=(0, 65536))
    return Picture(
        split, draw(figure, "png"), f"Grey levels of {split}, black to white"
    )


if __name__ == "__main__":
    run_main(parse_arguments, main)
