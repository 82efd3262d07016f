import importlib.util
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from library_weights import library_weights, write_legacy_keras

from mammo_jax.common.errors import UserError
from mammo_jax.models import abstract_model, build_model, read_model_config, variables
from mammo_jax.weights.conversion import put_values
from mammo_jax.weights.pretrained import (
    convert,
    convert_file,
    load_trunk,
    save_trunk,
    trunk_shapes,
)
from mammo_jax.weights.published import PUBLISHED, download_name, verify_checksum
from mammo_jax.weights.weight_files import read_weights
from mammo_jax.weights.weight_names import SCHEMES


def torch_scheme(architecture):
    return next(s for s in SCHEMES[architecture] if s.library.transpose)


@pytest.fixture(scope="module")
def vgg_source(tmp_path_factory):
    """VGG16 weights with torchvision's names, in a safetensors file."""
    path = tmp_path_factory.mktemp("weights") / "vgg16.safetensors"
    weights = library_weights("vgg16", torch_scheme("vgg16"))
    weights["classifier.0.bias"] = np.zeros(3, np.float32)
    safetensors.numpy.save_file(weights, path)
    return path


CASES = [(name, scheme) for name, schemes in SCHEMES.items() for scheme in schemes]


@pytest.mark.parametrize(
    ("architecture", "scheme"), CASES, ids=[f"{n}-{s.title[:12]}" for n, s in CASES]
)
def test_every_scheme_is_recognised_and_fills_every_weight(architecture, scheme):
    converted, found = convert(architecture, library_weights(architecture, scheme))
    assert found is scheme
    shapes = trunk_shapes(architecture, scheme.wiring)
    assert {name: value.shape for name, value in converted.items()} == shapes
    values = [value.flat[0] for value in converted.values()]
    assert values == [1 + index / 8 for index in range(len(shapes))]


def test_all_problems_of_a_file_are_reported_together():
    weights = library_weights("vgg16", torch_scheme("vgg16"))
    del weights["features.0.bias"]
    weights["features.99.weight"] = np.zeros(1, np.float32)
    weights["features.2.bias"] = np.zeros(7, np.float32)
    with pytest.raises(UserError) as caught:
        convert("vgg16", weights)
    message = str(caught.value)
    assert "1 missing (features.0.bias)" in message
    assert "1 unexpected (features.99.weight)" in message
    assert "1 misshapen (features.2.bias is (7,), not (64,))" in message


def test_weights_of_another_architecture_are_refused():
    weights = library_weights("vgg19", torch_scheme("vgg19"))
    with pytest.raises(UserError, match=r"not the weights of a vgg16: .* unexpected"):
        convert("vgg16", weights)
    with pytest.raises(UserError, match=r"not the weights of a resnet50: expected"):
        convert("resnet50", weights)


def test_converted_file_carries_its_provenance(vgg_source, tmp_path):
    out = tmp_path / "new" / "trunk.safetensors"
    convert_file("vgg16", vgg_source, out)
    with safetensors.safe_open(out, framework="numpy") as file:
        metadata = file.metadata()
    assert metadata["architecture"] == "vgg16"
    assert metadata["source"] == "vgg16.safetensors"
    assert len(metadata["source_sha256"]) == 64
    assert not list(out.parent.glob("*.part"))


def test_loading_scales_the_first_kernel_to_inputs_of_0_to_255(vgg_source, tmp_path):
    out = tmp_path / "trunk.safetensors"
    convert_file("vgg16", vgg_source, out)
    trunk = load_trunk(out, "vgg16", "keras2017")
    raw, _ = convert("vgg16", read_weights(vgg_source))
    first = "trunk/block1/conv1/kernel"
    std = np.array([0.229, 0.224, 0.225]) * 255
    np.testing.assert_allclose(trunk[first], raw[first] / std[:, np.newaxis], rtol=1e-6)
    unscaled = "trunk/block1/conv2/kernel"
    np.testing.assert_array_equal(trunk[unscaled], raw[unscaled])


def test_weights_of_another_wiring_are_refused_by_name(tmp_path):
    scheme = torch_scheme("resnet50")
    source = tmp_path / "r.safetensors"
    safetensors.numpy.save_file(library_weights("resnet50", scheme), source)
    convert_file("resnet50", source, tmp_path / "trunk.safetensors")
    with pytest.raises(
        UserError,
        match="holds weights of resnet50 torchvision, the model expects resnet50 keras",
    ):
        load_trunk(tmp_path / "trunk.safetensors", "resnet50", "keras")


def test_ported_trunk_replaces_the_trunk_and_nothing_else(vgg_source, tmp_path):
    out = tmp_path / "trunk.safetensors"
    convert_file("vgg16", vgg_source, out)
    trunk = load_trunk(out, "vgg16", "")
    config = {"trunk": "vgg16", "top": {"kind": "patch"}, "num_classes": 5}
    _, params, stats = variables.split(build_model(read_model_config(config), 0))
    new, _ = put_values(trunk, params, stats)
    assert new.keys() == params.keys()
    for name in params:
        source = trunk if name.startswith("trunk/") else params
        assert bool((new[name] == source[name]).all())


