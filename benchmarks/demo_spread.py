"""Measures how far the demo's test AUC spreads over seeds and roundings.

  python -m benchmarks.demo_spread --out=runs/spread

Each run is the whole demo, patch classifier included, with a seed of its own on the
same phantoms. GPUs round what goes into a convolution to the 10 bits of TF32; `tf32`
does so on a CPU. Finished runs are kept: the same command goes on where it was stopped.
With `--table=mammo_jax/training/demo_spread.json` the demo shows them beside its own.
"""

import argparse
import contextlib
import itertools
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from benchmarks.tf32 import rounded_convolutions
from mammo_jax.common.run_directory import METRICS_FILE, read_json, write_json
from mammo_jax.config import apply_preset, whole_config
from mammo_jax.training.demo_spread import settings_of

_ROUNDINGS = ("float32", "tf32")


def _demo(data_dir: Path, seed: int) -> ConfigDict:
    config = apply_preset(whole_config(), "phantom")
    config.seed = seed
    config.data.data_dir = str(data_dir)
    return config


def _train(out: Path, rounding: str, seed: int) -> None:
    """Runs the demo in this process."""
    from mammo_jax.common.devices import start_devices
    from mammo_jax.main import show_own_messages
    from mammo_jax.training.run import train_and_evaluate

    show_own_messages()
    start_devices()
    with rounded_convolutions() if rounding == "tf32" else contextlib.nullcontext():
        train_and_evaluate(_demo(out / "data", seed), _workdir(out, rounding, seed))


def _workdir(out: Path, rounding: str, seed: int) -> Path:
    return out / f"{rounding}_seed{seed}"


def _measure(out: Path, rounding: str, seed: int) -> dict[str, Any]:
    """Runs the demo in a process of its own, and returns its row of the table."""
    command = (sys.executable, "-m", "benchmarks.demo_spread", f"--out={out}")
    run = ("--run", rounding, str(seed))
    subprocess.run([*command, *run], check=True, stdout=sys.stderr)
    workdir = _workdir(out, rounding, seed)
    metrics = read_json(workdir / METRICS_FILE)
    patch, test = read_json(workdir / "patch" / METRICS_FILE), metrics["test"]
    figures = {
        "patch_auc": patch["test"]["auc"],
        "validation_auc": metrics["validation"]["auc"],
        "test_auc": test["auc"],
        "test_auc_95_low": test["auc_95_low"],
        "test_auc_95_high": test["auc_95_high"],
    }
    return {
        "rounding": rounding,
        "seed": seed,
        **{name: round(value, 4) for name, value in figures.items()},
        "test_images": test["images"],
    }


def main() -> None:
    """Runs what is missing, prints the table, and writes it where it is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--seeds", type=int, default=5, help="seeds of each rounding")
    parser.add_argument("--table", type=Path, help="file to write the table to")
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.seeds < 1:
        parser.error("--seeds must be at least 1")
    if arguments.run:
        rounding, seed = arguments.run
        _train(arguments.out, rounding, int(seed))
        return
    print("| rounding | seed | patch AUC | validation AUC | test AUC | its interval |")
    print("| --- | ---: | ---: | ---: | ---: | --- |")
    runs = []
    for seed, rounding in itertools.product(range(arguments.seeds), _ROUNDINGS):
        run = _measure(arguments.out, rounding, seed)
        runs.append(run)
        print(
            f"| {rounding} | {seed} | {run['patch_auc']:.3f} | "
            f"{run['validation_auc']:.3f} | {run['test_auc']:.3f} | "
            f"{run['test_auc_95_low']:.3f} to {run['test_auc_95_high']:.3f} |",
            flush=True,
        )
    found, test_images = [run["test_auc"] for run in runs], runs[0]["test_images"]
    print(
        f"\nLowest {min(found):.3f}, median {statistics.median(found):.3f}, highest "
        f"{max(found):.3f} of {len(found)} runs on {test_images} test images."
    )
    if arguments.table:
        config = settings_of(_demo(arguments.out / "data", 0))
        write_json(arguments.table, {"config": config, "runs": runs})


if __name__ == "__main__":
    main()
