"""The figures of an evaluation: ROC, precision-recall, reliability, histogram.

Figures are drawn without pyplot, so that nothing is kept between calls.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import sklearn.metrics
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# Okabe and Ito's colours, told apart by colour-blind readers.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#8a94a3"
_COLOURS = (BLUE, ORANGE)
_DOTTED: Any = {"color": GREY, "linewidth": 1, "linestyle": ":"}
_FROM_VALIDATION: Any = {"color": GREEN, "label": "Youden (from validation)"}
_BINS = 20
_SIZE = (4.8, 4.4)

# Name in the legend to (scores, labels); every label vector holds both classes.
Curves = Mapping[str, tuple[Float[np.ndarray, " images"], Int[np.ndarray, " images"]]]


def roc_figure(curves: Curves, point: tuple[float, float] | None = None) -> Figure:
    """Draws ROC curves; `point`: sensitivity and specificity at a threshold."""
    figure, axes = _square("1 - specificity", "sensitivity")
    axes.plot([0, 1], [0, 1], **_DOTTED)
    for colour, (name, (scores, labels)) in zip(_COLOURS, curves.items(), strict=False):
        false_alarms, found, _ = sklearn.metrics.roc_curve(labels, scores)
        axes.plot(false_alarms, found, color=colour, label=name)
    if point is not None:
        axes.plot(1 - point[1], point[0], "o", **_FROM_VALIDATION)
    axes.legend(loc="lower right")
    return figure


def precision_recall_figure(curves: Curves) -> Figure:
    """Draws precision over recall; dotted is the share of malignant images."""
    figure, axes = _square("recall (sensitivity)", "precision")
    for colour, (name, (scores, labels)) in zip(_COLOURS, curves.items(), strict=False):
        precision, recall, _ = sklearn.metrics.precision_recall_curve(labels, scores)
        axes.plot(recall, precision, color=colour, label=name, drawstyle="steps-post")
        axes.axhline(labels.mean(), **_DOTTED)
    axes.legend(loc="lower left")
    return figure


def reliability_figure(bins: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Draws the share of malignant images over the mean score, with 95 % intervals.

    Args:
      bins: name in the legend to `mammo_jax.evaluation.calibration.reliability`.
    """
    figure, axes = _square("mean score of the bin", "share of malignant images")
    axes.plot([0, 1], [0, 1], **_DOTTED)
    for colour, (name, entries) in zip(_COLOURS, bins.items(), strict=False):
        value, low, high = np.array([entry["malignant_share"] for entry in entries]).T
        axes.errorbar(
            [entry["mean_score"] for entry in entries],
            value,
            yerr=np.clip([value - low, high - value], 0, 1),
            color=colour,
            marker="o",
            markersize=4,
            linewidth=1.2,
            elinewidth=0.8,
            capsize=2,
            label=name,
        )
    axes.legend(loc="best")
    return figure


def histogram_figure(
    scores: Float[np.ndarray, " images"],
    labels: Int[np.ndarray, " images"],
    threshold: float | None = None,
) -> Figure:
    """Draws the scores (0..1) of both classes, and a threshold from validation."""
    figure, axes = _plain("score", "images", _SIZE)
    edges = np.linspace(0, 1, _BINS + 1).tolist()
    for label, name in enumerate(("not malignant", "malignant")):
        own = scores[labels == label]
        title = f"{name} ({len(own)})"
        axes.hist(own, bins=edges, color=_COLOURS[label], alpha=0.55, label=title)
    if threshold is not None:
        axes.axvline(threshold, **_FROM_VALIDATION)
    axes.set_xlim(0, 1)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="best")
    return figure


def interval_figure(
    rows: Sequence[tuple[str, float, Sequence[float] | None]], whole: float
) -> Figure:
    """Draws AUCs with their intervals, one below the other.

    Args:
      rows: name, AUC, and (low, high) or None where there is no interval.
      whole: the AUC of all images, as a line.
    """
    label = "AUC and 95 % interval; dotted: all images"
    figure, axes = _plain(label, "", (7.2, 0.9 + 0.26 * len(rows)))
    axes.axvline(whole, **_DOTTED)
    for height, (_, value, interval) in enumerate(reversed(rows)):
        if interval is not None:
            axes.plot(interval, [height, height], color=BLUE, linewidth=1.5)
        axes.plot(value, height, "o", color=BLUE, markersize=5)
    axes.set_yticks(range(len(rows)), [name for name, *_ in reversed(rows)])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    return figure


def _square(x_label: str, y_label: str) -> tuple[Figure, Axes]:
    figure, axes = _plain(x_label, y_label, _SIZE)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    return figure, axes


def _plain(
    x_label: str, y_label: str, size: tuple[float, float]
) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e6eaf0", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set(xlabel=x_label, ylabel=y_label)
    return figure, axes
