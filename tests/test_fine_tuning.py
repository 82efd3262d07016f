"""Going on from a trained whole-image classifier on another set of images."""

import csv

import numpy as np
import pytest
import tiny_runs

from mammo_jax import config as base
from mammo_jax.common.errors import UserError
from mammo_jax.training.run import train_and_evaluate


def tiny(phantom_data, preset, **changes):
    """A whole-image run of two steps without a patch stage."""
    config = base.apply_preset(base.whole_config(), preset)
    config.update_from_flattened_dict(
        {
            "data.data_dir": str(phantom_data),
            "data.dataset": "cbis_ddsm/paper_whole_h288",
            "data.train_split": "train",
            "data.validation_split": "validation",
            "model.trunk": "vgg16",
            "model.width": 0.0625,
            "model.batch_norm": "frozen",
            "model.top.blocks": ("4-4-8x1",),
            "steps_per_epoch": 2,
            "stages.stage1.epochs": 1,
        }
        | changes
    )
    return config


@pytest.fixture(scope="module")
def trained(phantom_data, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "trained"
    config = tiny(
        phantom_data,
        "real",
        **{"data.pixel_mean": -1.0, "stages.stage2.epochs": 0},
    )
    train_and_evaluate(config, workdir)
    return workdir


def read_scores(workdir, role):
    with (workdir / "predictions" / f"{role}.csv").open(newline="") as file:
        return [float(row["malignant_pred"]) for row in csv.DictReader(file)]


def test_the_preset_is_the_paper_s_transfer():
    """Section 3.2: all layers at 1e-6, weight decay 0.01, 200 epochs."""
    config = base.apply_preset(base.whole_config(), "inbreast")

    (stage,) = config.stages.values()
    assert stage.epochs == 200
    assert set(stage.rates.values()) == {1e-6}
    assert stage.l2 == 0.01
    assert config.data.dataset == "inbreast/whole"
    assert config.data.test_split == config.data.validation_split == "validation"
    assert "patch" not in config


def test_it_starts_from_the_whole_classifier(phantom_data, trained, tmp_path):
    config = tiny(phantom_data, "inbreast", init_from=str(trained))

    metrics = train_and_evaluate(config, tmp_path / "tuned")

    assert metrics["test"] == metrics["validation"]
    before, after = (
        read_scores(run, "validation") for run in (trained, tmp_path / "tuned")
    )
    # Two steps of 1e-6 hardly change it.
    np.testing.assert_allclose(after, before, atol=1e-3)
    assert np.ptp(before) > 0
    assert after != before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.trunk": "vgg19"}, "expects VGG19.*classifier has VGG16"),
        ({"model.top.blocks": ("4-4-8x2",)}, r"missing \(top/block1/unit2/bn1/bias"),
    ],
)
def test_a_classifier_of_another_design_is_refused(
    phantom_data, trained, tmp_path, changes, message
):
    config = tiny(phantom_data, "inbreast", init_from=str(trained), **changes)

    with pytest.raises(UserError, match=f"config.init_from: .*{message}"):
        train_and_evaluate(config, tmp_path / "tuned")


def test_a_patch_classifier_of_another_wiring_is_refused(phantom_data, tmp_path):
    """Its weights have the same names and shapes."""
    tiny_runs.write_run(tmp_path / "p", "patch", trunk="resnet50", wiring="keras")
    changes = {"model.trunk": "resnet50", "init_from": str(tmp_path / "p")}
    config = tiny(phantom_data, "real", **{"data.pixel_mean": -1.0}, **changes)

    with pytest.raises(UserError, match=r"config.init_from: .*wiring is 'keras' there"):
        train_and_evaluate(config, tmp_path / "whole")


def test_the_preset_says_which_run_it_lacks(phantom_data, tmp_path):
    config = tiny(phantom_data, "inbreast", init_from=str(tmp_path / "nothing"))

    with pytest.raises(UserError, match=r"config.init_from: .*/nothing"):
        train_and_evaluate(config, tmp_path / "tuned")
