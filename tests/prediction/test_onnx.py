"""Exports as ONNX, in ONNX Runtime. They need jax2onnx: make test-peers."""

import dataclasses
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import pytest
from doc_pages import ROOT, blocks
from ml_collections import ConfigDict
from predicting import make_breast, read_scores, run_predict
from tiny_runs import HEIGHT, MEAN, WIDTH, make_config, write_run

from mammo_jax.common.run_directory import read_json, write_json
from mammo_jax.datasets.labels import PATCH_CLASSES, WHOLE_CLASSES
from mammo_jax.models import build_model, read_model_config, variables
from mammo_jax.models.class_map import log_odds
from mammo_jax.models.classifier import Classifier
from mammo_jax.models.compiling import jit_network
from mammo_jax.models.folding import fold
from mammo_jax.models.network_input import network_input
from mammo_jax.prediction.export import export_models
from mammo_jax.prediction.onnx_export import OPSET
from mammo_jax.prediction.scorer import make_step
from mammo_jax.weights.model_description import FILM, Description
from mammo_jax.weights.model_directory import LoadedModel
from paper.rows import by_name, load_rows, row_config

onnx = pytest.importorskip("onnx", reason="run by `make test-peers`")
onnxruntime = pytest.importorskip("onnxruntime", reason="run by `make test-peers`")
ReferenceEvaluator = pytest.importorskip("onnx.reference").ReferenceEvaluator

TOLERANCE = 1e-4
ROWS = by_name(load_rows(ROOT / "configs" / "paper_rows.py"))


PAPER_SIZE, HALF_SIZE = (1152, 896), (576, 448)


def networks() -> dict[str, tuple[str, ConfigDict]]:
    """The task and network of the rows, each network once."""
    found: dict[str, tuple[str, str, ConfigDict]] = {}
    for name, row in ROWS.items():
        if row.kind not in ("patch", "whole") or row.original:
            continue
        model = row_config(row, ROWS).model
        if model.compute_dtype == "float32":  # The others are refused.
            found.setdefault(model.to_json(), (name, row.kind, model))
    return {name: (kind, model) for name, kind, model in found.values()}


def sizes() -> dict[str, tuple[int, int]]:
    """The paper's size for one network of each trunk and kind of top, half for others.

    A network of the paper's size takes half a minute.
    """
    firsts: dict[tuple[str, str], str] = {}
    for name, (_, model) in NETWORKS.items():
        firsts.setdefault((model.trunk, model.top.kind), name)
    return {n: PAPER_SIZE if n in firsts.values() else HALF_SIZE for n in NETWORKS}


NETWORKS = networks()
SIZES = sizes()


def random_model(kind: str, fields: ConfigDict, size: tuple[int, int]) -> LoadedModel:
    """A network of random values."""
    config = read_model_config({**fields.to_dict(), "image_size": size})
    network = build_model(config, seed=0)
    is_patch = kind == "patch"
    graphdef, params = fold(*variables.split(network))
    return LoadedModel(
        config=ConfigDict(),
        model_config=config,
        window=config.top.window if config.top.kind in ("patch", "heatmap") else None,
        graphdef=graphdef,
        params=params,
        description=Description(
            task=kind,
            dataset="made/up",
            class_names=PATCH_CLASSES if is_patch else WHOLE_CLASSES,
            malignant_classes=(2, 4) if is_patch else (1,),
            pixel_mean=MEAN,
            height=size[0],
            width=size[1],
            stretch=False,
            intent=FILM,
            patch_size=224 * is_patch,
        ),
    )


def images_of(size: tuple[int, int], count: int) -> np.ndarray:
    """Breasts, each darker than the one before it."""
    return np.stack([make_breast(seed, size) >> seed for seed in range(count)])


def spread_scores(model: LoadedModel, images: np.ndarray) -> LoadedModel:
    """Scales and shifts the last layer until the log-odds are about -1 to 1."""
    malignant = list(model.description.malignant_classes)
    grey = network_input(images, MEAN)

    def merge(params) -> Classifier:
        return variables.merge(model.graphdef, params, {})

    features = jit_network(lambda x: merge(model.params).features(x, False))(grey)

    def odds(params) -> np.ndarray:
        with mock.patch.object(Classifier, "features", return_value=features):
            whole, positions = merge(params).class_map(grey, model.window)
        at_positions = whole is None
        found = log_odds(positions if at_positions else whole, malignant)
        return np.asarray(found.max((1, 2)) if at_positions else found)

    params = dict(model.params)
    last = "head" if model.window and "top/output/bias" not in params else "top/output"
    kernels = [f"{last}/kernel", "top/shortcut/kernel"]
    factor = 2 / np.ptp(odds(params))
    for name in params.keys() & {*kernels}:
        params[name] = params[name] * factor
    bias = np.array(params[f"{last}/bias"])
    middle = odds(params).mean()
    bias[malignant] -= middle
    params[f"{last}/bias"] = bias
    return dataclasses.replace(model, params=params)


