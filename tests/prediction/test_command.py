"""The command: its options and its end."""

import os
import subprocess
import sys

import cv2
import pytest
from predicting import make_breast, run_predict

from mammo_jax import predict


def test_a_model_that_is_named_twice_is_refused(model, folder, tmp_path, capsys):
    out, models = tmp_path / "out", f"--model={model[0]},{model[0]}/"
    assert run_predict(models, f"--out={out}", folder) == 1
    assert "--model names a directory twice" in capsys.readouterr().err
    assert not out.exists()


def test_a_directory_that_is_no_model_is_refused(folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert run_predict(f"--model={folder}", f"--out={out}", folder) == 1
    assert "holds no model" in capsys.readouterr().err
    assert not out.exists()


def test_the_command_ends_in_one_line(tmp_path, capsys):
    missing = tmp_path / "no.dcm"
    assert run_predict(f"--model={tmp_path}", "--out=out", missing) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {missing}: no such file")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model=x"], "name a file"),
        (["--model=x", "a.png"], "--out is needed"),
        (["--out=x", "a.png"], "--model"),
        (["--model=x", "--out=x", ""], "a PATH is empty"),
    ],
)
def test_an_incomplete_command_line_is_refused(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        predict.parse_arguments(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_a_name_that_is_not_utf_8_ends_in_no_traceback(model, tmp_path):
    picture, out = tmp_path / os.fsdecode(b"a\xff.png"), os.fsdecode(b"out\xff")
    picture.write_bytes(cv2.imencode(".png", make_breast(0))[1].tobytes())
    result = subprocess.run(
        [
            *(sys.executable, "-m", "mammo_jax.predict"),
            *(f"--model={model[0]}", f"--out={out}", picture),
        ],
        capture_output=True,
        cwd=tmp_path,
        # As where the locale is a language's.
        env={**os.environ, "PYTHONIOENCODING": "utf-8:strict"},
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    assert b"1 images scored; written to out\\udcff" in result.stdout
    assert b"a\xff.png" in (tmp_path / out / "files.csv").read_bytes()
