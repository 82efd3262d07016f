"""What the reproduction writes for TensorBoard, read by TensorBoard's own reader."""

import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from paper import (
    boards,
    command,
    ensembles,
    gradients,
    outcomes,
    untransferred,
)
from paper.rows import load_rows

ROWS = load_rows(Path(__file__).parents[2] / "configs" / "paper_rows.py")
FLIPPED = "vgg16_s10_vgg_512x1"
TABLE = (
    "image_index,malignant_pred,malignant_label,patient_id,laterality,view\n"
    "a,0.9,1,P1,LEFT,CC\nb,{middle},0,P2,LEFT,CC\nc,0.4,1,P3,LEFT,CC\n"
)


def read(folder):
    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def write(path, middle):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(TABLE.format(middle=middle))


@pytest.fixture
def request_done(tmp_path):
    request = command.check_request(
        ROWS, preset="phantom", out=tmp_path, tables=["4", "ensemble"], seeds=1
    )
    figures = {"auc": 0.75, "accuracy": 0.5, "loss": 0.6}
    metrics = {"steps": 7, "best_epoch": 1, "validation": figures, "test": figures}
    for run in request.plan:
        write(run.directory / "predictions" / "test.csv", 0.95)
        (run.directory / "metrics.json").write_text(json.dumps(metrics))
        if run.row.name in ensembles.ROWS:
            # One model tells the images apart, the others the wrong way round.
            middle = 0.1 if run.row.name == FLIPPED else 0.99
            write(ensembles.flipped_table(run, request.setting), middle)
        if run.row.name in untransferred.ROWS:
            write(untransferred.table_file(run, request.setting), 0.5)
    for run in request.plan:  # All of them have their predictions now.
        if run.row.name in ensembles.ROWS:
            flipped = ensembles.flipped_table(run, request.setting)
            ensembles.note_source(flipped, run.directory)
        if run.row.name in untransferred.ROWS:
            before = untransferred.table_file(run, request.setting)
            ensembles.note_source(before, Path(run.config.init_from))
    design = gradients.DESIGNS[1]
    curve = gradients.curve_file(design, 0, request.setting)
    curve.parent.mkdir(parents=True)
    curve.write_text(json.dumps({"steps": [0, 5], "norms": [0.5, 0.25]}))
    return request


def test_every_result_stands_there_once(request_done):
    found = outcomes.by_row(request_done.plan)
    for _ in range(2):
        boards.write_boards(found, request_done.setting)
    folder = request_done.setting.folder / boards.FOLDER
    for row in ensembles.ENSEMBLES["cbis_ddsm"].rows:
        ensemble = read(folder / "ensemble" / row / "seed0")
        assert [e.value for e in ensemble.Scalars("ensemble/auc")] == [0.0]
        expected = [1.0 if row == FLIPPED else 0.0]
        assert [e.value for e in ensemble.Scalars("ensemble/auc_flips")] == expected
    # The mean of the scores has another AUC than every model.
    mean = read(folder / "ensemble" / "mean_of_cbis_ddsm" / "seed0")
    assert [e.value for e in mean.Scalars("ensemble/auc")] == [0.0]
    assert [e.value for e in mean.Scalars("ensemble/auc_flips")] == [0.5]
    row = f"inbreast_{FLIPPED}_20patients"
    before = read(folder / "untransferred" / row / "seed0")
    assert [e.value for e in before.Scalars("untransferred/auc")] == [0.5]
    name = gradients.DESIGNS[1].name
    curve = read(folder / "appendix" / name / "seed0").Scalars("appendix/gradient_norm")
    assert [(event.step, event.value) for event in curve] == [(0, 0.5), (5, 0.25)]


def test_a_run_is_there_with_its_row_and_table_as_hyperparameters(request_done):
    boards.write_boards(outcomes.by_row(request_done.plan), request_done.setting)
    row = "vgg16_s10_vgg_512x1"
    events = read(request_done.setting.folder / boards.FOLDER / "rows" / row / "seed0")
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    start = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info
    assert start.hparams["row.name"].string_value == row
    assert start.hparams["row.table"].string_value == "3"
    assert start.hparams["batch_size"].number_value == 4
    assert [e.value for e in events.Scalars("final/test_auc")] == [0.75]
