"""Tables of stages: their order, and what cannot train."""

import json

import pytest
from ml_collections import ConfigDict

from mammo_jax.common import run_directory
from mammo_jax.common.errors import UserError
from mammo_jax.config import STAGES, patch_config, stage_table
from mammo_jax.models.groups import GROUPS
from mammo_jax.training.stages import read_stages

RATES = dict.fromkeys(GROUPS, 1e-3)
ROW = {"epochs": 1, "rates": RATES}
# Neither the order of the alphabet nor that of the numbers in the names.
NAMES = ["stage2", "stage10", "all", "stage1"]


def _config() -> ConfigDict:
    return ConfigDict({"seed": 0, "stages": {name: ROW for name in NAMES}})


def _names(table: ConfigDict | dict) -> list[str]:
    return [stage.name for stage in read_stages(table)]


def test_stages_come_in_the_order_in_which_they_are_written():
    config = _config()
    assert _names(config.stages) == _names({name: ROW for name in NAMES}) == NAMES
    config.lock()
    config.stages.stage10.epochs = 3  # As an override on the command line does.
    assert _names(config.stages) == NAMES


def test_their_order_outlasts_the_file_of_the_run(tmp_path):
    with run_directory.claim(tmp_path, _config()):
        pass
    again = ConfigDict(run_directory.read_json(tmp_path / "config.json"))
    assert _names(again.stages) == NAMES
    (tmp_path / "checkpoint").write_text("")
    with run_directory.claim(tmp_path, again):
        pass
    other = _config()
    del other.stages["all"]
    other.stages["all"] = ConfigDict(ROW)
    with (
        pytest.raises(UserError, match=r"config.stages are in the order .*'all', 'sta"),
        run_directory.claim(tmp_path, other),
    ):
        pass


def test_a_run_whose_file_was_written_in_the_order_of_the_alphabet_goes_on(tmp_path):
    config = patch_config()
    plain = run_directory.as_json(config)
    (tmp_path / "config.json").write_text(json.dumps(plain, sort_keys=True))
    (tmp_path / "checkpoint").write_text("")
    with run_directory.claim(tmp_path, config):
        pass


def test_stages_of_no_epochs_are_left_out():
    rows = {"stage1": {**ROW, "epochs": 0}, "stage2": ROW}
    assert _names(rows) == ["stage2"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"epochs": 0}, "config.stages: every stage has 0 epochs; nothing would train"),
        ({"epochs": -1}, "stage1.epochs is -1; it must be at least 0"),
        ({"rates": {**RATES, "botom": 0.1}}, r"unknown layer groups \['botom'\]; the "),
        ({"rates": {"new_layers": 1e-3}}, "stage1.rates gives no rate for .*'bottom'"),
        ({"rates": {**RATES, "head": -1.0}}, "stage1: head is -1.0; it must be at lea"),
        ({"l2": -0.1}, "stage1: l2 is -0.1"),
        ({"decay": "linear"}, "stage1.decay is 'linear'; it must be one of constant, "),
        ({"warmup_epochs": 2}, "stage1.warmup_epochs is 2.0; it must be between 0 "),
        ({"epochz": 2}, "stage1: .*'epochz'.*; its fields are epochs, rates, l2"),
        ({"l2": "much"}, "config.stages.stage1: .*'much'; its fields"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_tables_that_cannot_train_are_refused(row, message):
    with pytest.raises(UserError, match=message):
        read_stages({"stage1": {**ROW, **row}})


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ([ROW], r"config.stages is \[.*; it must be a table of stages"),
        ({"stage1": 3}, "config.stages.stage1 is 3; it must be a table of fields"),
        ({"stage1": {"epochs": 1, "rates": 1e-3}}, "stage1.rates is 0.001; it must gi"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_what_is_no_table_is_refused(table, message):
    with pytest.raises(UserError, match=message):
        read_stages(table)


def test_the_papers_stages_are_those_of_sections_2_2_and_2_3():
    tables = {
        name: [
            (stage.epochs, stage.l2, {g: r for g, r in stage.rates.items() if r})
            for stage in read_stages(stage_table(name))
        ]
        for name in ("patch", "patch_s1", "patch_random", "whole")
    }
    rates = [
        {"head": 1e-3},
        {"head": 1e-4, "top_of_trunk": 1e-4},
        {"head": 1e-5, "top_of_trunk": 1e-5, "bottom": 1e-5},
    ]
    assert tables["patch"] == [(3, 0, rates[0]), (10, 0, rates[1]), (37, 0, rates[2])]
    assert [row[0] for row in tables["patch_s1"]] == [12, 40, 148]
    assert [row[2] for row in tables["patch_s1"]] == rates
    assert tables["patch_random"] == [(50, 0, dict.fromkeys(GROUPS, 1e-3))]
    assert tables["whole"] == [
        (30, 1e-3, {"new_layers": 1e-4}),
        (20, 1e-2, dict.fromkeys(GROUPS, 1e-6)),
    ]


@pytest.mark.parametrize("name", list(STAGES))
def test_every_table_of_stages_can_train(name):
    assert read_stages(stage_table(name))
