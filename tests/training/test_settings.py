"""What of a run is refused before any work."""

import re

import pytest

from mammo_jax.common.errors import UserError
from mammo_jax.config import apply_preset, patch_config, set_top, whole_config
from mammo_jax.images.grid import Grid
from mammo_jax.training.settings import check_grid, open_data, read_settings


def make_config(data_dir, top):
    config = whole_config()
    config.data.data_dir = str(data_dir)
    config.data.dataset = "cbis_ddsm/paper_whole_h288"
    config.patch.pretrained = ""
    set_top(config, top)
    config.batch_size = 2
    return config


def test_a_heatmap_model_is_made_for_the_size_of_the_images(phantom_data):
    config = make_config(phantom_data, "heatmap_1x1")
    with pytest.raises(
        UserError, match=r"are 288x224, but .*image_size is \(1152, 896"
    ):
        open_data(read_settings(config))
    config.model.image_size = (288, 224)
    open_data(read_settings(config))


@pytest.mark.parametrize("top", ["residual_512-512-1024x2", "vgg_512x1"])
def test_an_all_convolutional_model_takes_every_size(phantom_data, top):
    config = make_config(phantom_data, top)
    assert open_data(read_settings(config)).image_shape == (288, 224)
    # But not where another one is asked for.
    config.model.image_size = (576, 448)
    with pytest.raises(UserError, match=r"are 288x224, but .*image_size is \(576, 448"):
        open_data(read_settings(config))


def test_a_model_of_mammograms_of_another_size_is_no_start(phantom_data):
    dataset = open_data(
        read_settings(make_config(phantom_data, "residual_512-512-1024x2"))
    )
    check_grid(Grid(288, 224, True), dataset, "the model in runs/a")
    with pytest.raises(
        UserError, match=r"runs/a saw mammograms of 576x448, .* 288x224"
    ):
        check_grid(Grid(576, 448, False), dataset, "the model in runs/a")


@pytest.mark.parametrize(
    ("part", "field", "value", "message"),
    [
        ("", "top.pool", 0, "config.model.top.pool is 0; it must be at least 1"),
        ("", "top.blocks", ("512x1",), "config.model.top.blocks: '512x1' is not a"),
        ("patch", "batch_norm", "no", "config.patch.model.batch_norm is 'no'; it must"),
    ],
)
def test_a_model_that_cannot_be_built_is_refused_before_any_work(
    part, field, value, message
):
    config = apply_preset(whole_config(), "phantom")
    (config.patch if part else config).update_from_flattened_dict(
        {f"model.{field}": value}
    )
    with pytest.raises(UserError, match=re.escape(message)):
        read_settings(config)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_heatmap_top_is_refused_one_image_to_normalise_by(batch_size):
    config = make_config("", "heatmap_1x1")
    config.batch_size = config.accum_steps = batch_size
    with pytest.raises(UserError, match=r"has 1 image, .* config.batch_size be"):
        read_settings(config)
    config.model.batch_norm = "frozen"
    read_settings(config)


@pytest.mark.parametrize(
    ("wiring", "key"),
    [("keras2017", "resnet50"), ("torchvision", "resnet50-timm")],
)
def test_the_weights_to_get_are_those_of_the_wiring(wiring, key, tmp_path):
    config = patch_config()
    config.pretrained = str(tmp_path / "none.safetensors")
    config.model.wiring = wiring
    with pytest.raises(UserError, match=f"--download={key} "):
        read_settings(config)


def test_the_weights_to_get_are_not_put_under_another_trunks_name():
    config = whole_config()
    config.model.trunk = config.patch.model.trunk = "vgg16"
    message = (
        "no weight file weights/resnet50.safetensors; get it with mammo-jax "
        "convert-weights --download=vgg16 --out=weights/vgg16.safetensors and set the "
        "field to weights/vgg16.safetensors, or"
    )
    with pytest.raises(UserError, match=re.escape(message)):
        read_settings(config)


@pytest.mark.parametrize("zoom", [("a", "b"), (1.0, "b"), (1.2, 0.8), (1.0,)])
def test_a_zoom_that_is_no_range_is_refused(zoom):
    config = apply_preset(whole_config(), "phantom")
    config.augment.zoom = zoom
    with pytest.raises(
        UserError, match=r"config.augment.zoom is .*it must be \(lowest"
    ):
        read_settings(config)


def test_a_patch_classifier_is_no_classifier_of_whole_images():
    config = apply_preset(whole_config(), "phantom")
    config.model.top.kind = "patch"
    with pytest.raises(UserError, match=r"config.model.top.kind is 'patch', but conf"):
        read_settings(config)
