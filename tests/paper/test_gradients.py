"""Gradient sizes at the trunk's last feature map, by another way."""

from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from tiny_runs import MEAN, make_config, write_run

from mammo_jax.common.run_directory import write_json
from mammo_jax.datasets.pipeline import open_dataset
from mammo_jax.models import build_model, read_model_config, variables
from mammo_jax.models.network_input import network_input
from paper import claims, gradients
from paper.claims import verdicts
from paper.gradients import make_jacobian_norms
from paper.rows import by_name, load_rows
from paper.runs import PlannedRun

KNOWN = by_name(load_rows(Path(__file__).parents[2] / "configs" / "paper_rows.py"))

TOPS = {
    "residual": {"kind": "residual", "blocks": ("4-4-8x1",)},
    "softmax": {"kind": "heatmap", "pool": 1, "fc": (8, 4), "window": 2},
}


@pytest.mark.parametrize("top", TOPS)
def test_the_norm_is_the_rate_at_which_the_log_odds_change(top):
    config = {
        "trunk": "vgg16",
        "width": 1 / 16,
        "image_size": (128, 96),
        "top": TOPS[top],
    }
    model = build_model(read_model_config(config), 1)
    graphdef, params, stats = variables.split(model)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 65535, (2, 128, 96)).astype(np.uint16)
    norms = make_jacobian_norms(graphdef, 30.0)(params, stats, pixels)
    images = network_input(pixels, 30.0)
    features = np.asarray(model.trunk(images, False))

    def log_odds(features):
        shares = jax.nn.softmax(model.classify(jax.numpy.asarray(features), False))
        return np.log(np.asarray(shares[:, 1], np.float64) / shares[:, 0])

    def logits(features):
        return model.classify(features, False)

    _, pull_back = jax.vjp(logits, jax.numpy.asarray(features))
    for image in range(2):
        one = np.zeros((2, 2), np.float32)
        one[image] = -1, 1
        (gradient,) = pull_back(one)
        size = np.linalg.norm(gradient)
        np.testing.assert_allclose(norms[image], size, rtol=1e-3)
        # The steepest small step changes the log-odds at that rate.
        step = np.asarray(gradient) * (3e-3 * np.linalg.norm(features) / size)
        change = log_odds(features + step) - log_odds(features - step)
        rate = change[image] / (2 * np.linalg.norm(step))
        np.testing.assert_allclose(rate, size, rtol=0.05)


def test_a_run_is_measured_before_its_training_and_at_its_best_epoch(
    phantom_data, tmp_path
):
    start, best = (
        write_run(tmp_path / name, seed=seed)
        for name, seed in (("start", 1), ("run", 2))
    )
    config = make_config()
    config.update_from_flattened_dict(
        {
            "data.data_dir": str(phantom_data),
            "data.dataset": "cbis_ddsm/paper_whole_h288",
            "model.image_size": (288, 224),
            "data.pixel_mean": MEAN,
            "init_from": str(tmp_path / "start"),
            "batch_size": 2,
        }
    )
    del config["patch"]
    run = PlannedRun(KNOWN[gradients.ROWS[1]], 0, tmp_path / "run", config)
    found = {gradients.ROWS[1]: [run]}
    gradients.measure_all(found)
    (sizes,) = gradients.read_sizes(gradients.ROWS[1], found).values()
    dataset = open_dataset("cbis_ddsm/paper_whole_h288", str(phantom_data))
    images = np.stack([dataset.sources["validation"][i]["image"] for i in (0, 1)])
    for network, size in zip((start, best), sizes, strict=True):
        graphdef, params, stats = variables.split(network)
        norms = make_jacobian_norms(graphdef, MEAN)(params, stats, images)
        assert size == pytest.approx(float(np.mean(norms)), rel=1e-3)
    # What is measured is not measured again.
    (tmp_path / "run" / "model.safetensors").unlink()
    gradients.measure_all(found)


def test_the_claim_compares_rows_on_the_log_scale(tmp_path):
    found = {}
    for row, size in zip(gradients.ROWS, (1e-2, 1e-4, 1e-2) * 2, strict=True):
        found[row] = []
        for seed in range(8):
            directory = tmp_path / row / str(seed)
            (directory / "derived").mkdir(parents=True)
            wobble = size * (1 + seed / 20)
            values = dict.fromkeys(gradients.WHEN, wobble)
            write_json(directory / "derived" / gradients.JACOBIAN_FILE, values)
            run = PlannedRun(KNOWN[row], seed, directory, ConfigDict())
            found[row].append(run)
    written = [claim for claim in claims.CLAIMS if "softmax" in claim.text]
    findings = [claims.find(claim, found, 4) for claim in written]
    assert len(findings) == 4
    for finding in findings:
        assert finding.effect.value == pytest.approx(-2)
        assert finding.effect.replicates == 8
    assert {said for *_, said in verdicts(findings)} == {"for"}
    del found[gradients.ROWS[0]]
    missing = claims.find(written[0], found, 4).missing
    assert missing == f"not run: {gradients.ROWS[0]}"
