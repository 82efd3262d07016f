"""Which runs may be averaged, and how."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import tiny_runs
from ml_collections import ConfigDict

from mammo_jax.common.errors import UserError
from mammo_jax.datasets.labels import WHOLE_CLASSES
from mammo_jax.datasets.pipeline import Dataset
from mammo_jax.evaluation.predictions import Predictions
from mammo_jax.images.grid import Grid
from mammo_jax.training import ensemble

GRID = Grid(tiny_runs.HEIGHT, tiny_runs.WIDTH, stretch=False)
DATASET = Dataset(
    name="made/up",
    sources={},
    pixel_mean=tiny_runs.MEAN,
    image_shape=(tiny_runs.HEIGHT, tiny_runs.WIDTH),
    class_names=WHOLE_CLASSES,
    grid=GRID,
)


@pytest.fixture(scope="module")
def member(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("runs") / "member"
    tiny_runs.write_run(directory)
    return directory


def _config(*members: Path) -> ConfigDict:
    config = tiny_runs.make_config()
    config.ensemble = ",".join(map(str, members))
    return config


def _check(config: ConfigDict, workdir: Path, **different: object) -> None:
    dataset = dataclasses.replace(DATASET, **different)
    ensemble.check_members(config, dataset, workdir)


def test_a_run_on_the_same_data_is_taken(member, tmp_path):
    _check(_config(member), tmp_path)
    _check(_config(), tmp_path)
    assert ensemble.members({"ensemble": " a, b,"}) == ["a", "b"]
    assert ensemble.members({}) == []


REFUSED = {
    "classes": ({"class_names": ("a", "b", "c")}, "tells apart .*, not .*'c'"),
    "grid": ({"grid": GRID._replace(height=576)}, "wants images of 128x96; .* 576x96"),
    "stretch": ({"grid": GRID._replace(stretch=True)}, "128x96, stretched to the full"),
    "dataset": ({"name": "made/otherwise"}, "trained on made/up, not on made/otherw"),
    "build": ({"pixel_mean": 31.0}, r"another build .*30\.000 there, 31\.000 here"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_run_on_other_data_is_refused(case, member, tmp_path):
    different, message = REFUSED[case]
    with pytest.raises(UserError, match=rf"config.ensemble: {member} .*{message}"):
        _check(_config(member), tmp_path, **different)


def test_a_run_trained_on_another_split_is_refused(member, tmp_path):
    config = _config(member)
    config.data.train_split = "test"
    with pytest.raises(UserError, match="on images that it was trained on"):
        _check(config, tmp_path)


def test_a_patch_classifier_is_refused(tmp_path):
    tiny_runs.write_run(tmp_path / "patch", task="patch")
    with pytest.raises(UserError, match="holds a patch classifier"):
        _check(_config(tmp_path / "patch"), tmp_path)


def test_what_is_no_finished_run_is_refused(member, tmp_path):
    (tmp_path / "empty").mkdir()
    for name, message in (("none", "no such directory"), ("empty", "holds no model")):
        with pytest.raises(UserError, match=f"config.ensemble: .*{name}.*{message}"):
            _check(_config(member, tmp_path / name), tmp_path)


def test_a_run_is_named_once_and_is_not_the_run_itself(member, tmp_path):
    with pytest.raises(UserError, match="there twice"):
        _check(_config(member, member.parent / "." / "member"), tmp_path)
    with pytest.raises(UserError, match="there twice"):
        _check(_config(member), member)


def _predictions(ids: str, probabilities: list[float]) -> Predictions:
    malignant = np.array(probabilities, np.float32)
    count = len(ids)
    return Predictions(
        image_ids=tuple(ids),
        patient_ids=tuple(ids),
        lateralities=("LEFT",) * count,
        views=("CC",) * count,
        probabilities=np.stack([1 - malignant, malignant], 1),
        labels=np.array([image == "a" for image in ids], np.int32),
        losses=np.zeros(count),
        malignant_classes=(1,),
    )


def test_the_mean_has_its_own_losses():
    mean = ensemble.average(
        [_predictions("abc", [0.5, 0.25, 0.0]), _predictions("abc", [0.0, 0.75, 1.0])]
    )
    assert mean.image_ids == ("a", "b", "c")
    assert mean.malignant_score.tolist() == [0.25, 0.5, 0.5]
    np.testing.assert_allclose(mean.losses, -np.log([0.25, 0.5, 0.5]), rtol=1e-6)
