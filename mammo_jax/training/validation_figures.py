"""Pictures of a validation for TensorBoard: the scores, and the worst of them."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import sklearn.metrics
from jaxtyping import UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from tensorboardX import summary

from mammo_jax.evaluation import curves
from mammo_jax.evaluation.predictions import Predictions
from mammo_jax.images.grid import shrink
from mammo_jax.images.overlays import draw_overlay
from mammo_jax.training.experiment import Experiment
from mammo_jax.training.logs import Logs

_WORST = 4
# Higher images are made smaller: they only have to be recognised.
_SHOWN_HEIGHT = 384
# Sizes in inches.
_COLUMN, _HEAD, _FOOT = 2.4, 0.48, 0.25
_COLOURS = "red speaks for malignancy, blue against it"


def log_validation(
    logs: Logs,
    step: int,
    experiment: Experiment,
    predictions: Predictions,
    shown_map: Callable[..., Any],
) -> None:
    """Writes ROC and precision-recall curve, confusion matrix, most wrong images.

    Curves are left out where the images are all of one class, the confusion matrix
    where there are but two classes. `predictions` are those of the validation split, in
    its order; `shown_map` gives the class map over the most wrong images.
    """
    scores, labels = predictions.malignant_score, predictions.malignant_label
    if len(np.unique(labels)) == 2:
        area = sklearn.metrics.roc_auc_score(labels, scores)
        figure = curves.roc_figure({f"AUC {area:.3f}": (scores, labels)})
        _figure(logs, step, "validation/roc", figure)
        curve = summary.pr_curve("validation/precision_recall", labels, scores)
        logs.write(step, curve)
    if len(experiment.dataset.class_names) > 2:
        figure = _confusion_figure(predictions, experiment.dataset.class_names)
        _figure(logs, step, "validation/confusion", figure)
    figure = _worst_figure(experiment, predictions, shown_map)
    _figure(logs, step, "validation/most_wrong", figure)


def _figure(logs: Logs, step: int, name: str, figure: Figure) -> None:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    logs.images(step, name, pixels[None].astype(np.float32) / 255)


def _confusion_figure(predictions: Predictions, names: Sequence[str]) -> Figure:
    """Draws the shares of the true class, on the colours of the same."""
    figure = Figure(figsize=(5.4, 4.6), layout="constrained")
    shown = sklearn.metrics.ConfusionMatrixDisplay.from_predictions(
        predictions.labels,
        predictions.probabilities.argmax(1),
        labels=range(len(names)),
        display_labels=names,
        normalize="true",
        values_format=".0%",
        xticks_rotation=30,
        cmap="Blues",
        colorbar=False,
        ax=figure.subplots(),
    )
    shown.ax_.set(xlabel="predicted", ylabel="true")
    return figure


def _worst_figure(
    experiment: Experiment, predictions: Predictions, shown_map: Callable[..., Any]
) -> Figure:
    """Draws the images of the highest losses, with their class maps."""
    # The order is stable: of equal losses the first in the split comes first.
    worst = np.argsort(-predictions.losses, kind="stable")[:_WORST].tolist()
    source, names = experiment.source("validation"), experiment.dataset.class_names
    height, width = experiment.dataset.image_shape
    total = _COLUMN * height / width + _HEAD + _FOOT
    figure = Figure(figsize=(_COLUMN * len(worst), total))
    # A layout engine would forget the titles of images of a fixed aspect ratio.
    edges = {"left": 0.005, "right": 0.995, "wspace": 0.02}
    edges |= {"bottom": _FOOT / total, "top": 1 - _HEAD / total}
    grid = figure.subplots(1, len(worst), squeeze=False, gridspec_kw=edges)[0]
    for axes, row in zip(grid, worst, strict=True):
        image = source[row]["image"]
        picture = _small(image)
        axes.imshow(draw_overlay(picture, shown_map(image, picture.shape)))
        taken_for = int(predictions.probabilities[row].argmax())
        axes.set_title(
            f"{predictions.image_ids[row]}\n"
            f"is {names[predictions.labels[row]]}\n"
            f"called {names[taken_for]} "
            f"({predictions.probabilities[row, taken_for]:.2f})",
            fontsize=7,
        )
        axes.set_axis_off()
    figure.text(0.5, 0.06 / total, _COLOURS, fontsize=7, ha="center")
    return figure


def _small(image: np.ndarray) -> UInt8[np.ndarray, "height width"]:
    """Reduces an image to 256 grey levels and at most `_SHOWN_HEIGHT` rows."""
    return (shrink(image, _SHOWN_HEIGHT / len(image)) >> 8).astype(np.uint8)
