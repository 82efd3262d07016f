"""What a validation leaves in TensorBoard."""

import types
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.pr_curve import plugin_data_pb2 as pr_curve_pb2

from mammo_jax.evaluation.predictions import Predictions
from mammo_jax.training import validation_figures
from mammo_jax.training.experiment import Experiment
from mammo_jax.training.logs import Logs

CLASSES = {
    "whole": ("not_malignant", "malignant"),
    "patch": (
        "background",
        "calc_benign",
        "calc_malignant",
        "mass_benign",
        "mass_malignant",
    ),
}
MALIGNANT = {"whole": (1,), "patch": (2, 4)}


def _experiment(task: str, images: int) -> Experiment:
    rng = np.random.default_rng(0)
    source = [
        {"image": rng.integers(0, 65536, (48, 32), dtype=np.uint16)}
        for _ in range(images)
    ]
    dataset = types.SimpleNamespace(class_names=CLASSES[task], image_shape=(48, 32))
    return mock.Mock(spec=Experiment, dataset=dataset, source=lambda role: source)


def _predictions(task: str, labels: list[int]) -> Predictions:
    count, classes = len(labels), len(CLASSES[task])
    probabilities = np.random.default_rng(1).dirichlet(np.ones(classes), count)
    return Predictions(
        image_ids=tuple(f"P_{row}_LEFT_CC" for row in range(count)),
        patient_ids=tuple(f"P_{row}" for row in range(count)),
        lateralities=("LEFT",) * count,
        views=("CC",) * count,
        probabilities=probabilities,
        labels=np.array(labels),
        losses=-np.log(probabilities[np.arange(count), labels]),
        malignant_classes=MALIGNANT[task],
    )


def _events(directory: Path) -> EventAccumulator:
    events = EventAccumulator(str(directory), size_guidance={"images": 0})
    events.Reload()
    return events


def _log(
    directory: Path, task: str, labels: list[int], strength: float = 0.0
) -> EventAccumulator:
    with Logs(directory, resumed_at=0) as logs:
        validation_figures.log_validation(
            logs,
            7,
            _experiment(task, len(labels)),
            _predictions(task, labels),
            lambda image, shape: np.full(shape, strength),
        )
    return _events(directory)


def test_whole_images_leave_curves_and_the_most_wrong(tmp_path):
    events = _log(tmp_path, "whole", [0, 1, 0, 1, 1, 0])
    assert {tag.rpartition("/")[0] or tag for tag in events.Tags()["images"]} <= {
        "validation",
        "validation/roc",
        "validation/most_wrong",
    }
    names = " ".join(events.Tags()["images"])
    assert "roc" in names
    assert "most_wrong" in names
    assert "confusion" not in names
    assert "validation/precision_recall" in events.PluginTagToContent("pr_curves")


def test_the_precision_recall_curve_is_that_of_the_scores(tmp_path):
    labels = [0, 1, 0, 1, 1, 0]
    events = _log(tmp_path, "whole", labels)
    content = events.PluginTagToContent("pr_curves")["validation/precision_recall"]
    curve = pr_curve_pb2.PrCurvePluginData.FromString(content)
    (event,) = events.Tensors("validation/precision_recall")
    true_positives = np.array(event.tensor_proto.float_val).reshape(
        -1, curve.num_thresholds
    )[0]
    score = _predictions("whole", labels).malignant_score
    at_half = (score[np.array(labels) == 1] >= 0.5).sum()
    assert true_positives[0] == 3
    assert true_positives[curve.num_thresholds // 2] == at_half


def test_patches_leave_a_confusion_matrix(tmp_path):
    events = _log(tmp_path, "patch", [0, 1, 2, 3, 4, 0])
    assert any("confusion" in tag for tag in events.Tags()["images"])


def test_one_class_alone_leaves_no_curves(tmp_path):
    events = _log(tmp_path, "whole", [0, 0, 0])
    assert not any("roc" in tag for tag in events.Tags()["images"])
    assert any("most_wrong" in tag for tag in events.Tags()["images"])


def test_the_most_wrong_images_are_those_of_the_highest_losses(tmp_path):
    shown: list[np.ndarray] = []

    def look(image, shape):
        shown.append(image)
        return np.zeros(shape)

    labels = [0, 1] * 5
    experiment, predictions = _experiment("whole", 10), _predictions("whole", labels)
    with Logs(tmp_path, resumed_at=0) as logs:
        validation_figures.log_validation(logs, 7, experiment, predictions, look)
    worst = np.argsort(-predictions.losses)[:4]
    source = experiment.source("validation")
    for image, row in zip(shown, worst, strict=True):
        np.testing.assert_array_equal(image, source[row]["image"])


def _red_share(events: EventAccumulator) -> float:
    """Of the picture of the most wrong images, how much is clearly red."""
    (name,) = (tag for tag in events.Tags()["images"] if "most_wrong" in tag)
    content = np.frombuffer(events.Images(name)[0].encoded_image_string, np.uint8)
    blue, _, red = np.moveaxis(
        cv2.imdecode(content, cv2.IMREAD_COLOR).astype(int), -1, 0
    )
    return float((red - blue > 60).mean())


def test_evidence_for_malignancy_is_red(tmp_path):
    for name, strength in (("none", 0.0), ("against", -1.0), ("for", 1.0)):
        events = _log(tmp_path / name, "whole", [0, 1, 0, 1], strength)
        assert (_red_share(events) > 0.3) == (name == "for")


def test_fewer_images_than_are_shown_are_no_trouble(tmp_path):
    events = _log(tmp_path, "whole", [1])
    assert any("most_wrong" in tag for tag in events.Tags()["images"])
