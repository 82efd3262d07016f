"""Every figure of an evaluation, as plain numbers: what `metrics.json` holds."""

import dataclasses
from typing import Any

import numpy as np
import sklearn.metrics

from mammo_jax.evaluation import bootstrap, calibration, metrics, subgroups
from mammo_jax.evaluation import operating_points as points
from mammo_jax.evaluation.prediction_table import PredictionTable

# With fewer images of either class a sub-group's figure is marked as uncertain.
FEW = 10


@dataclasses.dataclass(frozen=True)
class Tables:
    """What is evaluated together.

    Attributes:
      test: the images that the figures are of.
      validation: other images of the same model, to choose thresholds and the
        temperature on; None where there are none.
      other: another model's scores of the test images, in the same order.
    """

    test: PredictionTable
    validation: PredictionTable | None = None
    other: PredictionTable | None = None


def analyse(tables: Tables, *, patches: bool = False) -> dict[str, Any]:
    """All figures; None where one is undefined, never NaN.

    An interval is [low, high], of 95 %. See the functions for the parts.

    Args:
      tables: what is evaluated.
      patches: the rows are patches: no sub-groups, breasts and patients then.
    """
    test = tables.test
    result = {
        **counts(test),
        "auc": auc(test),
        "average_precision": average_precision(test),
        "operating_points": _operating_points(test, test),
        "calibration": _calibration(tables),
    }
    if not patches:
        result["subgroups"] = _subgroups(test)
        result["breasts_and_patients"] = _aggregated(test)
    if tables.validation is not None:
        result["validation"] = {
            **counts(tables.validation),
            "auc": auc(tables.validation),
        }
        result["thresholds_from_validation"] = _operating_points(
            tables.validation, test
        )
    if tables.other is not None:
        result["comparison"] = compare(test, tables.other)
    return result


def counts(table: PredictionTable) -> dict[str, int]:
    """`images`, `patients` and `malignant` images."""
    return {
        "images": len(table.image_ids),
        "patients": len(set(table.patient_ids)),
        "malignant": int(table.labels.sum()),
    }


def auc(table: PredictionTable) -> dict[str, Any]:
    """`value`, DeLong's interval over images, the bootstrap's over patients."""
    found = metrics.roc_auc_with_interval(table.scores, table.labels)
    statistic = bootstrap.weighted_auc(table.scores, table.labels)
    return {
        "value": found.value,
        "delong_95": _pair(found.low, found.high),
        "bootstrap_95": _bootstrap(table, statistic),
    }


def average_precision(table: PredictionTable) -> dict[str, Any]:
    """`value`, the bootstrap's interval over patients, and what chance would give."""
    value = None
    if len(np.unique(table.labels)) == 2:
        value = float(
            sklearn.metrics.average_precision_score(table.labels, table.scores)
        )
    statistic = bootstrap.weighted_average_precision(table.scores, table.labels)
    return {
        "value": value,
        "bootstrap_95": _bootstrap(table, statistic),
        "by_chance": float(table.labels.mean()),
    }


def _bootstrap(
    table: PredictionTable, statistic: bootstrap.Statistic
) -> list[float] | None:
    interval = bootstrap.patient_interval(table.patient_ids, statistic)
    return _pair(interval.low, interval.high)


def _pair(low: float | None, high: float | None) -> list[float] | None:
    return None if low is None or high is None else [low, high]


def _operating_points(
    chosen_on: PredictionTable, test: PredictionTable
) -> dict[str, Any] | None:
    """Thresholds by every rule, and what they do on the test images."""
    if len(np.unique(chosen_on.labels)) < 2:
        return None
    found = {}
    for name, rule in points.RULES.items():
        if chosen_on is test and name == "Youden":
            continue  # On the images that it is judged on it would flatter.
        threshold = rule(chosen_on.scores, chosen_on.labels)
        found[name] = points.at_threshold(test.scores, test.labels, threshold)
    return found


def _calibration(tables: Tables) -> dict[str, Any]:
    """Before and, with a temperature fitted on validation, after scaling."""
    test, validation = tables.test, tables.validation
    result: dict[str, Any] = {
        "as_predicted": calibration.calibration(test.scores, test.labels)
    }
    if validation is not None:
        temperature = calibration.fit_temperature(validation.scores, validation.labels)
        result["temperature_from_validation"] = temperature
        if temperature is not None:
            scaled = calibration.apply_temperature(test.scores, temperature)
            result["scaled"] = calibration.calibration(scaled, test.labels)
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
    scores, labels = test.scores[mask], test.labels[mask]
    found = metrics.roc_auc_with_interval(scores, labels)
    malignant = int(labels.sum())
    return {
        "images": len(labels),
        "patients": len(set(np.array(test.patient_ids)[mask])),
        "malignant": malignant,
        "auc": found.value,
        "delong_95": _pair(found.low, found.high),
        "few": min(malignant, len(labels) - malignant) < FEW,
    }


def _aggregated(test: PredictionTable) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for unit, merge in (("breast", subgroups.breasts), ("patient", subgroups.patients)):
        for how in subgroups.AGGREGATES:
            table = merge(test, how)
            if table is None:
                continue
            result[f"{unit}, {how} over views"] = {
                "count": len(table.image_ids),
                "malignant": int(table.labels.sum()),
                "auc": auc(table),
            }
    return result


def compare(test: PredictionTable, other: PredictionTable) -> dict[str, Any]:
    """The other model's AUC and the difference: DeLong's test, and over patients."""
    difference = metrics.compare_aucs(test.scores, other.scores, test.labels)
    first = bootstrap.weighted_auc(test.scores, test.labels)
    second = bootstrap.weighted_auc(other.scores, other.labels)
    return {
        "other_auc": auc(other),
        "difference": difference.value,
        "delong_95": _pair(difference.low, difference.high),
        "delong_p_value": difference.p_value,
        "bootstrap_95": _bootstrap(
            test, lambda weights: first(weights) - second(weights)
        ),
    }
