"""The authors' released models: against Keras, and what is refused."""

import csv
import html
import json
import shutil
from pathlib import Path

import cv2
import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from keras_released import Builder, save_keras2
from predicting import make_breast, read_table, run_predict

import mammo_jax
from mammo_jax.common.errors import UserError
from mammo_jax.common.run_directory import read_json
from mammo_jax.config import apply_preset, whole_config
from mammo_jax.models import variables
from mammo_jax.prediction.sharing import check_model, share_model
from mammo_jax.training.transfer import take_network
from mammo_jax.weights.model_directory import load_model, load_variables
from mammo_jax.weights.released import CITATION, LICENCE, convert_released
from scripts import convert_weights

# Keras 3 has not taken up NumPy 2's copy keyword in its variables.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)
RESIDUAL, VGG = ("residual", [(8, 8, 16, 2), (8, 8, 12, 2)]), ("vgg", [(12, 1), (8, 2)])
BEST = ("residual", [(512, 512, 1024, 2)] * 2)
# name: (trunk, image size, what follows, width, more)
SMALL = {
    "resnet50": ("resnet50", (128, 96), RESIDUAL, 1 / 8, {}),
    "cut": ("resnet50", (128, 96), RESIDUAL, 1 / 8, {"last_relu": False}),
    "vgg16": ("vgg16", (192, 128), VGG, 1 / 8, {}),
    "hybrid": ("vgg16", (128, 96), RESIDUAL, 1 / 8, {}),
    "softmax": ("vgg16", (192, 160), ("heatmap", 3, 2, (16, 8), "softmax"), 1 / 8, {}),
    "yaroslav": ("yaroslav", (448, 320), ("heatmap", 3, 2, (16, 8), "relu"), 1 / 8, {}),
}
FULL = {
    "resnet50": ("resnet50", (1152, 896), BEST, 1, {}),
    "vgg16": ("vgg16", (1152, 896), ("vgg", [(512, 1)] * 2), 1, {}),
    "hybrid": ("vgg16", (1152, 896), BEST, 1, {}),
    "yaroslav": (
        *("yaroslav", (1152, 896), ("heatmap", 3, 2, (16, 8), "relu"), 1, {}),
    ),
}


def build(trunk, size, top, width, more, seed=0):
    builder = Builder(seed, width=width)
    return builder.draw(builder.whole(trunk, size, *top, **more))


def grey_images(size, mean=52.18):
    """Two images of one channel, and the same of three, centred."""
    rng = np.random.default_rng(1)
    small = rng.uniform(0, 255, (2, 9, 7)).astype(np.float32)
    grey = np.stack([cv2.resize(image, size[::-1]) for image in small])
    grey += rng.normal(0, 10, grey.shape).astype(np.float32)
    grey[1] *= 0.3
    return (grey - np.float32(mean))[..., None]


def scores(directory, images):
    loaded = load_model(directory)
    model = variables.merge(loaded.graphdef, loaded.params, {})
    logits = jax.jit(lambda x: model(x, False))(jnp.repeat(jnp.asarray(images), 3, -1))
    return np.asarray(jax.nn.softmax(logits))


