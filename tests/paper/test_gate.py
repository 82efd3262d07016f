"""The gate before whole-image rows."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import sklearn.metrics
import tensorflow_datasets as tfds
from tiny_runs import MEAN, write_run

from mammo_jax.common import run_directory
from mammo_jax.datasets.pipeline import newest_version
from mammo_jax.evaluation.predictions import COLUMNS
from paper import command, gate, runs
from paper.rows import load_rows

ROWS = load_rows(Path(__file__).parents[2] / "configs" / "paper_rows.py")
WHOLE = "cbis_ddsm/paper_whole_h288"


@pytest.mark.parametrize("stride", [32, 16])
def test_lesions_are_classified_cut_out_and_slid(stride, phantom_data, tmp_path):
    network = write_run(tmp_path / "patch", "patch", stride=stride)
    window = 64 // stride
    last_row, last_column = 288 // stride - window, 224 // stride - window
    found = gate.measure_gate(tmp_path / "patch", WHOLE, str(phantom_data))
    # By hand: patches of 64 pixels whose corners are multiples of the stride, and the
    # mean of the image's features below each of them, through the same dense layer.
    labels, cut_out, slid = [], [], []
    builder = tfds.builder_from_directory(newest_version(WHOLE, str(phantom_data)))
    for example in builder.as_data_source("test"):
        grey = example["image"][..., 0].astype(np.float32) * (255 / 65535) - MEAN
        features = np.asarray(
            network.trunk(jnp.repeat(grey[None, ..., None], 3, -1), False)
        )
        kinds, boxes = example["rois"]["class"], example["rois"]["bbox"]
        for kind, (top, left, bottom, right) in zip(kinds, boxes, strict=True):
            row = min(max(round((top + bottom - 64) / 2 / stride), 0), last_row)
            column = min(max(round((left + right - 64) / 2 / stride), 0), last_column)
            y, x = row * stride, column * stride
            patch = grey[y : y + 64, x : x + 64]
            images = jnp.repeat(patch[None, ..., None], 3, -1)
            logits = [network(images, train=False)]
            below = features[:, row : row + window, column : column + window]
            logits.append(network.head(jnp.asarray(below.mean((1, 2)))))
            shares = [
                scipy.special.softmax(np.asarray(x)[0])[[2, 4]].sum() for x in logits
            ]
            labels.append(kind in (2, 4))
            cut_out.append(shares[0])
            slid.append(shares[1])
    assert found["lesions"] == len(labels) >= 3
    assert found["malignant"] == sum(labels) >= 1
    for name, scores in {"cut_out": cut_out, "slid": slid}.items():
        area = sklearn.metrics.roc_auc_score(labels, scores)
        assert found[name] == pytest.approx(area), name


@pytest.mark.parametrize(
    ("areas", "expected"),
    [
        ([(0.85, 0.83)], ""),
        # The mean over the runs decides.
        ([(0.85, 0.81), (0.84, 0.85)], ""),
        ([(0.85, 0.81)], "AUC of lesions 0.850 cut out and 0.810 slid; at most 0.03"),
        ([(0.70, 0.80)], "does not carry over"),
        ([(None, None)], "no malignant and benign lesions"),
        ([], "no malignant and benign lesions"),
    ],
)
def test_a_gate_that_fails_says_why(areas, expected):
    measured = [{"cut_out": a, "slid": b} for a, b in areas]
    said = gate.judge_gate(measured)
    assert expected in said
    assert bool(said) == bool(expected)


def test_rows_behind_a_closed_gate_are_not_run_and_the_document_says_why(
    tmp_path, monkeypatch
):
    names = ["resnet50_s10_heatmap_1x1", "vgg16_s10_vgg_512x1"]
    request = command.check_request(
        ROWS, preset="phantom", out=tmp_path, names=names, seeds=2
    )
    areas = {"patch_resnet50_s10": (0.71, 0.58), "patch_vgg16_s10": (0.9, 0.88)}
    done = []

    def train(config, directory):
        done.append(directory.parent.name)
        tables = directory / "predictions"
        tables.mkdir(parents=True)
        lines = (",".join(COLUMNS), "a,0.1,0,p,LEFT,CC", "b,0.9,1,q,LEFT,CC")
        (tables / "test.csv").write_text("\n".join(lines) + "\n")
        config = run_directory.as_json(config)
        run_directory.write_json(directory / "config.json", config)
        test = {"auc": None, "accuracy": 0.5}
        metrics = {"best_epoch": 1, "validation": test, "test": test}
        run_directory.write_json(directory / "metrics.json", metrics)

    def measure(directory, dataset, data_dir):
        assert dataset == "cbis_ddsm/official_whole_h288"
        cut_out, slid = areas[directory.parent.name]
        return {"lesions": 40, "malignant": 20, "cut_out": cut_out, "slid": slid}

    monkeypatch.setattr(gate, "measure_gate", measure)
    monkeypatch.setattr("paper.phantoms.prepare", lambda *given: None)
    monkeypatch.setattr(runs, "check_inputs", lambda plan: None)
    _, failures = command.reproduce(request, train)
    assert sorted({*done}) == [*sorted(areas), "vgg16_s10_vgg_512x1"]
    assert {*failures} == {f"{names[0]} (seed {seed})" for seed in (0, 1)}
    command.write_results(request, tmp_path / "RESULTS.md")
    text = (tmp_path / "RESULTS.md").read_text()
    assert "0.710 cut out and 0.580 slid; at most 0.03 apart is allowed" in text
    (line,) = (x for x in text.splitlines() if x.startswith("| patch_vgg16_s10"))
    assert [cell.strip() for cell in line.split("|")[2:-1]] == [
        *("40", "0.900", "0.880", "2", "passed")
    ]
    # What was measured is not measured again.
    monkeypatch.setattr(gate, "measure_gate", lambda *given: pytest.fail("again"))
    assert {*command.reproduce(request, train)[1]} == {*failures}
