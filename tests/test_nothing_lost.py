"""Runs that are killed, run out of numbers, or are spread over processes."""

import json
import random
import socket
import subprocess
import time
from pathlib import Path

import pytest
from whole_runs import (
    REPOSITORY,
    cached_environment,
    command,
    results,
    run,
    tiny_run,
)

KILLS = 10


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return cached_environment(tmp_path_factory.mktemp("xla"))


@pytest.mark.slow
def test_killed_at_ten_random_moments_a_run_ends_with_the_same_numbers(
    environment, phantom_data, tmp_path
):
    whole = tiny_run(phantom_data, tmp_path / "undisturbed")
    undisturbed = run(environment, *whole)
    assert undisturbed.returncode == 0, undisturbed.stderr
    # Once more: what is killed below has its compiled steps in the cache, too.
    start = time.perf_counter()
    again = run(environment, *tiny_run(phantom_data, tmp_path / "again"))
    seconds = time.perf_counter() - start
    assert again.returncode == 0, again.stderr
    killed = tiny_run(phantom_data, tmp_path / "killed")
    chance = random.Random(0)
    kills = 0
    while kills < KILLS:
        process = subprocess.Popen(
            command(*killed),
            cwd=REPOSITORY,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            # At any moment: before the first step, in one, in a save, in a test.
            process.communicate(timeout=seconds * chance.uniform(0.1, 0.5))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills += 1
        else:
            assert process.returncode == 0
            break
    last = run(environment, *killed)
    assert last.returncode == 0, last.stderr
    assert kills >= 3, "the run was over before it was killed a few times"
    assert results(tmp_path / "killed") == results(tmp_path / "undisturbed")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _predictions(workdir: Path) -> list[list[str]]:
    table = (workdir / "predictions" / "test.csv").read_text().splitlines()
    return [line.split(",") for line in table[1:]]


@pytest.mark.slow
def test_two_processes_train_as_one(environment, phantom_data, tmp_path):
    # Low rates: rounding in a gradient of zero is a whole step for Adam.
    common = (
        "--config.eval_batch_size=4",
        "--config.stages.stage1.rates.new_layers=1e-6",
        "--config.patch.stages.stage1.rates.head=1e-6",
        "--config.patch.stages.stage2.epochs=0",
    )
    alone = tiny_run(phantom_data, tmp_path / "alone", *common)
    assert run(environment, *alone).returncode == 0
    together = tiny_run(
        phantom_data,
        tmp_path / "together",
        *common,
        "--config.devices.data=2",
        "--config.patch.devices.data=2",
        f"--coordinator=127.0.0.1:{_free_port()}",
        "--processes=2",
    )
    processes = [
        subprocess.Popen(
            command(*together, f"--process={number}"),
            cwd=REPOSITORY,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    outputs = [process.communicate(timeout=400) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert "test AUC" in outputs[0][0]
    assert "AUC" not in outputs[1][0]  # One of them speaks.
    figures = [
        json.loads((tmp_path / name / "metrics.json").read_text())
        for name in ("alone", "together")
    ]
    for role in ("validation", "test"):
        one, two = (figure[role] for figure in figures)
        assert one["images"] == two["images"]
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
    for one, two in zip(
        _predictions(tmp_path / "alone"),
        _predictions(tmp_path / "together"),
        strict=True,
    ):
        assert one[0] == two[0]
        assert one[2:] == two[2:]
        assert float(two[1]) == pytest.approx(float(one[1]), rel=1e-4)


def test_more_devices_than_there_are_is_an_error(environment, phantom_data, tmp_path):
    result = run(
        environment,
        *tiny_run(phantom_data, tmp_path / "run", "--config.patch.devices.data=2"),
    )
    assert result.returncode == 1
    assert "more than the 1 devices" in result.stderr


@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_the_run_and_names_the_images(
    environment, phantom_data, tmp_path
):
    huge = [f"--config.patch.stages.stage1.rates.{g}=1e30" for g in ("head", "bottom")]
    arguments = tiny_run(phantom_data, tmp_path / "run", *huge)
    result = run(environment, *arguments)
    assert result.returncode == 1
    assert "on the images P_" in result.stderr
    assert "lower learning rates" in result.stderr
    looked_into = run(
        environment,
        *tiny_run(phantom_data, tmp_path / "again", *huge, "--config.debug_nans"),
    )
    assert looked_into.returncode == 1
    assert "on the images P_" in looked_into.stderr
    assert "Traceback" not in looked_into.stderr


@pytest.mark.slow
def test_a_profile_is_written_where_tensorboard_finds_it(
    environment, phantom_data, tmp_path
):
    arguments = tiny_run(
        phantom_data,
        tmp_path / "run",
        "--config.profile",
        "--config.patch.steps_per_epoch=10",
    )
    result = run(environment, *arguments)
    assert result.returncode == 0, result.stderr
    traces = list((tmp_path / "run" / "patch").glob("plugins/profile/*/*.xplane.pb"))
    assert len(traces) == 1
