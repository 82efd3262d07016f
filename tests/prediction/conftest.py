"""Tiny models, each made and compiled once, and a folder of files to score."""

import functools
import shutil
from pathlib import Path

import cv2
import pytest
from predicting import SECRETS, make_breast
from raw_files import write_dicom
from tiny_runs import write_run

from mammo_jax.common.run_directory import read_json, write_json
from mammo_jax.prediction.scorer import Scorer
from mammo_jax.weights import model_directory


@pytest.fixture(scope="session", autouse=True)
def _compiled_once():
    """Loads each directory's model once a session, and compiles it once a shape."""
    load, compile_model = functools.cache(model_directory.load_model), Scorer._compile
    kept: dict[tuple, object] = {}

    def compile_once(self, model):
        key = (id(model), self.batch_size, self._tta)
        if key not in kept:
            kept[key] = compile_model(self, model)
        return kept[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_directory, "load_model", load)
        patch.setattr(Scorer, "_compile", compile_once)
        yield


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A run's directory, and its network."""
    directory = tmp_path_factory.mktemp("model") / "run"
    return directory, write_run(directory)


@pytest.fixture(scope="session")
def calibrated(model, tmp_path_factory):
    """The directory of the same model with a calibration: slope 2, intercept -1."""
    directory = shutil.copytree(model[0], tmp_path_factory.mktemp("line") / "run")
    description = read_json(directory / "model.json") | {"calibration": [2.0, -1.0]}
    write_json(directory / "model.json", description)
    return directory


@pytest.fixture(scope="session")
def other(tmp_path_factory):
    """Another one of the same shape."""
    directory = tmp_path_factory.mktemp("other") / "run"
    return directory, write_run(directory, seed=7)


@pytest.fixture(scope="session")
def stretching(tmp_path_factory):
    """One whose images are stretched to the full range."""
    directory = tmp_path_factory.mktemp("stretching") / "run"
    return directory, write_run(directory, stretch=True)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two views of one breast and one of another patient, and a picture."""
    for seed, (patient, side, view) in enumerate(
        [("A", "L", "CC"), ("A", "L", "MLO"), ("B", "R", "CC")]
    ):
        write_dicom(
            tmp_path / "in" / "deep" / f"{seed}.dcm",
            make_breast(seed),
            ViewPosition=view,
            ImageLaterality=side,
            **SECRETS | {"PatientID": SECRETS["PatientID"] + patient},
        )
    cv2.imwrite(str(tmp_path / "in" / "picture.png"), make_breast(3))
    (tmp_path / "in" / "notes.txt").write_text("no image")
    return tmp_path / "in"
