"""TensorBoard files."""

import errno
import os
import sys
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import pytest
from ml_collections import ConfigDict
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2
from tensorboardX.record_writer import RecordWriter

from mammo_jax.common.errors import UserError
from mammo_jax.training import loop
from mammo_jax.training.checkpoint import Position
from mammo_jax.training.experiment import Experiment
from mammo_jax.training.logs import Logs, log_hyperparameters

IMAGES = np.zeros((2, 8, 6, 3), np.float32)


def _events(directory: Path) -> EventAccumulator:
    events = EventAccumulator(str(directory))
    events.Reload()
    return events


def _fail(*arguments, **options):
    raise OSError("no space left")


def test_pictures_are_there_when_the_logs_are_closed(tmp_path):
    with Logs(tmp_path, resumed_at=0) as logs:
        for step in (3, 8):
            logs.images(step, "seen", IMAGES)
    found = [event.step for event in _events(tmp_path).Images("seen")]
    assert found == [3, 8]


@pytest.mark.parametrize(("height", "shown"), [(1024, 512), (64, 64)])
def test_input_images_are_shown_as_the_network_sees_them(tmp_path, height, shown):
    batch = {
        "image": np.full((6, height, height), 25700, np.uint16),
        "channel_shift": np.zeros((6, 3), np.float32),
    }
    with Logs(tmp_path, resumed_at=0) as logs:
        experiment = mock.Mock(spec=Experiment, pixel_mean=40.0)
        run = mock.Mock(spec=loop.Run, experiment=experiment, logs=logs)
        loop._log_input_images(run, Position(step=5), batch)
    (event,) = _events(tmp_path).Images("train/augmented_inputs")
    png = np.frombuffer(event.encoded_image_string, np.uint8)
    picture = cv2.imdecode(png, cv2.IMREAD_COLOR)
    assert event.step == 5
    assert picture.shape == (shown, 4 * shown, 3)  # four of the six, side by side
    assert (picture == 100).all()


def test_a_picture_that_cannot_be_written_ends_the_run(tmp_path, monkeypatch):
    logs = Logs(tmp_path, resumed_at=0)
    monkeypatch.setattr(logs, "write", _fail)
    with pytest.raises(OSError, match="no space"), logs:
        logs.images(0, "seen", IMAGES)
    logs = Logs(tmp_path, resumed_at=0)
    monkeypatch.setattr(logs, "write", _fail)
    logs.images(0, "seen", IMAGES)
    with pytest.raises(OSError, match="no space"):
        logs.images(1, "seen", IMAGES)
    logs.close()


def test_a_full_disk_ends_the_run_and_does_not_stop_it_for_good(tmp_path, monkeypatch):
    def _full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    logs = Logs(tmp_path, resumed_at=0)
    monkeypatch.setattr(RecordWriter, "write", _full)
    # The queue of tensorboardX's thread holds ten.
    for step in range(30):
        with pytest.raises(UserError, match=r"No space left.*make room"):
            logs.scalars(step, {"train/loss": 1.0})
    logs.close()


def test_what_ends_the_run_is_not_hidden_behind_a_picture(tmp_path, monkeypatch):
    logs = Logs(tmp_path, resumed_at=0)
    monkeypatch.setattr(logs, "write", _fail)
    monkeypatch.setattr(logs, "scalars", lambda *arguments: sys.exit(7))
    logs.images(0, "seen", IMAGES)
    with pytest.raises(SystemExit), logs:
        logs.scalars(0, {})


def test_hyperparameters_stand_in_the_run_itself(tmp_path):
    config = ConfigDict(
        {
            "task": "whole",
            "batch_size": 4,
            "accum_steps": 1,
            "pretrained": "",
            "augment": {"zoom": (0.9, 1.2), "flips": True},
            "patch": {"batch_size": 99},
        }
    )
    figures = {"auc": 0.75, "accuracy": 0.5, "loss": 0.6}
    metrics = {"steps": 11, "validation": figures, "test": {**figures, "auc": None}}
    with Logs(tmp_path, resumed_at=0) as logs:
        log_hyperparameters(logs, config, metrics)
    assert not [entry for entry in tmp_path.iterdir() if entry.is_dir()]
    events = _events(tmp_path)
    content = events.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    start = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info
    assert start.hparams["batch_size"].number_value == 4
    assert "accum_steps" not in start.hparams  # It is the paper's.
    assert start.hparams["augment.flips"].bool_value is True
    assert start.hparams["augment.zoom"].string_value == "[0.9, 1.2]"
    assert not any(name.startswith("patch") for name in start.hparams)
    (event,) = events.Scalars("result/validation_auc")
    assert (event.step, event.value) == (11, pytest.approx(0.75))
    assert "result/test_auc" not in events.Tags()["scalars"]
