"""Calls `predict` in this process, and reads what it wrote."""

import csv
import functools
from pathlib import Path

import cv2
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from tiny_runs import HEIGHT, MEAN, WIDTH

from mammo_jax import predict
from mammo_jax.common.errors import run_command

SHAPE = (300, 170)
SECRETS = {
    "PatientID": "SECRET-ID-77",
    "PatientName": "Secretname^Jane",
    "PatientBirthDate": "19560317",
    "AccessionNumber": "ACC-5512",
    "InstitutionName": "Secret Hospital",
    "StudyDate": "20210417",
}


@functools.cache
def make_breast(seed: int, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    """Draws smooth noise of 16 bits, another for each seed."""
    noise = np.random.default_rng(seed).integers(0, 60000, (9, 6)).astype(np.uint16)
    return cv2.resize(noise, shape[::-1], interpolation=cv2.INTER_CUBIC)


def run_predict(*arguments: object) -> int:
    """Runs the command and returns its exit code."""
    options = predict.parse_arguments([str(argument) for argument in arguments])
    with pytest.raises(SystemExit) as stop:
        run_command(lambda: predict.main(options))
    assert isinstance(stop.value.code, int)
    return stop.value.code


def read_table(path: Path) -> dict[str, dict[str, str]]:
    """Returns the rows by their first cell."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    table = {next(iter(row.values())): row for row in rows}
    assert len(table) == len(rows)
    return table


def read_scores(path: Path) -> dict[str, float]:
    """Returns the scores of a prediction table by image."""
    rows = read_table(path)
    return {name: float(row["malignant_pred"]) for name, row in rows.items()}


def by_hand(network, pixels: np.ndarray) -> float:
    """Scores an image: squeezed, 16 bits to 0..255, less the mean, softmax."""
    small = cv2.resize(pixels, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    grey = small.astype(np.float32) * np.float32(255 / 65535) - MEAN
    images = jnp.asarray(np.repeat(grey[None, ..., None], 3, axis=-1))
    logits = network(images, train=False)
    return float(scipy.special.softmax(np.asarray(logits)[0])[1])
