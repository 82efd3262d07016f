"""Class maps of a model in training, and flips in its evaluation."""

from pathlib import Path

import numpy as np
import pytest
import scipy.special
import tiny_runs
from ml_collections import ConfigDict

from mammo_jax.models import class_map, variables
from mammo_jax.models.initial_values import draw_values
from mammo_jax.models.network_input import network_input
from mammo_jax.training.experiment import open_experiment
from mammo_jax.training.shown_class_maps import make_shown_map


def _experiment(phantom_data: Path, task: str, **fields: object):
    config: ConfigDict = tiny_runs.make_config(task, image_size=(288, 224))
    name = {"whole": "paper_whole_h288", "patch": "paper_s1_h288"}[task]
    config.data.data_dir = str(phantom_data)
    config.data.dataset = f"cbis_ddsm/{name}"
    config.batch_size = config.accum_steps = 1
    config.update(fields)
    experiment = open_experiment(config)
    values = draw_values(experiment.settings.model, 0, *experiment.abstract)
    state = experiment.initial_state(*values)
    return experiment, state.params, state.batch_stats


def _logits(experiment, params, stats, images: np.ndarray) -> np.ndarray:
    model = variables.merge(experiment.graphdef, params, stats)
    inputs = network_input(images, experiment.pixel_mean)
    return np.asarray(model(inputs, train=False))


@pytest.mark.parametrize("task", ["whole", "patch"])
def test_a_map_covers_the_picture_and_agrees_with_the_model(phantom_data, task):
    experiment, params, stats = _experiment(phantom_data, task)
    image = experiment.source("validation")[0]["image"]
    grid = image.shape
    found = make_shown_map(experiment)(params, stats, image, grid)
    assert found.shape == grid
    logits = _logits(experiment, params, stats, image[None])
    malignant = experiment.settings.task.malignant_classes
    if task == "whole":
        # The pixels of a position's share of the image have the map's mean.
        expected = class_map.log_odds(logits[0], malignant) / np.log(50)
        assert np.abs(found).max() < 1
        positions = found.mean()
        assert positions == pytest.approx(float(expected), abs=0.02)
    else:
        assert grid == (56, 56)
        # VGG16 has one position in 56 pixels: the patch's own probability.
        share = scipy.special.softmax(logits)[0, list(malignant)].sum()
        np.testing.assert_allclose(found, share, rtol=1e-4)


def test_four_flips_are_averaged_where_asked_for(phantom_data):
    experiment, params, stats = _experiment(phantom_data, "whole", tta=True)
    batch = next(experiment.evaluation_batches("validation"))
    shares, losses = experiment.eval_step(
        params, stats, experiment.evaluation_arrays(batch)
    )
    expected = np.mean(
        [
            scipy.special.softmax(
                _logits(experiment, params, stats, np.flip(batch["image"], axes)), -1
            )
            for axes in ((), (1,), (2,), (1, 2))
        ],
        axis=0,
    )
    np.testing.assert_allclose(shares, expected, rtol=1e-5)
    true = expected[np.arange(len(expected)), batch["label"]]
    np.testing.assert_allclose(losses, -np.log(true), rtol=1e-4)
    alone = scipy.special.softmax(
        _logits(experiment, params, stats, batch["image"]), -1
    )
    assert np.abs(alone - expected).max() > 1e-7
