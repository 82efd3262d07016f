"""The wheel, in an environment of its own outside the checkout."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

CHECKOUT = Path(__file__).parents[1]
TINY_RUN = (
    "--config.phantom.cases=24",
    "--config.phantom.height=288",
    "--config.data.dataset=cbis_ddsm/paper_whole_h288",
    "--config.patch.data.dataset=cbis_ddsm/paper_s1_h288",
    "--config.model.image_size=(288, 224)",
    "--config.steps_per_epoch=1",
    "--config.patch.steps_per_epoch=1",
    "--config.stages.stage1.epochs=1",
    "--config.stages.stage2.epochs=0",
    "--config.patch.stages.stage1.epochs=1",
)


def run(folder: Path, *command: str) -> str:
    """Runs a command in `folder`, where nothing of the checkout is in reach."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment["UV_SYSTEM_CERTS"] = "true"  # as the Makefile has it
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment | {"VIRTUAL_ENV": str(folder / "venv")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an environment in which the wheel is installed."""
    folder = tmp_path_factory.mktemp("wheel")
    uv = str(Path(sys.executable).with_name("uv"))
    run(folder, uv, "build", "--quiet", "--wheel", f"--out-dir={folder}", str(CHECKOUT))
    run(folder, uv, "venv", "--quiet", f"--python={sys.executable}", "venv")
    (wheel,) = folder.glob("*.whl")
    lock = CHECKOUT / "requirements.lock"
    run(folder, uv, "pip", "install", "--quiet", f"--constraint={lock}", str(wheel))
    return folder


def test_a_wheel_trains_and_predicts_by_its_command(folder):
    command = str(folder / "venv" / "bin" / "mammo-jax")
    places = ("--workdir=run", "--config.data.data_dir=data")
    trained = run(
        folder, command, "train", "--config=whole_res:phantom", *places, *TINY_RUN
    )
    assert "test AUC" in trained
    films = sorted((folder / "data" / "raw").rglob("*full*/**/*.dcm"))
    assert films
    said = run(folder, command, "predict", "--model=run", "--out=out", str(films[0]))
    assert "1 images scored" in said
    assert (folder / "out" / "predictions.csv").is_file()


def test_every_command_of_a_wheel_answers(folder):
    command = str(folder / "venv" / "bin" / "mammo-jax")
    listed = run(folder, command, "--help")
    lines = listed.split("Commands:\n")[1].split("\n\n")[0].splitlines()
    names = [line.split()[0] for line in lines]
    assert len(names) >= 9
    for name in names:
        assert "--" in run(folder, command, name, "--help")