def test_the_gentle_stem_takes_the_same_file_and_sees_the_same_at_twice_the_resolution(
    tmp_path,
):
    rng = np.random.default_rng(0)
    source = tmp_path / "resnet50.safetensors"
    weights = {
        name: rng.uniform(0.5, 1.5, value.shape).astype(np.float32)
        for name, value in library_weights("resnet50", torch_scheme("resnet50")).items()
    }
    safetensors.numpy.save_file(weights, source)
    convert_file("resnet50", source, tmp_path / "trunk.safetensors")
    trunk = load_trunk(tmp_path / "trunk.safetensors", "resnet50", "torchvision")
    images = jnp.asarray(rng.normal(0, 60, (1, 64, 64, 3)), jnp.float32)

    def first_layers(stem):
        """Up to the first convolution of stage 2; the size of the trunk's features."""
        config = {"wiring": "torchvision", "stem": stem, "top": {"kind": "patch"}}
        model = build_model(read_model_config(config), 0)
        graphdef, params, stats = variables.split(model)
        net = variables.merge(graphdef, *put_values(trunk, params, stats)).trunk
        x = net.bn1(net.conv1(images), False)
        pooled = net.pool(x)
        features = jax.eval_shape(lambda images: net(images, False), images)
        return x, pooled, net.stage2.unit1.conv1(pooled), features.shape

    standard, gentle = first_layers("standard"), first_layers("gentle")
    np.testing.assert_array_equal(gentle[0], standard[0])
    for fine, coarse in zip(gentle[1:3], standard[1:3], strict=True):
        assert fine.shape[1:3] == (32, 32)
        assert coarse.shape[1:3] == (16, 16)
        np.testing.assert_allclose(fine[:, ::2, ::2], coarse, rtol=1e-4, atol=1e-4)
    assert gentle[3] == standard[3] == (1, 2, 2, 2048)


def test_ported_trunk_is_refused_by_a_narrower_model(vgg_source, tmp_path):
    out = tmp_path / "trunk.safetensors"
    convert_file("vgg16", vgg_source, out)
    with pytest.raises(UserError, match=r"width 1\.0.*26 misshapen"):
        load_trunk(out, "vgg16", "", 0.1)


def test_a_file_under_a_published_name_must_have_its_checksum(tmp_path):
    weights = library_weights("vgg16", SCHEMES["vgg16"][0])
    path = tmp_path / PUBLISHED["vgg16"].file_name
    write_legacy_keras(weights, path)
    with pytest.raises(UserError, match="expected 6d6bbae143d832006294945121d1f1fc"):
        convert_file("vgg16", path, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_checksums_may_be_given_by_their_first_digits(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    verify_checksum(path, "sha256:ba7816bf")  # FIPS 180-4, example "abc"
    verify_checksum(path, "md5:900150983cd24fb0d6963f7d28e17f72")  # RFC 1321
    with pytest.raises(UserError, match="download it again"):
        verify_checksum(path, "sha256:00000000")


def test_published_checksums_are_those_that_keras_and_torchvision_state():
    keras = Path(importlib.util.find_spec("keras").origin).parent
    for name, module in [
        ("resnet50-keras", "resnet"),
        ("vgg16", "vgg16"),
        ("vgg19", "vgg19"),
    ]:
        text = (keras / "src" / "applications" / f"{module}.py").read_text()
        digest = PUBLISHED[name].checksum.removeprefix("md5:")
        assert re.fullmatch("[0-9a-f]{32}", digest)
        assert digest in text
    # torch.hub checks a file against the digits in its name.
    for published in PUBLISHED.values():
        if "pytorch.org" in published.url:
            digits = published.file_name.removesuffix(".pth").rpartition("-")[2]
            assert published.checksum == f"sha256:{digits}"


def test_every_trunk_and_wiring_has_weights_to_download():
    found = {
        (name, scheme.wiring): PUBLISHED[download_name(name, scheme.wiring)]
        for name, schemes in SCHEMES.items()
        for scheme in schemes
    }
    assert len(found) == 5
    for (name, wiring), published in found.items():
        assert (published.architecture, published.wiring) == (name, wiring)
    assert download_name("vgg16", "keras2017") == "vgg16"


@pytest.mark.parametrize("dtype", ["i8", "c8", "S3"])
def test_weights_that_are_no_fractions_are_refused_by_name(dtype):
    weights = library_weights("vgg16", torch_scheme("vgg16"))
    weights["features.0.bias"] = np.zeros(64, dtype)
    with pytest.raises(UserError, match=r"1 of no floating type \(features.0.bias"):
        convert("vgg16", weights)


def test_bfloat16_weights_become_float32():
    weights = library_weights("vgg16", torch_scheme("vgg16"))
    exact = {name: np.ones(value.shape, "f4") for name, value in weights.items()}
    half = {name: value.astype(ml_dtypes.bfloat16) for name, value in exact.items()}
    for name, value in convert("vgg16", half)[0].items():
        assert value.dtype == np.float32, name
        assert (value == 1).all(), name


@pytest.fixture(scope="module")
def narrow_trunk():
    """Variables and metadata of a converted file."""
    shapes = trunk_shapes("vgg16", "", 1 / 16)
    values = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    metadata = {
        "format": "mammo_jax trunk 1",
        "architecture": "vgg16",
        "wiring": "",
        "input_std": "[1.0, 1.0, 1.0]",
        "source": "made up",
    }
    return values, metadata


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("input_std", None),
        *[("input_std", text) for text in ("x", "[1]", "[]", "null", "[1, 2]")],
        *[("input_std", text) for text in ("[0, 1, 1]", "[NaN, 1, 1]", "[-1, 1, 1]")],
        # Zero and infinite in float32.
        *[("input_std", f"[1, 1, {number}]") for number in ("1e-320", "1" + "0" * 400)],
        *[("input_std", text) for text in ("[1, 1, 1, 1]", '"abc"', '{"a": 1}')],
        *[("input_std", text) for text in ("[[1], [1], [1]]", '["1", "1", "1"]')],
    ],
)
def test_damaged_metadata_is_said_to_be_damaged(field, value, narrow_trunk, tmp_path):
    values, metadata = narrow_trunk
    metadata = {**metadata, field: value}
    if value is None:
        del metadata[field]
    safetensors.numpy.save_file(values, tmp_path / "t.safetensors", metadata)
    with pytest.raises(UserError, match=f"is damaged: its {field}"):
        load_trunk(tmp_path / "t.safetensors", "vgg16", "", 1 / 16)