def assert_same(model, directory, size):
    images = grey_images(size)
    ours = scores(directory, images)
    channels = model.input_shape[-1]
    expected = model.predict_on_batch(np.repeat(images, channels, -1))
    # Where a score is all but certain, nothing would show.
    assert expected.max(1).min() < 0.99
    assert np.abs(expected[0] - expected[1]).max() > 1e-4
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", SMALL)
def test_whole_image_scores_equal_keras(name, tmp_path):
    trunk, size, top, width, _ = SMALL[name]
    model = build(*SMALL[name])
    save_keras2(model, tmp_path / "ddsm_model.h5")
    convert_released(tmp_path / "ddsm_model.h5", tmp_path / "out", None)
    assert_same(model, tmp_path / "out", size)
    config = load_model(tmp_path / "out").model_config
    assert (config.trunk, config.width, config.top.kind) == (trunk, width, top[0])
    cut = "keras2017_cut" if name == "cut" else "keras2017"
    assert trunk != "resnet50" or config.wiring == cut


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
def test_scores_at_the_paper_s_size_equal_keras(name, tmp_path):
    model = build(*FULL[name])
    save_keras2(model, tmp_path / "ddsm_model.h5")
    convert_released(tmp_path / "ddsm_model.h5", tmp_path / "out", None)
    assert_same(model, tmp_path / "out", FULL[name][1])


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("trunk", ["resnet50", "vgg19", "yaroslav"])
def test_patch_scores_equal_keras(trunk, dropout, tmp_path):
    builder = Builder(dropout=dropout, width=1 / 16)
    model = builder.draw(builder.patch(trunk))
    save_keras2(model, tmp_path / "ddsm_patches.h5")
    convert_released(tmp_path / "ddsm_patches.h5", tmp_path / "out", None)
    if not dropout:  # The networks are the same.
        assert_same(model, tmp_path / "out", (224, 224))
    loaded = load_model(tmp_path / "out")
    assert loaded.description.patch_size == 224
    assert loaded.description.malignant_classes == (2, 4)
    assert loaded.window == (3 if trunk == "yaroslav" else 7)
    assert loaded.model_config.wiring == "keras2017"


@pytest.fixture(scope="module")
def narrow():
    return build("resnet50", (128, 96), RESIDUAL, 1 / 16, {})


@pytest.fixture(scope="module")
def expected(narrow, tmp_path_factory):
    """The variables of the model as the plainest file gives them."""
    folder = tmp_path_factory.mktemp("expected")
    return converted(narrow, folder)


def converted(model, folder, **saving):
    save_keras2(model, folder / "ddsm.h5", **saving)
    convert_released(folder / "ddsm.h5", folder / "out", None)
    return values_of(folder / "out")


def values_of(directory):
    _, params, stats = load_variables(directory)
    return params | stats


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def fixed(text):
    """Bytes of a fixed length, which HDF5 has no room for where they are many."""
    return np.bytes_(text) if len(text) < 1000 else text.encode()


@pytest.mark.parametrize("as_text", [str, str.encode, fixed])
def test_attributes_may_be_bytes_or_text(as_text, narrow, expected, tmp_path):
    assert_equal(converted(narrow, tmp_path, as_text=as_text, training=False), expected)


def test_frozen_layers_stand_behind_the_trained_ones(narrow, expected, tmp_path):
    trunk = narrow.layers[1]
    for layer in trunk.layers[:40]:
        layer.trainable = False
    try:
        found = converted(narrow, tmp_path)
    finally:
        for layer in trunk.layers:
            layer.trainable = True
    assert_equal(found, expected)


def names_of(group, kind="weight_names"):
    """Returns an attribute's names as bytes."""
    texts = group.attrs[kind]
    return [one.encode() if isinstance(one, str) else bytes(one) for one in texts]


def test_a_trunk_stored_layer_by_layer_is_read_too(narrow, expected, tmp_path):
    save_keras2(narrow, tmp_path / "ddsm.h5")
    trunk = narrow.layers[1]
    with h5py.File(tmp_path / "ddsm.h5", "r+") as file:
        group = file["model_weights"][trunk.name]
        places = [v.path for layer in trunk.layers for v in layer.weights]
        names = [("/".join(place.split("/")[-2:]) + ":0").encode() for place in places]
        assert sorted(names) == sorted(names_of(group))
        assert names != names_of(group)
        group.attrs["weight_names"] = names
    convert_released(tmp_path / "ddsm.h5", tmp_path / "out", None)
    assert_equal(values_of(tmp_path / "out"), expected)


def test_a_trunk_made_for_patches_of_one_size_is_the_same(narrow, expected, tmp_path):
    def change(graph):
        inner = graph["config"]["layers"][1]["config"]["layers"][0]["config"]
        inner["batch_input_shape"] = [None, 224, 224, 3]

    assert_equal(converted(narrow, tmp_path, change=change), expected)


