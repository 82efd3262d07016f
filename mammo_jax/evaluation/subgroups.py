"""Parts of a prediction table: by view, density, lesion; and breasts and patients."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Bool

from mammo_jax.evaluation.prediction_table import PredictionTable, take

Mask = Bool[np.ndarray, " images"]

_TYPES = {"calc": "calcification", "mass": "mass"}
_TERCILES = ("small", "middle", "large")


def subgroups(table: PredictionTable) -> dict[str, dict[str, Mask]]:
    """Finds the images of each group, by attribute.

    An image with a calcification and a mass is in both groups. Lesion sizes are cut
    into thirds of the images that have one. Images of which an attribute is not known
    are in none of its groups; an attribute with no groups is left out.
    """
    types = [value.split(";") for value in table.abnormality_types]
    named = {
        "view": (np.array(table.views), ("CC", "MLO")),
        "laterality": (np.array(table.lateralities), ("LEFT", "RIGHT")),
        "breast density": (table.breast_densities, (1, 2, 3, 4)),
    }
    found: dict[str, Mapping[str, Mask]] = {
        attribute: {str(value): values == value for value in wanted}
        for attribute, (values, wanted) in named.items()
    }
    found["abnormality"] = {
        name: np.array([short in each for each in types])
        for short, name in _TYPES.items()
    }
    found["lesion size"] = _terciles(table.lesion_sizes)
    kept = {
        attribute: {name: mask for name, mask in groups.items() if mask.any()}
        for attribute, groups in found.items()
    }
    return {attribute: groups for attribute, groups in kept.items() if groups}


def _terciles(sizes: np.ndarray) -> Mapping[str, Mask]:
    known = sizes[np.isfinite(sizes)]
    if len(np.unique(known)) < len(_TERCILES):
        return {}
    edges = [0.0, *np.quantile(known, [1 / 3, 2 / 3]), np.inf]
    masks = {}
    for name, low, high in zip(_TERCILES, edges, edges[1:], strict=False):
        mask = (sizes > low) & (sizes <= high)
        if mask.any():
            shown = f"{sizes[mask].min():.3f} to {sizes[mask].max():.3f}"
            masks[f"{name} ({shown})"] = mask
    return masks


def breasts(table: PredictionTable) -> PredictionTable | None:
    """Returns one row for each breast, with the mean score of its views.

    A breast is malignant when one of its views is. None where a laterality is empty.
    """
    if "" in table.lateralities:
        return None
    return _merged(table, zip(table.patient_ids, table.lateralities, strict=True))


def patients(table: PredictionTable) -> PredictionTable:
    """Returns one row for each patient, with the score that `patient_score` gives."""
    return _merged(table, ((patient,) for patient in table.patient_ids))


def patient_score(scores: Sequence[float], lateralities: Sequence[str]) -> float:
    """Returns a patient's score: the mean over a breast's views, of both the higher.

    Images without laterality count as those of one breast.

    Args:
      scores: the scores of the patient's images, 0..1; at least one.
      lateralities: LEFT, RIGHT or empty, one for each.
    """
    sides = np.array(lateralities)
    values = np.array(scores, np.float64)
    return max(float(values[sides == side].mean()) for side in sorted({*lateralities}))


def _merged(table: PredictionTable, keys: Iterable[tuple[str, ...]]) -> PredictionTable:
    rows: dict[tuple[str, ...], list[int]] = {}
    for row, key in enumerate(keys):
        rows.setdefault(key, []).append(row)
    parts = [take(table, group) for group in rows.values()]
    return dataclasses.replace(
        take(table, [group[0] for group in rows.values()]),
        scores=np.array(
            [patient_score(p.scores.tolist(), p.lateralities) for p in parts]
        ),
        labels=np.array([part.labels.max() for part in parts]),
    )
