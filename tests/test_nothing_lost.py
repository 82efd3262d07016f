"""Runs that are killed, run out of numbers, or are spread over processes."""

import json
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from whole_runs import (
    REPOSITORY,
    cached_environment,
    command,
    results,
    run,
    start_two,
    tiny_config,
    tiny_run,
)

from mammo_jax.common.errors import UserError
from mammo_jax.training.run import train_and_evaluate

KILLS, LEAST_KILLS = 10, 3


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
            if kills >= LEAST_KILLS:
                break
            # The machine was busier when the seconds were measured.
            shutil.rmtree(tmp_path / "killed")
            kills, seconds = 0, seconds / 2
    last = run(environment, *killed)
    assert last.returncode == 0, last.stderr
    assert results(tmp_path / "killed") == results(tmp_path / "undisturbed")


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
    )
    processes = start_two(command(), together, environment, tmp_path)
    said = [tmp_path / f"{number}.{end}" for number in (0, 1) for end in ("out", "err")]
    codes = [process.wait(timeout=400) for process in processes]
    assert codes == [0, 0], [path.read_text()[-2000:] for path in said]
    assert "test AUC" in said[0].read_text()
    assert "AUC" not in said[2].read_text()  # One of them speaks.
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


def _training_losses(workdir: Path) -> dict[int, float]:
    events = EventAccumulator(str(workdir / "whole"))
    events.Reload()
    return {event.step: event.value for event in events.Scalars("loss/train")}


@pytest.mark.slow
def test_a_run_goes_on_with_the_same_images_on_other_devices(
    environment, phantom_data, tmp_path
):
    common = (
        "--config.eval_batch_size=4",
        "--config.stages.stage1.rates.new_layers=1e-6",
        "--config.patch.stages.stage1.rates.head=1e-6",
        "--config.patch.stages.stage2.epochs=0",
    )
    flags = environment.get("XLA_FLAGS", "")
    two = f"{flags} --xla_force_host_platform_device_count=2"
    alone = tiny_run(phantom_data, tmp_path / "alone", *common)
    assert run(environment, *alone).returncode == 0
    for first, then in ((2, 1), (1, 2)):
        workdir = tmp_path / f"{first} then {then}"
        arguments = tiny_run(phantom_data, workdir, *common)
        process = subprocess.Popen(
            command(*arguments, f"--config.devices.data={first}"),
            cwd=REPOSITORY,
            env=environment | {"XLA_FLAGS": two},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        checkpoints = workdir / "checkpoints"
        while not any(path.name.isdigit() for path in checkpoints.glob("*")):
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 128 + signal.SIGTERM, errors
        last = run(
            environment | {"XLA_FLAGS": two},
            *arguments,
            f"--config.devices.data={then}",
        )
        assert last.returncode == 0, last.stderr
        assert "going on from step" in last.stderr
        expected, found = map(_training_losses, (tmp_path / "alone", workdir))
        assert found == pytest.approx(expected, rel=1e-3)
        assert len(set(found.values())) > 10


@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_the_run_and_names_the_images(
    phantom_data, tmp_path
):
    for name, looks_for_nans in (("run", False), ("again", True)):
        config = tiny_config(phantom_data).patch
        config.stages.stage1.rates.update(head=1e30, bottom=1e30)
        config.debug_nans = looks_for_nans
        with pytest.raises(UserError, match=r"on the images P_.*lower learning rates"):
            train_and_evaluate(config, tmp_path / name)


@pytest.mark.slow
def test_a_profile_is_written_where_tensorboard_finds_it(phantom_data, tmp_path):
    config = tiny_config(phantom_data, patch__steps_per_epoch=10, profile=True).patch
    config.stages.stage2.epochs = 0
    train_and_evaluate(config, tmp_path)
    traces = list(tmp_path.glob("patch/plugins/profile/*/*.xplane.pb"))
    assert len(traces) == 1