@pytest.fixture(scope="module")
def saved(narrow, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "ddsm_model.h5"
    save_keras2(narrow, path)
    return path


@pytest.fixture
def file(saved, tmp_path):
    return Path(shutil.copy(saved, tmp_path))


def layers_of(graph):
    for layer in graph["config"]["layers"]:
        yield layer
        if layer["class_name"] == "Model":
            yield from layers_of(layer)


def first(graph, kind):
    return next(layer for layer in layers_of(graph) if layer["class_name"] == kind)


def last(graph, kind):
    return [layer for layer in layers_of(graph) if layer["class_name"] == kind][-1]


def rename(kind):
    def change(graph):
        first(graph, "Activation")["class_name"] = kind

    return change


def setting(kind, field, value, find=first):
    def change(graph):
        find(graph, kind)["config"][field] = value

    return change


def unplug(graph):
    last(graph, "Add")["inbound_nodes"][0][0][0] = "nothing"


def call_twice(graph):
    layer = first(graph, "Conv2D")
    layer["inbound_nodes"] *= 2


def drop_the_sum(graph):
    """The last sum's layer takes one branch alone; the other leads nowhere."""
    layer = last(graph, "Add")
    layer["class_name"] = "Dropout"
    layer["inbound_nodes"][0] = layer["inbound_nodes"][0][:1]


def sequential(graph):
    graph["class_name"] = "Sequential"


def no_layers(graph):
    del graph["config"]["layers"]


def several(graph):
    graph["config"]["output_layers"] *= 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rename("Lambda"), r"is a Lambda, which no released model has"),
        (rename("ZeroPadding2D"), r"is a ZeroPadding2D, which no"),
        (setting("Activation", "activation", "elu"), "has activation 'elu'"),
        (setting("Activation", "activation", {"a": 1}), "has activation {'a': 1}"),
        (setting("BatchNormalization", "epsilon", 1e-5), "has epsilon 1e-05"),
        (setting("BatchNormalization", "axis", 1), "has axis 1"),
        (setting("Conv2D", "dilation_rate", [2, 2]), "has dilation_rate 2"),
        (setting("Conv2D", "data_format", "channels_first"), "has data_format"),
        (setting("Conv2D", "kernel_size", [7, 3]), "of an unknown form"),
        (setting("Conv2D", "padding", "same:8 relu"), "of an unknown form"),
        (setting("Conv2D", "strides", [1, 1]), "of no released model"),
        (setting("Conv2D", "use_bias", False), "has .*, not .'gamma'"),
        (setting("Dense", "units", 3, last), "it has 3 classes"),
        (setting("Dense", "activation", "linear", last), "of no released model"),
        (setting("InputLayer", "batch_input_shape", [None] * 4), "of NonexNone"),
        (setting("InputLayer", "batch_input_shape", [1, 10**9, 2, 3]), "1000000000"),
        (unplug, "takes 'nothing', which is no input"),
        (call_twice, "does not have 1 inputs, used once"),
        (drop_the_sum, "no chain|leads nowhere"),
        (sequential, "it is a Sequential"),
        (no_layers, r"model_config is damaged \(KeyError\('layers'\)"),
        (several, "several inputs or outputs"),
    ],
)
def test_another_graph_is_refused_by_name(change, message, file, tmp_path):
    edit_graph(file, change)
    refused(file, tmp_path, message)


def edit_graph(path, change):
    with h5py.File(path, "r+") as file:
        graph = json.loads(file.attrs["model_config"])
        change(graph)
        file.attrs["model_config"] = json.dumps(graph)


def refused(path, folder, message):
    with pytest.raises(UserError, match=message):
        convert_released(path, folder / "out", None)
    assert [entry.name for entry in folder.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "[" * 100_000, '{"class_name": "Model"}', "1" * 9999],
)
def test_hostile_json_is_refused(text, file, tmp_path):
    with h5py.File(file, "r+") as opened:
        opened.attrs["model_config"] = text
    refused(file, tmp_path, r"ddsm_model\.h5 is not a readable")


def test_a_graph_of_more_text_than_any_is_refused(file, tmp_path):
    with h5py.File(file, "r+") as opened:
        opened.attrs["model_config"] = " " * 4_000_001
    refused(file, tmp_path, "more than 4000000 characters")


