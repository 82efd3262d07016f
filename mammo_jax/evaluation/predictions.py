"""The one prediction table: a row for every image."""

import csv
import dataclasses
import os
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

# The first three are what the field's tools for comparing models read.
COLUMNS = (
    "image_index",
    "malignant_pred",
    "malignant_label",
    "patient_id",
    "laterality",
    "view",
)


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What a model said of every image of a split.

    Attributes:
      image_ids: one for each image.
      patient_ids: likewise.
      lateralities: LEFT or RIGHT.
      views: CC or MLO.
      probabilities: of each class, 0..1.
      labels: the true class.
      losses: cross-entropy in nats.
      malignant_classes: the classes that mean malignancy.
    """

    image_ids: tuple[str, ...]
    patient_ids: tuple[str, ...]
    lateralities: tuple[str, ...]
    views: tuple[str, ...]
    probabilities: Float[np.ndarray, "images classes"]
    labels: Int[np.ndarray, " images"]
    losses: Float[np.ndarray, " images"]
    malignant_classes: tuple[int, ...]

    @property
    def malignant_score(self) -> Float[np.ndarray, " images"]:
        """Probability of malignancy, 0..1."""
        score = self.probabilities[:, list(self.malignant_classes)].sum(1)
        return np.clip(score, 0.0, 1.0)

    @property
    def malignant_label(self) -> Int[np.ndarray, " images"]:
        """1 where the truth is malignant, else 0."""
        return np.isin(self.labels, self.malignant_classes).astype(np.int32)


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Writes the table as CSV; whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    with open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(
            zip(
                predictions.image_ids,
                # Nine digits tell any two float32 apart.
                (f"{score:.9g}" for score in predictions.malignant_score),
                predictions.malignant_label.tolist(),
                predictions.patient_ids,
                predictions.lateralities,
                predictions.views,
                strict=True,
            )
        )
    os.replace(partial, path)
