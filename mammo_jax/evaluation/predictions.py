"""The one prediction table: a row for every image."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from mammo_jax.common.tables import write_table

# The first three are what the field's tools for comparing models read.
COLUMNS = (
    "image_index",
    "malignant_pred",
    "malignant_label",
    "patient_id",
    "laterality",
    "view",
)
# Whole images have these besides, for sub-groups; a cell is empty where the data set
# does not say, or the image has no lesion:
#   breast_density: BI-RADS density, 1 to 4;
#   abnormality_types: calc, mass or calc;mass, over all lesions of the image;
#   lesion_size: the square root of the largest lesion's share of the image (0..1), by
#     its bounding box, whatever the grid that the image was squeezed to.
DETAIL_COLUMNS = ("breast_density", "abnormality_types", "lesion_size")


@dataclasses.dataclass(frozen=True)
class Predictions:
    """A model's answers to every image of a split.

    `labels` are the true classes, `losses` cross-entropies in nats; `malignant_classes`
    mean malignancy. `details` are the columns `DETAIL_COLUMNS`, where 0 is unknown or
    none; patches have no details.
    """

    image_ids: tuple[str, ...]
    patient_ids: tuple[str, ...]
    lateralities: tuple[str, ...]
    views: tuple[str, ...]
    probabilities: Float[np.ndarray, "images classes"]
    labels: Int[np.ndarray, " images"]
    losses: Float[np.ndarray, " images"]
    malignant_classes: tuple[int, ...]
    details: Mapping[str, np.ndarray] | None = None

    @property
    def malignant_score(self) -> Float[np.ndarray, " images"]:
        """Score of malignancy, 0..1."""
        score = self.probabilities[:, list(self.malignant_classes)].sum(1)
        return np.asarray(np.clip(score, 0.0, 1.0))

    @property
    def malignant_label(self) -> Int[np.ndarray, " images"]:
        """1 where the truth is malignant, else 0."""
        return np.isin(self.labels, self.malignant_classes).astype(np.int32)


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Writes the table as CSV; whole or not at all.

    The columns are `COLUMNS`, and for whole images `DETAIL_COLUMNS`.
    """
    columns: list[Sequence[object]] = [
        predictions.image_ids,
        # Nine digits tell any two float32 apart.
        [f"{score:.9g}" for score in predictions.malignant_score],
        predictions.malignant_label.tolist(),
        predictions.patient_ids,
        predictions.lateralities,
        predictions.views,
    ]
    details = predictions.details
    if details is not None:
        columns += [
            [density or "" for density in details["breast_density"]],
            details["abnormality_types"].tolist(),
            [f"{size:.4g}" if size else "" for size in details["lesion_size"]],
        ]
    header = (*COLUMNS, *DETAIL_COLUMNS)[: len(columns)]
    write_table(path, header, zip(*columns, strict=True))