def test_a_graph_whose_branches_double_at_every_step_is_refused_at_once(file, tmp_path):
    def change(graph):
        layers, node = graph["config"]["layers"], {}
        (image,) = (one for one in layers if one["class_name"] == "InputLayer")
        names = [image["name"], "a", "b"]
        layers[:] = [image]
        for name, source in (("a", names[0]), ("b", names[0])):
            calls = [[[source, 0, 0, node]]]
            layers.append(
                {"name": name, "class_name": "Flatten", "config": {}}
                | {"inbound_nodes": calls}
            )
        for number in range(600):
            calls = [[[names[-1], 0, 0, node], [names[-2], 0, 0, node]]]
            names.append(f"sum{number}")
            layers.append(
                {"name": names[-1], "class_name": "Add", "config": {}}
                | {"inbound_nodes": calls}
            )
        graph["config"]["output_layers"] = [[names[-1], 0, 0]]

    edit_graph(file, change)
    refused(file, tmp_path, "no chain")


def remove(root, trunk, top):
    del root[trunk]["conv1/kernel:0"]


def unname(root, trunk, top):
    group = root[top]
    group.attrs["weight_names"] = names_of(group)[:-1]


def forget(root, trunk, top):
    group = root[top]
    *names, last_name = names_of(group)
    del group[last_name]
    group.attrs["weight_names"] = names


def add(root, trunk, top):
    group = root[top]
    group["more/kernel:0"] = np.zeros(2, "f4")
    group.attrs["weight_names"] = [*names_of(group), b"more/kernel:0"]


def add_layer(root, trunk, top):
    group = root.create_group("more")
    group["kernel:0"] = np.zeros(2, "f4")
    group.attrs["weight_names"] = [b"kernel:0"]
    root.attrs["layer_names"] = [*names_of(root, "layer_names"), b"more"]


def replace(value):
    def change(root, trunk, top):
        del root[trunk]["conv1/bias:0"]
        root[trunk]["conv1/bias:0"] = value

    return change


def swap(root, trunk, top):
    names = names_of(root[trunk])
    names[:2] = names[1::-1]
    root[trunk].attrs["weight_names"] = names


def theano(root, trunk, top):
    root.attrs["backend"] = b"theano"


def no_weights(root, trunk, top):
    del root.file["model_weights"]


def virtual(root, trunk, top):
    del root[trunk]["conv1/bias:0"]
    root[trunk].create_dataset("conv1/bias:0", (1 << 40,), "f4", chunks=(1024,))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove, "not a readable"),
        (unname, "no layer names its array .*dense"),
        (forget, "dense.* has nothing, not .'bias', .2,"),
        (add, r"has a surplus \('kernel', \(2,\)\)"),
        (add_layer, r"its layer more has a surplus \('kernel', \(2,\)\)"),
        (replace(np.zeros(5, "f4")), r"conv1 has \('bias', \(5,\)\), not"),
        (replace(np.full(4, np.nan, "f4")), "conv1/bias is not of finite"),
        (replace(np.zeros(4, "i4")), "conv1/bias is not of finite"),
        (swap, r"conv1 has \('bias', \(4,\)\), not \('kernel'"),
        (theano, "back end theano, not of TensorFlow"),
        (no_weights, "holds no whole model"),
        (virtual, "more than the file"),
    ],
)
def test_arrays_that_the_graph_does_not_ask_for_are_refused(
    change, message, file, narrow, tmp_path
):
    with h5py.File(file, "r+") as opened:
        change(opened["model_weights"], narrow.layers[1].name, narrow.layers[-1].name)
    refused(file, tmp_path, message)


@pytest.mark.parametrize("share", [0.3, 0.99])
def test_a_truncated_file_is_refused(share, file, tmp_path):
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    refused(file, tmp_path, "not a readable model of Keras 2")


def test_a_damaged_optimiser_state_is_not_read(file, expected, tmp_path):
    with h5py.File(file, "r+") as opened:
        del opened["optimizer_weights"]
        opened["optimizer_weights"] = h5py.ExternalLink("gone.h5", "/gone")
    convert_released(file, tmp_path / "out", None)
    assert_equal(values_of(tmp_path / "out"), expected)


