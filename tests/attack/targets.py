"""The readers under attack, as the commands call them."""

from collections.abc import Callable
from pathlib import Path

from seeds import BETWEEN_FILES

from mammo_jax.common.errors import UserError
from mammo_jax.datasets.inbreast import read_rois
from mammo_jax.datasets.manifest import read_views
from mammo_jax.evaluation.prediction_table import read_table
from mammo_jax.images.grid import Grid
from mammo_jax.prediction.expected_scores import EXPECTED_FILE, read_expected
from mammo_jax.prediction.reading import Problem, read_or_report
from mammo_jax.weights.model_description import load_description
from mammo_jax.weights.weight_files import read_weights

_GRIDS = (Grid(96, 64, stretch=True), Grid(96, 64, stretch=False))


def _score_input(content: bytes, folder: Path, name: str) -> None:
    path = _written(folder / name, content)
    result = read_or_report(path, grids=_GRIDS, identifying=(), with_original=True)
    if isinstance(result, Problem):
        raise UserError(result.reason)


def _read_description(content: bytes, folder: Path) -> None:
    names = ("config.json", "model.json", "metrics.json")
    for name, part in zip(names, content.split(BETWEEN_FILES), strict=False):
        _written(folder / name, part)
    load_description(folder)


def _read_expected(content: bytes, folder: Path) -> None:
    read_expected(_written(folder / EXPECTED_FILE, content))


def _read_weights(content: bytes, folder: Path) -> None:
    name = "a.h5" if content[1:4] == b"HDF" else "a.safetensors"
    read_weights(_written(folder / name, content))


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _picture_name(content: bytes) -> str:
    names = {b"\x89P": "a.png", b"\xff\xd8": "a.jpg", b"P5": "a.pgm"}
    return names.get(content[:2], "a.tif")


# Kind of file to what reads it: the only error that may come out is `UserError`.
TARGETS: dict[str, Callable[[bytes, Path], object]] = {
    "dicom": lambda content, folder: _score_input(content, folder, "a.dcm"),
    "picture": lambda content, folder: _score_input(
        content, folder, _picture_name(content)
    ),
    "prediction table": lambda content, folder: read_table(
        _written(folder / "a.csv", content)
    ),
    "manifest": lambda content, folder: (
        _written(folder / "manifest.csv", content),
        read_views(folder),
    ),
    "regions": lambda content, folder: read_rois(_written(folder / "a.xml", content)),
    "weights": _read_weights,
    "description": _read_description,
    "expected scores": _read_expected,
}
