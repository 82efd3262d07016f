"""The figures, from what runs leave behind."""

import json
from pathlib import Path

import cv2
import pytest

from mammo_jax.training.logs import Logs
from paper import command, figures, gradients, runs
from paper.rows import load_rows

ROWS = load_rows(Path(__file__).parents[2] / "configs" / "paper_rows.py")


@pytest.fixture
def request_2(tmp_path):
    return command.check_request(
        ROWS, preset="phantom", out=tmp_path, figures=["2", "appendix"], seeds=1
    )


def test_figure_2_shows_the_losses_that_the_runs_logged(request_2, tmp_path):
    for run in request_2.plan:
        if run.row.name in figures.FIGURE_2_ROWS:
            train, validation = "loss/train", "loss/validation"
            with Logs(run.directory / "whole", resumed_at=0) as logs:
                for step in (10, 20):
                    logs.scalars(step, {train: 1 / step, "other": 3.0})
                logs.scalars(20, {validation: 0.5})
            (run.directory / "metrics.json").write_text("{}")
            curves = figures.loss_curves(run.directory)
            assert curves["train"][0] == [10, 20]
            assert curves["train"][1] == pytest.approx([0.1, 0.05])
            assert curves["validation"] == ([20], [0.5])
    found = runs.finished_runs(request_2.plan)
    path = figures.draw_figure_2(found, tmp_path / "figure_2.png")
    assert cv2.imread(str(path)).shape[1] > 800


def test_the_appendix_shows_the_curves_that_were_measured(request_2, tmp_path):
    for run in request_2.plan:
        if run.row.name in gradients.ROWS[:3]:
            run.derived.mkdir(parents=True)
            (run.directory / "metrics.json").write_text("{}")
            sizes = json.dumps(dict(zip(gradients.WHEN, (1e-3, 2e-3), strict=True)))
            (run.derived / gradients.JACOBIAN_FILE).write_text(sizes)
    found = runs.finished_runs(request_2.plan)
    path = figures.draw_appendix(found, tmp_path / "appendix.png")
    assert cv2.imread(str(path)).shape[1] > 800


def test_nothing_is_drawn_without_runs(request_2, tmp_path):
    assert figures.draw_figure_2({}, tmp_path / "a.png") is None
    assert figures.draw_appendix({}, tmp_path / "b.png") is None
    assert not list(tmp_path.glob("*.png"))
