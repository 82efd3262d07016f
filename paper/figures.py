"""Figure 2 and the appendix's figure as PNG files."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from paper import gradients
from paper.runs import Found

# Two VGG tops: with repetitions and without (section 2.3).
FIGURE_2_ROWS = {
    "vgg16_s10_vgg_512x3": "512x3 twice",
    "vgg16_s10_vgg_512x1": "512x1 twice",
}
# Curves in TensorBoard.
_LOSSES = {"loss/train": "train", "loss/validation": "validation"}
_DPI = 150


def loss_curves(directory: Path) -> dict[str, tuple[list[int], list[float]]]:
    """Reads the steps and losses that a run wrote for TensorBoard, by the curve."""
    from tensorboard.backend.event_processing import event_accumulator

    folder = directory / "whole"
    if not folder.is_dir():  # Somebody made room.
        return {}
    events = event_accumulator.EventAccumulator(
        str(folder), size_guidance={event_accumulator.SCALARS: 0}
    )
    events.Reload()
    there = events.Tags()["scalars"]
    return {
        _LOSSES[tag]: (
            [event.step for event in events.Scalars(tag)],
            [event.value for event in events.Scalars(tag)],
        )
        for tag in _LOSSES
        if tag in there
    }


def draw_figure_2(found: Found, path: Path) -> Path | None:
    """Draws train and validation loss of the two tops, a line for each seed.

    Returns:
      The file, or None where neither row has been run.
    """
    if not any(row in found for row in FIGURE_2_ROWS):
        return None
    figure = Figure(figsize=(8, 3.4), dpi=_DPI, layout="constrained")
    panels = figure.subplots(1, len(FIGURE_2_ROWS), sharey=True)
    for axes, (row, title) in zip(panels, FIGURE_2_ROWS.items(), strict=True):
        named: set[str] = set()
        for run in found.get(row, ()):
            for name, (steps, losses) in loss_curves(run.directory).items():
                style = "-" if name == "validation" else ":"
                label = None if name in named else name
                named.add(name)
                axes.semilogy(steps, losses, style, color=f"C{run.seed}", label=label)
        axes.set_title(f"VGG16 + VGG blocks {title}")
        axes.set_xlabel("optimiser step")
        _add_legend(axes)
    panels[0].set_ylabel("cross-entropy, nats")
    return _save(figure, path)


def draw_appendix(found: Found, path: Path) -> Path | None:
    """Draws sizes of Jacobians, a panel for each trunk; None without any."""
    figure = Figure(figsize=(8, 3.4), dpi=_DPI, layout="constrained")
    panels = figure.subplots(1, len(gradients.DESIGNS), sharey=True)
    for axes, (trunk, designs) in zip(panels, gradients.DESIGNS.items(), strict=True):
        for number, (title, row) in enumerate(designs.items()):
            for sizes in gradients.read_sizes(row, found).values():
                label = title if f"C{number}" not in _colours(axes) else None
                axes.semilogy(
                    gradients.WHEN, sizes, ".-", color=f"C{number}", label=label
                )
        axes.set_title(trunk)
        _add_legend(axes)
    panels[0].set_ylabel("Jacobian of the log-odds")
    return _save(figure, path) if any(axes.lines for axes in panels) else None


def _colours(axes: Axes) -> list[Any]:
    return [line.get_color() for line in axes.lines]


def _add_legend(axes: Axes) -> None:
    if axes.lines:  # What has not been run has no line.
        axes.legend(fontsize=7)


def _save(figure: Figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure)
    figure.savefig(path, format="png", dpi=_DPI, metadata={"Software": None})
    return path