def our_scores(model: LoadedModel, images: np.ndarray, *, tta: bool) -> np.ndarray:
    step = jit_network(make_step(model, tta=tta, at_once=True))
    return np.asarray(step(model.params, {}, images).scores).mean(0)


def onnx_scores(path: Path, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (scores,) = session.run(["scores"], {"images": images})
    assert scores.dtype == np.float32
    return scores


def assert_equal_scores(model, images, path, *, tta=False) -> None:
    height_width = export_models(path, [model], tta=tta, credit="")
    assert height_width == images.shape[1:]
    expected = our_scores(model, images, tta=tta)
    found = onnx_scores(path, images)
    print(
        f"scores {expected.min():.3f} to {expected.max():.3f}, "
        f"furthest apart {np.abs(found - expected).max():.1e}"
    )
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(("name", "size"), SIZES.items())
def test_every_network_of_the_paper_scores_the_same(name, size, tmp_path):
    images = images_of(size, 2)
    model = spread_scores(random_model(*NETWORKS[name], size), images)
    assert_equal_scores(model, images, tmp_path / "model.onnx")


@pytest.mark.parametrize("name", ["vgg16_s10_vgg_512x1", "resnet50_s10_heatmap_5x5"])
def test_flips_are_averaged_at_the_papers_size(name, tmp_path):
    size = PAPER_SIZE
    images = images_of(size, 2)
    model = spread_scores(random_model(*NETWORKS[name], size), images)
    path = tmp_path / "model.onnx"
    assert_equal_scores(model, images, path, tta=True)
    one = onnx_scores(path, images[1:])
    np.testing.assert_allclose(one, onnx_scores(path, images)[1:], atol=1e-6)


# Layers that the paper's models do not have.
@pytest.mark.parametrize(
    "fields",
    [
        {"remat": True},
        {"trunk": "resnet50", "wiring": "torchvision", "remat": True},
        {"trunk": "resnet50", "wiring": "keras", "stem": "gentle", "stride": 16},
        {"trunk": "resnet50", "wiring": "keras2017_cut"},
    ],
    ids=str,
)
def test_other_wirings_and_recomputed_layers_score_the_same(fields, tmp_path):
    size = (HEIGHT, WIDTH)
    images = images_of(size, 3)
    network = make_config("whole", **fields).model
    model = spread_scores(random_model("whole", network, size), images)
    assert_equal_scores(model, images, tmp_path / "model.onnx")


def test_the_documented_way_gives_predicts_score(model, tmp_path, monkeypatch):
    directories = [model[0], tmp_path / "other"]
    write_run(directories[1], seed=7)
    description = read_json(directories[1] / "model.json")
    write_json(directories[1] / "model.json", description | {"credit": "Cite me."})
    cv2.imwrite(str(tmp_path / "in.png"), make_breast(1))
    exported, out = tmp_path / "model.onnx", tmp_path / "out"
    models = f"--model={directories[0]},{directories[1]}"
    command = (models, "--tta", f"--out={out}", f"--export={exported}")
    assert run_predict(*command, tmp_path / "in.png") == 0
    (score,) = read_scores(out / "predictions.csv").values()
    size = {"interpolation": cv2.INTER_CUBIC}
    images = cv2.resize(make_breast(1), (WIDTH, HEIGHT), **size)[None]
    monkeypatch.chdir(tmp_path)
    _, code = blocks(ROOT / "docs" / "scoring.md", "python")
    names = {"images": images}
    exec(code, names)
    assert float(names["scores"][0]) == pytest.approx(score, abs=1e-6)
    said = onnx.load(exported)
    assert [(one.domain, one.version) for one in said.opset_import] == [("", OPSET)]
    assert {one.key: one.value for one in said.metadata_props} == {"credit": "Cite me."}
    onnx.checker.check_model(said, full_check=True)
    # ONNX Runtime may pass over a shape that is wrong; it finds shapes by itself.
    (reference,) = ReferenceEvaluator(said).run(["scores"], {"images": images})
    assert float(reference[0]) == pytest.approx(score, abs=1e-6)
