"""What of a run is refused before any work."""

import re

import pytest

from mammo_jax import config as base
from mammo_jax.common.errors import UserError
from mammo_jax.models import TOPS
from mammo_jax.training import experiment


def make_config(data_dir, top):
    config = base.whole_config()
    config.data.data_dir = str(data_dir)
    config.data.dataset = "cbis_ddsm/paper_whole_h288"
    config.model.top.update(TOPS[top])
    return config


def test_a_heatmap_model_is_made_for_the_size_of_the_images(phantom_data):
    config = make_config(phantom_data, "heatmap_1x1")
    with pytest.raises(
        UserError, match=r"are 288x224, but .*image_size is \(1152, 896"
    ):
        experiment.open_data(config)
    config.model.image_size = (288, 224)
    experiment.open_data(config)


@pytest.mark.parametrize("top", ["residual_512-512-1024x2", "vgg_512x1"])
def test_an_all_convolutional_model_takes_every_size(phantom_data, top):
    assert experiment.open_data(make_config(phantom_data, top)).image_shape == (
        288,
        224,
    )


@pytest.mark.parametrize(
    ("part", "field", "value", "message"),
    [
        ("", "top.pool", 0, "config.model.top.pool is 0; it must be at least 1"),
        ("", "top.blocks", ("512x1",), "config.model.top.blocks: '512x1' is not a"),
        ("patch", "trunk", "resnet18", "config.patch.model.trunk is 'resnet18'"),
    ],
)
def test_a_model_that_cannot_be_built_is_refused_before_any_work(
    part, field, value, message
):
    config = base.apply_preset(base.whole_config(), "phantom")
    config, name = (config.patch, "config.patch") if part else (config, "config")
    config.update_from_flattened_dict({f"model.{field}": value})
    with pytest.raises(UserError, match=re.escape(message)):
        experiment.check_config(config, name)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_heatmap_top_is_refused_one_image_to_normalise_by(batch_size):
    config = base.whole_config()
    base.set_top(config, "heatmap_1x1")
    config.batch_size = config.accum_steps = batch_size
    with pytest.raises(UserError, match=r"has 1 image, .* twice config.accum_steps"):
        experiment.check_config(config, "config")
    config.model.batch_norm = "frozen"
    experiment.check_config(config, "config")


@pytest.mark.parametrize(
    ("wiring", "key"),
    [("keras2017", "resnet50"), ("torchvision", "resnet50-torchvision")],
)
def test_the_weights_to_get_are_those_of_the_wiring(wiring, key, tmp_path):
    config = base.patch_config()
    config.pretrained = str(tmp_path / "none.safetensors")
    config.model.wiring = wiring
    with pytest.raises(UserError, match=f"--download={key} "):
        experiment.check_config(config)
