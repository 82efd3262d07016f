"""Where the time of an input pipeline goes, on one core.

  python -m benchmarks.input_profile --out=docs/input_profile.md

The parts of `mammo_jax.datasets.pipeline.training_batches` are timed one by one, in
turn, on the phantoms of `benchmarks.input_pipeline`, and what is left of the whole is
grain's: its order, its random numbers, its batches. Beside a part stands the least
that this machine could need for it: to copy its bytes, or the time of the one library
call that does it.
"""

import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.input_pipeline import (
    KINDS,
    PIXEL_MEAN,
    Kind,
    Repeated,
    make_parser,
    prepare,
    read_ours,
)
from benchmarks.side_by_side import machine

# Images that are kept in memory for the parts after reading.
_KEPT = 32
_INTRODUCTION = """# Where the time of the input pipeline goes

Written by `python -m benchmarks.input_profile --out=docs/input_profile.md`. One core,
medians, milliseconds an image. To the right what the machine could do at best.

"""


class Part(NamedTuple):
    """A part of the work on one image.

    Attributes:
      name: what it does.
      run: does it for the next image.
      images: that one call is for.
      floor: what the least is, in words.
      least: does no more than that.
    """

    name: str
    run: Callable[[], object]
    images: int = 1
    floor: str = ""
    least: Callable[[], object] | None = None


def parts_of(kind: Kind, folder: Path) -> list[Part]:
    """The parts of reading one kind of images, the whole first, the device's last."""
    from mammo_jax.datasets import packaged, pipeline

    source = pipeline.open_dataset(kind.dataset, str(folder / "data")).sources["train"]
    records = Repeated(source.records, kind.examples)
    kept = [records[number] for number in range(_KEPT)]
    images = [packaged.parse_example(x, source.image_shape)["image"] for x in kept]
    batches = read_ours(kind, folder)
    return [
        Part("all, up to the device", lambda: next(batches), kind.batch_size),
        Part(
            "reading a record",
            _in_turn(records.__getitem__, range(len(records))),
            floor="copying it",
            least=_in_turn(bytearray, kept),
        ),
        Part(
            "record to grey image",
            _in_turn(lambda x: packaged.parse_example(x, source.image_shape), kept),
            floor="inflating it with libdeflate",
            least=_inflating(kept, source.image_shape),
        ),
        _transformations(images),
        Part(
            "one array of a batch",
            lambda: np.stack([images[0]] * kind.batch_size),
            kind.batch_size,
        ),
        _device_part(np.stack(images[:1] * kind.batch_size)),
    ]


def _in_turn(call: Callable[[Any], object], things: Sequence) -> Callable[[], object]:
    """Calls with the next of the things each time."""
    turns = itertools.cycle(things)
    return lambda: call(next(turns))


def _inflating(kept: list[bytes], shape: tuple[int, int]) -> Callable[[], object]:
    import imagecodecs

    from mammo_jax.images.png import find_pixels

    packed = [find_pixels(_png_of(record), *shape) for record in kept]
    room = np.empty(shape[0] * (1 + 2 * shape[1]) + 1, np.uint8)
    return _in_turn(lambda x: imagecodecs.deflate_decode(x, out=room.data), packed)


def _transformations(images: list[np.ndarray]) -> Part:
    from mammo_jax.datasets import augment

    random, ranges = np.random.default_rng(0), augment.Augmentation()
    drawn = random.uniform((-0.4, -0.2), (0.4, 0.2), (_KEPT - 1, 2))
    matrices = [
        augment.affine_matrix(turn, slant, (1.1, 0.9), *images[0].shape)
        for turn, slant in drawn
    ]
    # Each image meets each matrix, another image at every call.
    pairs = list(zip(images * len(matrices), matrices * len(images), strict=True))
    return Part(
        "random transformations",
        _in_turn(lambda image: augment.augment_image(image, random, ranges), images),
        floor="OpenCV's affine alone",
        least=_in_turn(lambda pair: augment.warp_nearest(*pair), pairs),
    )


def _device_part(batch: np.ndarray) -> Part:
    import jax

    from mammo_jax.models.network_input import network_input

    shifts = np.zeros((len(batch), 3), np.float32)
    on_device = jax.jit(network_input)
    result = np.empty((*batch.shape, 3), np.float32)
    return Part(
        "on the device: three shifted channels",
        lambda: on_device(batch, PIXEL_MEAN, shifts).block_until_ready(),
        len(batch),
        floor="writing its result",
        least=lambda: np.copyto(result, 1.0),
    )


def _png_of(record: bytes) -> bytes:
    from tensorflow_datasets.proto import tf_example_pb2

    features = tf_example_pb2.Example.FromString(record).features.feature
    return features["image"].bytes_list.value[0]


def measure(parts: list[Part], rounds: int, seconds: float) -> list[tuple[float, ...]]:
    """Milliseconds an image of every part and of its least, medians of the rounds."""
    found: list[tuple[list[float], list[float]]] = [([], []) for _ in parts]
    for _ in range(rounds):
        for part, (whole, least) in zip(parts, found, strict=True):
            whole.append(_milliseconds(part.run, part.images, seconds))
            if part.least:
                least.append(_milliseconds(part.least, part.images, seconds))
    return [tuple(statistics.median(x) for x in pair if x) for pair in found]


def _milliseconds(call: Callable[[], object], images: int, seconds: float) -> float:
    call()
    calls, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        call()
        calls += 1
    return 1000 * elapsed / (calls * images)


def table(kind: str, parts: list[Part], times: list[tuple[float, ...]]) -> str:
    """The parts as Markdown."""
    lines = [
        f"## {kind}\n",
        "| part | ms | at best | ms |",
        "| --- | ---: | --- | ---: |",
    ]
    for part, (spent, *least) in zip(parts, times, strict=True):
        best = f"{least[0]:.3f}" if least else ""
        lines.append(f"| {part.name} | {spent:.3f} | {part.floor} | {best} |")
    whole, *others = (spent for spent, *_ in times)
    rest = whole - sum(others[:-1])
    lines.append(f"| what is left of the first line: grain | {rest:.3f} | | |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measures, prints, writes."""
    parser = make_parser(__doc__)
    parser.set_defaults(seconds=0.5)
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    where = machine()
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    pages = [f"{_INTRODUCTION}One of {where}.\n"]
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name), options.cases)
        for title, kind in KINDS.items():
            parts = parts_of(kind, Path(name))
            times = measure(parts, options.rounds, options.seconds)
            pages.append(table(title, parts, times))
            print(pages[-1], flush=True)
    if options.out:
        options.out.write_text("\n".join(pages))


if __name__ == "__main__":
    main()
