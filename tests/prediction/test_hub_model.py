"""The command with a model on a hub."""

import os
import subprocess
import sys

import cv2
import pytest
from predicting import make_breast, read_scores, run_predict

pytest.importorskip("huggingface_hub", reason="of the extra `hub`")

import fake_hub

from mammo_jax.common.run_directory import read_json
from mammo_jax.evaluation.run_facts import find_credits

NAME, COMMIT = "hf://clinic/model", "a" * 40


@pytest.fixture
def server(model, monkeypatch, tmp_path):
    with fake_hub.serve(monkeypatch, tmp_path / "cache") as server:
        server.add("clinic/model", model[0])
        yield server


@pytest.fixture
def picture(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), make_breast(0))
    return tmp_path / "a.png"


def test_scores_are_those_of_its_directory_and_its_commit_is_in_the_reports(
    server, model, picture, tmp_path
):
    for name, out in ((NAME, "hub"), (model[0], "own")):
        assert run_predict(f"--model={name}", f"--out={tmp_path / out}", picture) == 0
    table = tmp_path / "hub" / "predictions.csv"
    assert read_scores(table) == read_scores(tmp_path / "own" / "predictions.csv")
    pinned = f"{NAME}@{COMMIT}"
    assert read_json(tmp_path / "hub" / "prediction.json")["models"] == [pinned]
    assert f"made/up, {pinned}." in (tmp_path / "hub" / "report.html").read_text()
    assert find_credits([table]) == [f"Scored with {pinned}."]
    assert "models" not in read_json(tmp_path / "own" / "prediction.json")


def test_a_newer_commit_does_not_replace_the_scores_of_another(
    server, model, picture, tmp_path, capsys
):
    arguments = (f"--model={NAME}", f"--out={tmp_path / 'out'}", picture)
    assert run_predict(*arguments) == 0
    assert run_predict(*arguments) == 0
    server.add("clinic/model", model[0], "b" * 40)
    assert run_predict(*arguments) == 1
    assert "holds the prediction of other models" in capsys.readouterr().err


def test_one_model_by_two_names_is_refused(server, picture, tmp_path, capsys):
    out = f"--out={tmp_path / 'out'}"
    assert run_predict(f"--model={NAME},{NAME}@{COMMIT}", out, picture) == 1
    assert "names a directory twice" in capsys.readouterr().err


def test_a_wrong_revision_leaves_nothing(server, picture, tmp_path, capsys):
    out = tmp_path / "out"
    assert run_predict(f"--model={NAME}@v9", f"--out={out}", picture) == 1
    assert capsys.readouterr().err == (
        f"error: {NAME}@v9: the model has no such revision; give a branch, a tag or a "
        "commit of it\n"
    )
    assert not out.exists()


def test_nothing_is_fetched_for_files_that_are_not_there(server, tmp_path, capsys):
    out, missing = tmp_path / "out", tmp_path / "no.dcm"
    assert run_predict(f"--model={NAME}", f"--out={out}", missing) == 1
    assert "no such file" in capsys.readouterr().err
    assert not server.asked


@pytest.mark.slow
def test_a_command_asks_the_hub_of_its_environment(server, model, picture, tmp_path):
    out, home = tmp_path / "out", tmp_path / "home"
    line = [sys.executable, "-m", "mammo_jax.predict", f"--model={NAME}"]
    environment = {**os.environ, "HF_ENDPOINT": server.url, "HF_HOME": str(home)}
    for more in ({}, {"HF_HUB_OFFLINE": "1"}):
        subprocess.run(
            [*line, f"--out={out}", picture],
            env={**environment, **more},
            check=True,
            capture_output=True,
            timeout=120,
        )
    # Without a network nothing is asked; the commit is that of the cache.
    assert len([asked for asked in server.asked if asked.startswith("GET /api")]) == 2
    assert not any("agent" in asked for asked in server.asked)
    assert read_json(out / "prediction.json")["models"] == [f"{NAME}@{COMMIT}"]