@pytest.mark.parametrize("field", ["architecture", "wiring"])
def test_weights_of_no_known_trunk_are_refused(field, narrow_trunk, tmp_path):
    values, metadata = narrow_trunk
    del (metadata := dict(metadata))[field]
    safetensors.numpy.save_file(values, tmp_path / "t.safetensors", metadata)
    with pytest.raises(UserError, match=r"holds weights of .*unknown.* expects vgg16"):
        load_trunk(tmp_path / "t.safetensors", "vgg16", "", 1 / 16)


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value.astype(np.int32),
        lambda value: value.astype(np.float16),
        lambda value: np.full_like(value, np.nan),
    ],
)
def test_damaged_values_are_said_to_be_damaged(change, narrow_trunk, tmp_path):
    values, metadata = narrow_trunk
    name = "trunk/block3/conv2/kernel"
    values = {**values, name: change(values[name])}
    safetensors.numpy.save_file(values, tmp_path / "t.safetensors", metadata)
    with pytest.raises(UserError, match=r"is damaged: trunk/block3/conv2/kernel"):
        load_trunk(tmp_path / "t.safetensors", "vgg16", "", 1 / 16)


@pytest.mark.parametrize("width", [1.5, 2, 0.125, 1e-5, 1 / 3])
def test_a_trunk_of_any_width_is_written_and_read(width, tmp_path):
    config = {"trunk": "vgg16", "width": width, "top": {"kind": "patch"}}
    model = abstract_model(read_model_config(config))
    _, params, stats = variables.split(model)
    values = {name: np.zeros(v.shape, v.dtype) for name, v in (params | stats).items()}
    file = tmp_path / "t.safetensors"
    save_trunk("vgg16", "", values, "made up", file)
    loaded = load_trunk(file, "vgg16", "", width)
    assert loaded.keys() == trunk_shapes("vgg16", "").keys()


@pytest.mark.parametrize("written_at", [32, 16])
def test_a_trunk_of_a_smaller_stride_takes_the_stages_that_it_has(written_at, tmp_path):
    config = {"trunk": "vgg16", "width": 1 / 16, "top": {"kind": "patch"}}
    model = build_model(read_model_config(config | {"stride": written_at}), 0)
    _, params, stats = variables.split(model)
    file = tmp_path / "t.safetensors"
    save_trunk("vgg16", "", params | stats, "made up", file)
    loaded = load_trunk(file, "vgg16", "", 1 / 16, 16)
    shapes = trunk_shapes("vgg16", "", 1 / 16, 16)
    assert {name: value.shape for name, value in loaded.items()} == shapes
    assert not any("block5" in name for name in loaded)
    np.testing.assert_array_equal(
        loaded["trunk/block4/conv3/kernel"], params["trunk/block4/conv3/kernel"]
    )


def test_a_trunk_without_its_last_stage_does_not_fill_one_that_has_it(tmp_path):
    values = {n: np.zeros(s) for n, s in trunk_shapes("vgg16", "", 1 / 16, 16).items()}
    file = tmp_path / "t.safetensors"
    save_trunk("vgg16", "", values, "made up", file)
    with pytest.raises(UserError, match=r"6 missing .trunk/block5"):
        load_trunk(file, "vgg16", "", 1 / 16)