def test_the_data_set_is_that_of_the_file_s_name_or_of_the_option(file, tmp_path):
    convert_released(file, tmp_path / "ddsm", None)
    found = load_model(tmp_path / "ddsm").description
    assert (found.pixel_mean, found.stretch, found.dataset) == (52.18, False, "DDSM")
    with pytest.raises(UserError, match=r"is of ddsm; leave --trained_on out"):
        convert_released(file, tmp_path / "out", "inbreast")
    other = file.rename(tmp_path / "1152x896_s10.h5")
    with pytest.raises(UserError, match=r"add --trained_on=ddsm or --trained_on=inbr"):
        convert_released(other, tmp_path / "out", None)
    convert_released(other, tmp_path / "inbreast", "inbreast")
    found = load_model(tmp_path / "inbreast").description
    assert (found.pixel_mean, found.stretch) == (44.33, True)
    assert (found.height, found.width, found.phantoms) == (128, 96, False)


def test_a_directory_that_is_there_stays(file, tmp_path):
    mine = tmp_path / "out" / "mine.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    with pytest.raises(UserError, match="not empty; name a new"):
        convert_released(file, tmp_path / "out", None)
    assert [*mine.parent.iterdir()] == [mine]


@pytest.fixture(scope="module")
def released(saved):
    convert_released(saved, saved.parent / "released", None)
    return saved.parent / "released"


def test_a_released_model_is_passed_on_under_its_own_licence(released, tmp_path):
    assert share_model(released, tmp_path / "out", None) == "cc-by-nc-sa-4.0"
    check_model(tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert card.startswith("---\nlicense: cc-by-nc-sa-4.0\n")
    assert CITATION in card


def test_licence_and_citation_are_in_every_file(released):
    credit = read_json(released / "model.json")["credit"]
    assert LICENCE in credit
    assert CITATION in credit
    found = read_json(released / "metrics.json")["released"]
    assert found["licence"] == LICENCE
    assert len(found["sha256"]) == 64
    assert mammo_jax.load(released).description.credit == credit


def test_a_transfer_takes_the_network(released, tmp_path):
    config = apply_preset(whole_config(), "inbreast")
    config.init_from = str(released)
    taken = take_network(config, tmp_path).model
    assert (taken.trunk, taken.width) == ("resnet50", 1 / 16)
    assert taken.top.blocks == ("8-8-16x2", "8-8-12x2")


def test_every_report_names_licence_and_citation(released, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for seed in range(2):
        cv2.imwrite(str(pictures / f"{seed}.png"), make_breast(seed))
    scores = tmp_path / "scores"
    assert run_predict(f"--model={released}", f"--out={scores}", pictures) == 0
    rows = list(read_table(scores / "predictions.csv").values())
    for label, row in enumerate(rows):
        row["malignant_label"] = label
    labelled = scores / "labelled.csv"
    with labelled.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    mammo_jax.evaluate_predictions(labelled).write_html(tmp_path / "report.html")
    for page in (scores / "report.html", tmp_path / "report.html"):
        text = html.unescape(page.read_text())
        assert LICENCE in text
        assert CITATION in text


def run_convert(*arguments):
    convert_weights.convert(convert_weights.parse_arguments([*map(str, arguments)]))


def test_the_command_says_what_it_found(file, tmp_path, capsys):
    run_convert(f"--released={file}", f"--out={tmp_path / 'out'}")
    printed = capsys.readouterr().out
    assert "network: resnet50 (keras2017), top: residual" in printed
    assert "images: DDSM, 128x96, mean 52.18" in printed
    assert f"licence: {LICENCE}" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--released=ddsm.h5", "--arch=vgg16"], "leave --arch out"),
        (["--source=a.h5", "--arch=vgg16", "--trained_on=ddsm"], "--trained_on is of"),
        (["--released=ddsm.h5"], "there is no weight file"),
    ],
)
def test_wrong_use_is_one_clear_error(arguments, message, tmp_path):
    with pytest.raises(UserError, match=message):
        run_convert(*arguments, f"--out={tmp_path / 'out'}")
