"""Every figure of an evaluation, as plain numbers: what `metrics.json` holds."""

import dataclasses
from typing import Any

import numpy as np

from mammo_jax.evaluation import calibration, metrics, operating_points, subgroups
from mammo_jax.evaluation.prediction_table import PredictionTable, take

# With fewer images of either class a sub-group's figure is marked as uncertain.
FEW = 10


@dataclasses.dataclass(frozen=True)
class Tables:
    """The tables that are evaluated together.

    The figures are of `test`; thresholds and calibration come from `validation`, other
    images of the same model; `other` has another model's scores of the test images, in
    the same order.
    """

    test: PredictionTable
    validation: PredictionTable | None = None
    other: PredictionTable | None = None


def analyse(tables: Tables, *, patches: bool = False) -> dict[str, Any]:
    """Computes all figures; None where one is undefined, never NaN.

    An interval is [low, high], of 95 %, over patients. See the functions for the parts.

    Args:
      tables: the prediction tables to evaluate.
      patches: the rows are patches: no sub-groups, breasts and patients then.
    """
    test = tables.test
    result = {
        **counts(test),
        "auc": auc(test),
        "average_precision": average_precision(test),
        "calibration": _calibration(tables),
    }
    if not patches:
        result["subgroups"] = _subgroups(test)
        result["per_breast"] = _merged(subgroups.breasts(test))
        result["per_patient"] = _merged(subgroups.patients(test))
    if tables.validation is not None:
        validation = tables.validation
        result["validation"] = {**counts(validation), "auc": auc(validation)}
        result["operating_points"] = apply_thresholds(validation, test)
    if tables.other is not None:
        result["comparison"] = compare(test, tables.other)
    return result


def counts(table: PredictionTable) -> dict[str, int]:
    """Counts `images`, `patients` and `malignant` images."""
    return {
        "images": len(table.image_ids),
        "patients": len(set(table.patient_ids)),
        "malignant": int(table.labels.sum()),
    }


def auc(table: PredictionTable) -> dict[str, Any]:
    """Computes `value` and its interval, `patients_95`."""
    return _shown(metrics.auc_estimate(*_images(table)))


def average_precision(table: PredictionTable) -> dict[str, Any]:
    """Computes `value`, its interval `patients_95`, and what chance would give."""
    found = metrics.average_precision_estimate(*_images(table))
    return {**_shown(found), "by_chance": float(table.labels.mean())}


def _images(table: PredictionTable) -> tuple[Any, Any, Any]:
    return table.scores, table.labels, table.patient_ids


def _shown(found: metrics.Estimate) -> dict[str, Any]:
    ends = None if found.low is None else [found.low, found.high]
    return {"value": found.value, "patients_95": ends}


def apply_thresholds(
    chosen_on: PredictionTable, test: PredictionTable
) -> dict[str, dict[str, Any]] | None:
    """Chooses thresholds by every rule and counts what they do on the test images.

    None where `chosen_on` holds one class only.
    """
    if len(np.unique(chosen_on.labels)) < 2:
        return None
    known = chosen_on.scores, chosen_on.labels
    thresholds = {
        name: operating_points.choose_threshold(*known, *rule)
        for name, rule in operating_points.RULES.items()
    }
    return {
        name: operating_points.at_threshold(*_images(test), threshold)
        for name, threshold in thresholds.items()
    }


def _calibration(tables: Tables) -> dict[str, Any]:
    """Before and, with a line fitted on validation, after."""
    test, validation = tables.test, tables.validation
    known = (test.labels, test.patient_ids)
    result: dict[str, Any] = {
        "as_predicted": calibration.calibration(test.scores, *known)
    }
    if validation is not None:
        line = calibration.fit_line(validation.scores, validation.labels)
        result["line_from_validation"] = None if line is None else line._asdict()
        if line is not None:
            scores = calibration.apply_line(test.scores, line)
            result["calibrated"] = calibration.calibration(scores, *known)
    return result


def _subgroups(test: PredictionTable) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for attribute, groups in subgroups.subgroups(test).items():
        known = np.any(list(groups.values()), axis=0)
        result[attribute] = {
            "not_known": int((~known).sum()),
            "groups": {name: _group(test, mask) for name, mask in groups.items()},
        }
    return result


def _group(test: PredictionTable, mask: subgroups.Mask) -> dict[str, Any]:
    part = take(test, np.flatnonzero(mask).tolist())
    found = counts(part)
    few = min(found["malignant"], found["images"] - found["malignant"]) < FEW
    return {**found, "auc": auc(part), "few": few}


def _merged(table: PredictionTable | None) -> dict[str, Any] | None:
    if table is None:
        return None
    malignant = int(table.labels.sum())
    return {"count": len(table.image_ids), "malignant": malignant, "auc": auc(table)}


def compare(test: PredictionTable, other: PredictionTable) -> dict[str, Any]:
    """Compares another model's AUC: `other_auc`, `difference` and `p_value`."""
    difference, p_value = metrics.compare_aucs(
        test.scores, other.scores, test.labels, test.patient_ids
    )
    return {
        "other_auc": auc(other),
        "difference": _shown(difference),
        "p_value": p_value,
    }
