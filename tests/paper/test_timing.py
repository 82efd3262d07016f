"""Steps are timed for real, on tiny models."""

import dataclasses
from pathlib import Path

import pytest

from paper import command, presets, timing
from paper.rows import load_rows

ROWS = load_rows(Path(__file__).parents[2] / "configs" / "paper_rows.py")


@pytest.mark.slow
def test_a_step_of_every_kind_takes_time_and_a_forest_has_none(tmp_path, phantom_data):
    request = command.check_request(
        ROWS,
        preset="phantom",
        out=tmp_path,
        names=["vgg16_s10_vgg_512x1", "resnet50_s10_forest"],
        seeds=1,
    )
    scale = dataclasses.replace(presets.PHANTOM, height=288)
    setting = dataclasses.replace(request.setting, scale=scale)
    # No weights were pretrained, and no patch classifier trained: a step needs neither.
    runs = [
        run
        for run in dataclasses.replace(request, setting=setting).plan
        if run.row.name != "patch_resnet50_s10"
    ]
    assert [run.row.kind for run in runs] == ["patch", "forest", "whole"]
    for run in runs:
        part = "paper_s1" if run.row.kind == "patch" else "paper_whole"
        run.config.data.data_dir = str(phantom_data)
        run.config.data.dataset = f"cbis_ddsm/{part}_h288"
        run.config.batch_size = 2
        run.config.pretrained = ""
    seconds = timing.time_steps(runs)
    assert set(seconds) == {timing.kind_of_step(runs[0]), timing.kind_of_step(runs[2])}
    assert all(0 < value < 60 for value in seconds.values())
