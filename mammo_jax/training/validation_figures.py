"""What TensorBoard shows beside curves: how the scores lie, and where they fail."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import sklearn.metrics
from jaxtyping import Float
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from ml_collections import ConfigDict
from tensorboardX.summary import hparams

from mammo_jax.evaluation import curves
from mammo_jax.evaluation.predictions import Predictions
from mammo_jax.training import workdir as workdirs
from mammo_jax.training.experiment import Experiment
from mammo_jax.training.logs import Logs

_WORST = 4
# Higher ones are made smaller: they only have to be recognised.
_SHOWN_HEIGHT = 384
# Inches.
_COLUMN, _TITLE = 2.4, 0.7
_FINAL = ("auc", "accuracy", "loss")

# From the rows of the validation split to where the model looked in each: maps of
# values 0..1, of any height and width.
Overlay = Callable[[Sequence[int]], Sequence[Float[np.ndarray, "rows columns"]]]


def log_validation(
    logs: Logs,
    step: int,
    experiment: Experiment,
    predictions: Predictions,
    overlay: Overlay | None = None,
) -> None:
    """Writes ROC and precision-recall curve, confusion matrix, most wrong images.

    Curves are left out where the images are all of one class, the confusion matrix
    where there are but two classes.

    Args:
      logs: of the run.
      step: the optimiser's.
      experiment: whose validation split is shown.
      predictions: of every image of that split, in its order.
      overlay: see `Overlay`; drawn over the most wrong images.
    """
    scores, labels = predictions.malignant_score, predictions.malignant_label
    if len(np.unique(labels)) == 2:
        area = sklearn.metrics.roc_auc_score(labels, scores)
        figure = curves.roc_figure({f"AUC {area:.3f}": (scores, labels)})
        _figure(logs, step, "validation/roc", figure)
        logs.writer.add_pr_curve("validation/precision_recall", labels, scores, step)
    if len(experiment.dataset.class_names) > 2:
        figure = _confusion_figure(predictions, experiment.dataset.class_names)
        _figure(logs, step, "validation/confusion", figure)
    figure = _worst_figure(experiment, predictions, overlay)
    _figure(logs, step, "validation/most_wrong", figure)


def log_hyperparameters(
    logs: Logs, config: ConfigDict, metrics: Mapping[str, Any]
) -> None:
    """Writes the configuration with the final figures, for TensorBoard's HParams.

    They go into the run's own files: tensorboardX would make a run of its own, named
    after the time, in a directory below.

    Args:
      logs: of the run.
      config: of the run; its patch stage, a run of its own, is left out.
      metrics: what `metrics.json` holds.
    """
    values = dict(_flat(workdirs.as_json(config)))
    final = {
        f"final/{role}_{key}": metrics[role][key]
        for role in ("validation", "test")
        for key in _FINAL
        if metrics[role][key] is not None
    }
    logs.scalars(metrics["steps"], final)
    for summary in hparams(values, final):
        logs.writer._get_file_writer().add_summary(summary)


def _flat(config: Mapping[str, Any], prefix: str = "") -> Any:
    """Names with dots, and values that the plugin has types for."""
    for key, value in config.items():
        if not prefix and key == "patch":
            continue
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, bool | int | float | str):
            yield f"{prefix}{key}", value
        else:
            yield f"{prefix}{key}", str(value)


def _figure(logs: Logs, step: int, name: str, figure: Figure) -> None:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    logs.images(step, name, pixels[None].astype(np.float32) / 255)


def _confusion_figure(predictions: Predictions, names: Sequence[str]) -> Figure:
    """Counts, coloured by the share of the true class."""
    counts = sklearn.metrics.confusion_matrix(
        predictions.labels,
        predictions.probabilities.argmax(1),
        labels=range(len(names)),
    )
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    figure = Figure(figsize=(5.4, 4.6), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    for (row, column), count in np.ndenumerate(counts):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(
            column,
            row,
            f"{count}\n{shares[row, column]:.0%}",
            ha="center",
            va="center",
            color=colour,
            fontsize=8,
        )
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    return figure


def _worst_figure(
    experiment: Experiment, predictions: Predictions, overlay: Overlay | None
) -> Figure:
    """The images of the highest losses, with what they are and were taken for."""
    # A stable order: of equal losses the first in the split.
    worst = np.argsort(-predictions.losses, kind="stable")[:_WORST].tolist()
    source, names = experiment.source("validation"), experiment.dataset.class_names
    maps = overlay(worst) if overlay is not None else [None] * len(worst)
    height, width = experiment.dataset.image_shape
    size = (_COLUMN * len(worst), _COLUMN * height / width + _TITLE)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(1, len(worst), squeeze=False)[0]
    for axes, row, attention in zip(grid, worst, maps, strict=True):
        image = _small(source[row]["image"])
        axes.imshow(image, cmap="gray", vmin=0, vmax=65535)
        if attention is not None:
            extent = (-0.5, image.shape[1] - 0.5, image.shape[0] - 0.5, -0.5)
            axes.imshow(
                attention,
                cmap="inferno",
                alpha=0.4,
                vmin=0,
                vmax=1,
                extent=extent,
                interpolation="bilinear",
            )
        taken_for = int(predictions.probabilities[row].argmax())
        axes.set_title(
            f"{predictions.image_ids[row]}\n"
            f"is {names[predictions.labels[row]]}\n"
            f"called {names[taken_for]} "
            f"({predictions.probabilities[row, taken_for]:.2f})",
            fontsize=7,
        )
        axes.set_axis_off()
    return figure


def _small(image: np.ndarray) -> np.ndarray:
    """The grey image, without its channel axis, at most `_SHOWN_HEIGHT` pixels high."""
    grey: Any = image[..., 0]
    scale = min(1.0, _SHOWN_HEIGHT / grey.shape[0])
    width = max(1, round(grey.shape[1] * scale))
    size = (width, round(grey.shape[0] * scale))
    return np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA))
