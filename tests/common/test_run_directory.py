"""A run's directory and a run's numbers: what is refused before any work."""

import runpy
from pathlib import Path

import ml_collections
import pytest

from mammo_jax.common import run_directory
from mammo_jax.common.errors import UserError
from mammo_jax.config import patch_config, whole_config
from mammo_jax.training.settings import read_settings


def test_two_runs_never_share_a_directory(tmp_path):
    config = ml_collections.ConfigDict({"seed": 0})
    with (
        run_directory.claim(tmp_path, config),
        pytest.raises(UserError, match="another run is using"),
        run_directory.claim(tmp_path, config),
    ):
        pass
    with run_directory.claim(tmp_path, config):  # Free again.
        pass


def test_a_path_that_the_checkpoints_library_reads_as_a_pattern_is_refused(tmp_path):
    """A finished training could not be read again."""
    config = ml_collections.ConfigDict({"seed": 0})
    with (
        pytest.raises(UserError, match=r"takes '\[' .*--workdir"),
        run_directory.claim(tmp_path / "fold[1]", config),
    ):
        pass
    assert not (tmp_path / "fold[1]").exists()


def test_a_command_that_failed_before_any_work_may_be_mended(tmp_path):
    config = ml_collections.ConfigDict({"init_from": "wrong"})
    with run_directory.claim(tmp_path, config):
        (tmp_path / "model.json").write_text("{}")
        (tmp_path / "checkpoints").mkdir()
    config.init_from = "right"
    with run_directory.claim(tmp_path, config):
        pass
    assert run_directory.read_json(tmp_path / "config.json") == {"init_from": "right"}


def test_a_run_of_an_earlier_version_goes_on_where_newer_fields_are_off(tmp_path):
    config = ml_collections.ConfigDict({"seed": 0, "model": {"width": 1.0}})
    with run_directory.claim(tmp_path, config):
        (tmp_path / "checkpoint").write_text("")
    config.deterministic = False
    with run_directory.claim(tmp_path, config):
        pass
    config.model.stride = 32  # as it always was
    with run_directory.claim(tmp_path, config):
        pass
    config.deterministic = True
    with (
        pytest.raises(
            UserError, match=r"deterministic is None there and True here.*rerun:"
        ),
        run_directory.claim(tmp_path, config),
    ):
        pass


def test_a_whole_run_that_knew_fewer_fields_goes_on(tmp_path):
    fields = run_directory.as_json(whole_config())
    for part in (fields, fields["patch"]):
        del part["deterministic"], part["model"]["stride"]
    del fields["phantom"]["test_share"]
    run_directory.write_json(tmp_path / "config.json", fields)
    (tmp_path / "checkpoint").write_text("")
    with run_directory.claim(tmp_path, whole_config()):
        pass


def test_the_configuration_of_an_earlier_version_gets_its_newer_fields(tmp_path):
    fields = run_directory.as_json(whole_config())
    for part in (fields, fields["patch"]):
        del part["deterministic"], part["data"]["workers"], part["checkpoint_minutes"]
        part["checkpoint_every_steps"] = 500
    run_directory.write_json(tmp_path / "config.json", fields)
    rerun = runpy.run_path(str(Path(__file__).parents[2] / "configs/rerun.py"))
    config = rerun["get_config"](str(tmp_path))
    assert config.deterministic is config.patch.deterministic is False
    assert config.data.workers == config.patch.data.workers == 0
    assert config.to_json(sort_keys=True) == whole_config().to_json(sort_keys=True)
    config.seed = 5
    assert config.patch.seed == 5


def test_the_devices_are_a_runs_own_where_each_normalises_by_itself(tmp_path):
    fields = {"model": {"batch_norm_per_device": True}, "devices": {"data": 2}}
    more = {**fields, "devices": {"data": 4}}
    said = "config.devices.data is 2 there and 4 here"
    assert [*run_directory.differences(fields, more)] == [said]
    fields["model"]["batch_norm_per_device"] = more["model"] = {}
    assert not [*run_directory.differences({**fields, "model": {}}, more)]


def test_looking_into_a_run_does_not_make_it_another(tmp_path):
    earlier = {"seed": 0, "debug_nans": False, "checkpoint_every_steps": 500}
    with run_directory.claim(tmp_path, ml_collections.ConfigDict(earlier)):
        (tmp_path / "checkpoint").write_text("")
    config = ml_collections.ConfigDict(
        {"seed": 0, "debug_nans": True, "checkpoint_minutes": 10.0}
    )
    with run_directory.claim(tmp_path, config):
        pass
    config.seed = 1
    with (
        pytest.raises(UserError, match="seed is 0 there and 1 here"),
        run_directory.claim(tmp_path, config),
    ):
        pass


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("accum_steps", 5, "not divisible by config.accum_steps"),
        ("devices.data", 3, "not divisible by config.devices.data"),
        ("devices.data", 0, "at least 1"),
        ("ema_decay", 1.0, "below 1"),
        ("seed", -1, "at least 0"),
        ("data.threads", -1, "at least 0"),
        ("steps_per_epoch", -1, "at least 0"),
        ("stages.stage1.decay", "linear", "one of constant, cosine"),
    ],
)
def test_numbers_that_cannot_run_are_refused(field, value, message):
    config = patch_config()
    config.pretrained = ""
    config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=message):
        read_settings(config)
