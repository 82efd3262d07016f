"""How long the commands take from their start to the first thing they do.

  python -m benchmarks.start_up

Trains the paper's whole-image network at 1152x896 on a few phantoms: two steps of each
stage and an evaluation, which fills the compile cache and leaves a model. Then it
starts the same training in a new directory, and `predict` with that model on one
image. Times count from the call of the interpreter, everything in the cache. Of
training, the network is "built" without values, its step "traced", found in the cache
and "loaded"; the first step is called when its batch is there, and done when its loss
is known: what lies between is the machine's work. Of `predict`, "first score" is when
the score of the one image is known.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

CONFIG = "configs/whole_res.py:real"
_SPLITS = ("train", "validation", "test")
_STARTED, _MARKS = "MAMMO_JAX_STARTED", "MAMMO_JAX_MARKS"
_CHILD = "--as_child"


def overrides(folder: Path) -> list[str]:
    """The flags that put the phantoms in the place of the real mammograms."""
    return [
        f"--config={CONFIG}",
        f"--config.data.data_dir={folder / 'data'}",
        "--config.data.dataset=cbis_ddsm/paper_whole",
        *(f"--config.data.{split}_split={split}" for split in _SPLITS),
    ]


def prepare(folder: Path) -> None:
    """Draws a few phantoms and packages them."""
    from mammo_jax.phantom import write_cbis_ddsm
    from tfds_builders.building import build

    write_cbis_ddsm(folder / "raw", cases=8, seed=0)
    build("cbis_ddsm/paper_whole", folder / "raw", folder / "data")


class Marks:
    """What happened when, in seconds since the interpreter was called."""

    def __init__(self) -> None:
        self._started, self._marks = float(os.environ[_STARTED]), {}

    def add(self, name: str) -> None:
        """Something happened now."""
        self._marks[name] = time.time() - self._started

    def write_and_end(self) -> None:
        """Hands them over; there is no need to go on."""
        Path(os.environ[_MARKS]).write_text(json.dumps(self._marks))
        os._exit(0)


def run_until_first_step(arguments: Sequence[str]) -> None:
    """Trains until the first loss is known."""
    from absl import app

    from mammo_jax import main as command

    marks = Marks()
    from mammo_jax.training import loop
    from mammo_jax.training import run as _train  # noqa: F401
    from mammo_jax.training.experiment import Experiment

    marks.add("imported")
    step, compiler_of = loop._step, Experiment.compiler_of_train_step

    def compiler_with_marks(*arguments):
        marks.add("built")
        compile_step = compiler_of(*arguments)
        marks.add("traced")

        def compile_with_mark():
            compiled = compile_step()
            marks.add("loaded")
            return compiled

        return compile_with_mark

    def first_step(*arguments):
        marks.add("first step called")
        _state, loss = step(*arguments)
        loss.block_until_ready()
        marks.add("first step done")
        marks.write_and_end()

    Experiment.compiler_of_train_step = compiler_with_marks
    loop._step = first_step
    app.run(command.main, argv=["main", *arguments], flags_parser=command.parse_or_exit)


def run_until_first_score(arguments: Sequence[str]) -> None:
    """Predicts until the first score is known."""
    from mammo_jax import predict

    marks, score_all = Marks(), predict._score

    def with_marks(*arguments):
        from mammo_jax.prediction.scorer import Scorer

        marks.add("imported")
        begin = Scorer.begin

        def first_score(*arguments):
            marks.add("first image read")
            begin(*arguments)()
            marks.add("first score")
            marks.write_and_end()

        Scorer.begin = first_score
        return score_all(*arguments)

    predict._score = with_marks
    predict.main(predict.parse_arguments(list(arguments)))


CHILDREN = {"train": run_until_first_step, "predict": run_until_first_score}


def time_command(name: str, folder: Path, *arguments: str) -> dict[str, float]:
    """Seconds from the start of a command to what it does first."""
    marks = folder / "marks.json"
    environment = {_STARTED: str(time.time()), _MARKS: str(marks)}
    subprocess.run(
        [sys.executable, "-m", "benchmarks.start_up", _CHILD, name, *arguments],
        env={**os.environ, **environment},
        check=True,
        capture_output=True,
    )
    return json.loads(marks.read_text())


def main() -> None:
    """Prepares, fills the cache, measures, prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="of every command")
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder / "cache")
        prepare(folder)
        training, model = overrides(folder), folder / "model"
        image = str(next((folder / "raw").rglob("*.dcm")))
        commands = {
            "main": ("train", *training),
            "predict": ("predict", f"--model={model}", f"--out={folder / 'o'}", image),
        }
        fill = [*(sys.executable, "-m", "mammo_jax.main"), *training]
        subprocess.run([*fill, f"--workdir={model}"], check=True, capture_output=True)
        for title, (name, *arguments) in commands.items():
            for number in range(rounds + 1):
                if name == "train":
                    arguments = [*training, f"--workdir={folder / str(number)}"]
                marks = time_command(name, folder, *arguments)
                figures = ", ".join(
                    f"{key} {value:.1f} s" for key, value in marks.items()
                )
                print(f"{title}, start {number + 1}: {figures}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == [_CHILD]:
        CHILDREN[sys.argv[2]](sys.argv[3:])
    else:
        main()
