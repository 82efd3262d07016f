"""Going on from a trained whole-image classifier on another set of images."""

import csv
import os
import shutil
import sys

import numpy as np
import pytest
import scipy.special

from mammo_jax.common.errors import UserError
from mammo_jax.common.run_directory import read_json, write_json
from mammo_jax.config import apply_preset, whole_config
from mammo_jax.datasets.pipeline import open_dataset
from mammo_jax.models import variables
from mammo_jax.models.groups import GROUPS
from mammo_jax.models.network_input import network_input
from mammo_jax.training.run import train_and_evaluate
from mammo_jax.weights.model_directory import load_model

NARROW = {
    "model.trunk": "vgg16",
    "model.width": 0.0625,
    "model.batch_norm": "frozen",
    "model.top.blocks": ("4-4-8x1",),
}


def tiny(phantom_data, preset, **changes):
    """A whole-image run of two steps without a patch stage."""
    config = apply_preset(whole_config(), preset)
    config.update_from_flattened_dict(
        {
            "data.data_dir": str(phantom_data),
            "data.dataset": "cbis_ddsm/paper_whole_h288",
            "data.train_split": "train",
            "data.validation_split": "validation",
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
        **{"data.pixel_mean": -1.0, "stages.stage2.epochs": 0, **NARROW},
    )
    train_and_evaluate(config, workdir)
    return workdir


def read_scores(workdir, role):
    with (workdir / "predictions" / f"{role}.csv").open(newline="") as file:
        return [float(row["malignant_pred"]) for row in csv.DictReader(file)]


def test_the_preset_is_the_paper_s_transfer():
    """Section 3.2: all layers at 1e-6, weight decay 0.01, 200 epochs."""
    config = apply_preset(whole_config(), "inbreast")

    (stage,) = config.stages.values()
    assert stage.epochs == 200
    assert set(stage.rates.values()) == {1e-6}
    assert stage.l2 == 0.01
    assert config.data.dataset == "inbreast/whole"
    assert config.data.test_split == config.data.validation_split == "validation"
    assert "patch" not in config


@pytest.fixture(scope="module")
def inbreast(tmp_path_factory):
    """A few packaged phantoms in INbreast's layout."""
    from mammo_jax.phantom import write_inbreast
    from tfds_builders.building import build

    folder = tmp_path_factory.mktemp("inbreast")
    write_inbreast(folder / "raw", cases=8, seed=0, height=288, num_workers=1)
    build("inbreast/whole_h288", folder / "raw", folder, num_workers=1)
    return folder


def test_it_starts_from_the_whole_classifier(inbreast, trained, tmp_path, caplog):
    """The preset alone: the network is that of the run it starts from."""
    config = apply_preset(whole_config(), "inbreast")
    config.update_from_flattened_dict(
        {
            "data.data_dir": str(inbreast),
            "data.dataset": "inbreast/whole_h288",
            "init_from": str(trained),
            "steps_per_epoch": 2,
            "stages.stage1.epochs": 1,
            # Two steps of 1e-12 leave the model as it was.
            **{f"stages.stage1.rates.{group}": 1e-12 for group in GROUPS},
        }
    )
    credit = "A model of others; cite: them."
    described = read_json(trained / "model.json")
    write_json(trained / "model.json", {**described, "credit": credit})
    with caplog.at_level("INFO", "mammo_jax"):
        metrics = train_and_evaluate(config, tmp_path / "tuned")

    assert read_json(tmp_path / "tuned" / "model.json")["credit"] == credit
    assert credit in (tmp_path / "tuned" / "report.html").read_text()
    (line,) = (x for x in caplog.messages if x.startswith("the network is that of"))
    for name in ("trunk=vgg16", "width=0.0625", "batch_norm=frozen", "4-4-8x1"):
        assert name in line
    assert config.model.trunk == "resnet50"  # What was given stays as it is.
    assert metrics["test"] == metrics["validation"]
    used, source = (
        read_json(run / "config.json") for run in (tmp_path / "tuned", trained)
    )
    assert used["model"] == source["model"]
    model = load_model(trained)
    dataset = open_dataset("inbreast/whole_h288", str(inbreast))
    images = np.stack([x["image"] for x in dataset.sources["validation"]])
    network = variables.merge(model.graphdef, model.params, {})
    logits = network(network_input(images, dataset.pixel_mean), train=False)
    expected = scipy.special.softmax(np.asarray(logits), -1)[:, 1]
    np.testing.assert_allclose(
        read_scores(tmp_path / "tuned", "validation"), expected, rtol=1e-4
    )
    # Once begun, the run needs the other one no more.
    config.init_from = str(trained)
    moved = trained.rename(trained.with_name("moved"))
    try:
        assert train_and_evaluate(config, tmp_path / "tuned") == metrics
    finally:
        moved.rename(trained)


def test_the_preset_says_which_run_it_lacks(phantom_data, tmp_path):
    config = tiny(phantom_data, "inbreast", init_from=str(tmp_path / "nothing"))

    with pytest.raises(UserError, match=r"config.init_from: .*/nothing"):
        train_and_evaluate(config, tmp_path / "tuned")


def test_a_run_keeps_the_commit_of_the_model_on_a_hub(
    phantom_data, trained, tmp_path, monkeypatch
):
    pytest.importorskip("huggingface_hub", reason="of the extra `hub`")
    import fake_hub

    name, member = "hf://clinic/start", "hf://clinic/member"
    pinned, newer = f"{name}@{'a' * 40}", f"{name}@{'b' * 40}"
    # A list may have spaces.
    start = {"init_from": name, "ensemble": f" {member}", "stages.stage2.epochs": 0}
    config = tiny(phantom_data, "real", **start).lock()
    model = shutil.copytree(trained, tmp_path / "model")
    described = read_json(model / "model.json")
    write_json(model / "model.json", {**described, "credit": "Cite: them."})
    run, cache = tmp_path / "run", tmp_path / "cache"
    with fake_hub.serve(monkeypatch, cache) as server:
        server.add("clinic/start", model)
        server.add("clinic/member", trained)
        metrics = train_and_evaluate(config, run)
        # The same command goes on with its commit; another commit is another run.
        server.add("clinic/start", model, "b" * 40)
        assert train_and_evaluate(config, run) == metrics
        config.init_from = newer
        with pytest.raises(UserError, match=f"init_from is '{pinned}' there and"):
            train_and_evaluate(config, run)
    kept = read_json(run / "config.json")
    assert (kept["init_from"], kept["ensemble"]) == (pinned, f"{member}@{'a' * 40}")
    assert list(metrics["ensemble"]["members"]) == [f"{member}@{'a' * 40}"]
    report = (run / "report.html").read_text()
    assert f"It started from the model {pinned}." in report
    assert str(cache) not in report
    # Once begun, the run needs its start no more, nor the hub.
    shutil.rmtree(cache / "models--clinic--start")
    (run / "metrics.json").unlink()
    config.init_from = name
    assert train_and_evaluate(config, run) == metrics
    assert read_json(run / "model.json")["credit"] == "Cite: them."


# Only process 0 reaches the hub.
_PROCESS = """
import os, sys
from mammo_jax.common import devices
from mammo_jax.config import whole_config
from mammo_jax.training import run

name, workdir, url, address, _, process = sys.argv[1:]
process = int(process[-1])
os.environ["HF_ENDPOINT"] = "http://127.0.0.1:1" if process else url
devices.join_processes(address.partition("=")[2], 2, process)
config = whole_config()
config.init_from = name
try:
    print(run._pinned(config, run.Path(workdir)).init_from)
except run.UserError as error:
    print(error)
"""


@pytest.mark.slow
def test_process_0_chooses_the_commit_for_all(tmp_path, monkeypatch):
    pytest.importorskip("huggingface_hub", reason="of the extra `hub`")
    import fake_hub
    from whole_runs import start_two

    environment = {**os.environ, "HF_HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    head = [sys.executable, "-c", _PROCESS]
    with fake_hub.serve(monkeypatch, tmp_path / "cache") as server:
        server.add("clinic/model", tmp_path)
        for name, said in {
            "model": [f"hf://clinic/model@{'a' * 40}"] * 2,
            "none": ["has no such model", "process 0 could not start"],
        }.items():
            arguments = (f"hf://clinic/{name}", tmp_path / "run", server.url)
            for process in start_two(head, arguments, environment, tmp_path):
                process.wait(120)
            for number, line in enumerate(said):
                assert line in (tmp_path / f"{number}.out").read_text()
