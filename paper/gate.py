"""The gate before whole images: does a patch classifier carry over to them?

The same lesions, pixels and weights are classified twice: cut out as a patch, and at
the same place of the map that the classifier gives when it is slid over the whole
image. Where the AUC of malignant against benign lesions falls on the way, a network
that is trained on from there says nothing about the paper, and its rows are not run.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from mammo_jax.common import run_directory
from mammo_jax.common.progress import progress
from mammo_jax.datasets.labels import PATCH_CLASSES
from mammo_jax.datasets.pipeline import newest_version
from mammo_jax.evaluation.metrics import roc_auc
from mammo_jax.training.forest import make_heatmap_step
from mammo_jax.weights.model_directory import LoadedModel, load_model
from paper.runs import Found, PlannedRun

# In a patch classifier's `derived`: what `measure_gate` found of it.
GATE_FILE = "gate.json"
# AUCs cut out and slid may differ by so much, on the mean over a row's runs.
LARGEST_DIFFERENCE = 0.03

# A classified lesion: its class, and the scores cut out and slid.
Lesion = tuple[int, float, float]


def measure_gate(directory: Path, dataset: str, data_dir: str) -> dict[str, Any]:
    """Measures the AUC of lesions, cut out and slid, of a patch classifier's run.

    They are those of the test split of `dataset`: whole images on the grid that the
    classifier's patches were cut from.

    Returns:
      The numbers `lesions` and `malignant`; the AUCs `cut_out` and `slid`, None where
      all lesions are of one class.

    Raises:
      UserError: there is no such run or data set.
    """
    model = load_model(directory)
    step = make_heatmap_step(model)
    builder = tfds.builder_from_directory(newest_version(dataset, data_dir))
    lesions: list[Lesion] = []
    for example in progress(builder.as_data_source("test"), "gate", unit="image"):
        lesions += _classify(example, model, step)
    classes, cut_out, slid = (np.array(column) for column in zip(*lesions, strict=True))
    labels = np.isin(classes, model.description.malignant_classes).astype(int)
    return {
        "lesions": len(labels),
        "malignant": int(labels.sum()),
        "cut_out": roc_auc(cut_out, labels),
        "slid": roc_auc(slid, labels),
    }


def _classify(
    example: Mapping[str, Any], model: LoadedModel, step: Any
) -> list[Lesion]:
    image, size = example["image"][..., 0], model.description.patch_size
    stride = model.model_config.stride

    def score(images: np.ndarray) -> Any:
        shares = np.asarray(step(images))
        return shares[..., list(model.description.malignant_classes)].sum(-1)

    whole = score(image[None])[0]
    found = []
    for kind, box in zip(
        example["rois"]["class"], example["rois"]["bbox"], strict=True
    ):
        assert PATCH_CLASSES[kind] != "background"
        # The place of the map whose window is nearest to the lesion's centre.
        corner = ((box[:2] + box[2:]) / 2 - size / 2) / stride
        row, column = np.clip(np.rint(corner), 0, np.array(whole.shape) - 1).astype(int)
        top, left = row * stride, column * stride
        patch = image[top : top + size, left : left + size]
        if patch.shape == (size, size):
            alone = float(score(patch[None])[0, 0, 0])
            found.append((int(kind), alone, float(whole[row, column])))
    return found


def check_gate(start: str, plan: Sequence[PlannedRun]) -> str:
    """Says why no whole-image row may start from a patch row; empty where it may.

    Measures what is not measured yet, of all finished runs of the row.
    """
    whole = next(run for run in plan if run.row.start == start)
    measured = []
    for run in plan:
        if run.row.name == start and run.finished:
            path = run.derived / GATE_FILE
            if not path.exists():
                data = whole.config.data
                found = measure_gate(run.directory, data.dataset, data.data_dir)
                path.parent.mkdir(exist_ok=True)
                run_directory.write_json(path, found)
            measured.append(run_directory.read_json(path))
    return judge_gate(measured)


def judge_gate(measured: Sequence[Mapping[str, Any]]) -> str:
    """Says why a patch row does not pass; empty where it does."""
    areas = [[one["cut_out"], one["slid"]] for one in measured]
    if not areas or any(None in pair for pair in areas):
        return "the gate: no malignant and benign lesions in the test images to tell"
    cut_out, slid = np.mean(areas, axis=0)
    if abs(cut_out - slid) <= LARGEST_DIFFERENCE:
        return ""
    return (
        "the gate: the patch classifier does not carry over to whole images, AUC of "
        f"lesions {cut_out:.3f} cut out and {slid:.3f} slid; at most "
        f"{LARGEST_DIFFERENCE} apart is allowed"
    )


def gate_table(found: Found) -> list[Sequence[str]]:
    """Returns the cells of the table of all gates that were measured."""
    cells: list[Sequence[str]] = [
        ("patch classifier", "lesions", "cut out", "slid", "runs", "verdict")
    ]
    for row, finished in found.items():
        paths = (run.derived / GATE_FILE for run in finished)
        measured = [run_directory.read_json(path) for path in paths if path.exists()]
        if measured:
            shown = (
                "-" if None in areas else f"{np.mean(areas):.3f}"
                for areas in ([m[k] for m in measured] for k in ("cut_out", "slid"))
            )
            verdict = judge_gate(measured) or "passed"
            lesions = str(measured[0]["lesions"])
            cells.append((row, lesions, *shown, str(len(measured)), verdict))
    return cells
