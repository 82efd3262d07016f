"""Parts of a prediction table: by view, density, lesion; and breasts and patients."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Bool

from mammo_jax.evaluation.prediction_table import PredictionTable, take

Mask = Bool[np.ndarray, " images"]

_TYPES = {"calc": "calcification", "mass": "mass"}
_TERCILES = ("small", "middle", "large")
AGGREGATES: dict[str, Callable[[np.ndarray], float]] = {"mean": np.mean, "max": np.max}


def subgroups(table: PredictionTable) -> dict[str, dict[str, Mask]]:
    """The images of each group, by attribute.

    An image with a calcification and a mass is in both groups. Lesion sizes are cut
    into thirds of the images that have one. Images of which an attribute is not known
    are in none of its groups; an attribute with no groups is left out.
    """
    densities = table.breast_densities
    types = [value.split(";") for value in table.abnormality_types]
    found = {
        "view": _equal(np.array(table.views), ("CC", "MLO")),
        "laterality": _equal(np.array(table.lateralities), ("LEFT", "RIGHT")),
        "breast density": _equal(densities, (1, 2, 3, 4)),
        "abnormality": {
            name: np.array([short in each for each in types])
            for short, name in _TYPES.items()
        },
        "lesion size": _terciles(table.lesion_sizes),
    }
    kept = {
        attribute: {name: mask for name, mask in groups.items() if mask.any()}
        for attribute, groups in found.items()
    }
    return {attribute: groups for attribute, groups in kept.items() if groups}


def _equal(values: np.ndarray, wanted: Sequence) -> dict[str, Mask]:
    return {str(value): values == value for value in wanted}


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
            masks[f"{name} ({shown} of the height)"] = mask
    return masks


def breasts(table: PredictionTable, how: str) -> PredictionTable | None:
    """One row for each breast: its views' scores as `mean` or `max`.

    A breast is malignant when one of its views is. None where a laterality is empty.
    """
    if "" in table.lateralities:
        return None
    return _aggregate(
        table, list(zip(table.patient_ids, table.lateralities, strict=True)), how
    )


def patients(table: PredictionTable, how: str) -> PredictionTable:
    """One row for each patient: the scores of all views as `mean` or `max`."""
    return _aggregate(table, [(patient,) for patient in table.patient_ids], how)


def _aggregate(
    table: PredictionTable, keys: Sequence[tuple[str, ...]], how: str
) -> PredictionTable:
    rows: dict[tuple[str, ...], list[int]] = {}
    for row, key in enumerate(keys):
        rows.setdefault(key, []).append(row)
    merge = AGGREGATES[how]
    return dataclasses.replace(
        take(table, [group[0] for group in rows.values()]),
        scores=np.array([merge(table.scores[group]) for group in rows.values()]),
        labels=np.array([table.labels[group].max() for group in rows.values()]),
    )
