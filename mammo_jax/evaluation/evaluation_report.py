"""The report of an evaluation: its figures as text, tables and curves."""

from collections.abc import Sequence
from typing import Any

from mammo_jax.evaluation import curves
from mammo_jax.evaluation.analysis import FEW, Tables
from mammo_jax.evaluation.bootstrap import REPLICATES
from mammo_jax.evaluation.report import Picture, Section, Table

ABOUT_PATCHES = (
    "Every row of the tables is a patch of a mammogram; its score is the probability "
    "of a malignant calcification or mass."
)
_UNDEFINED = "undefined: the images are all of one class"
_NO_VALIDATION = (
    "Without a validation table no threshold and no temperature was chosen: chosen on "
    "the images that they are judged on, they would flatter the model."
)
# Names of the figures that a report may have.
FIGURES = (
    "roc",
    "precision_recall",
    "histogram",
    "comparison",
    "reliability",
    "subgroups",
)
# What an image of which an attribute is not known lacks, where it may well have none.
_LACKING = {
    "abnormality": "Without an abnormality, or without its type",
    "lesion size": "Without a lesion, or without its size",
}
_METHODS = (
    "A score is the probability of malignancy, 0 to 1; an image is malignant when one "
    "of its abnormalities is. Ties count one half in every AUC.",
    "DeLong's intervals and p-values (on the logit scale for single AUCs) take images "
    "as independent of one another. The views of one patient are not: the bootstrap "
    f"draws whole patients ({REPLICATES} replicates, percentile, fixed seed) and is "
    "the more honest of the two where a patient has several images. No bootstrap "
    "interval is given where all replicates are alike, as with a perfect separation.",
    "Intervals of shares (sensitivity, specificity, predictive values, the points of "
    "the reliability curve) are Wilson's, over images. Predictive values hold for the "
    "share of malignant images in this table only.",
    "All intervals are of 95 %, and none is corrected for the number of figures in "
    "this report: among many sub-groups some will differ by chance.",
    "For research. Not a medical device: no clinical decision may rest on these "
    "figures.",
)


def report_sections(tables: Tables, figures: dict[str, Any]) -> list[Section]:
    """The sections of a report.

    Args:
      tables: what was evaluated.
      figures: what `analyse` said of them.
    """
    return [
        _summary(tables, figures),
        *([_comparison(tables, figures)] if tables.other is not None else []),
        _operating_points(figures),
        _calibration(figures),
        *([_aggregated(figures)] if "breasts_and_patients" in figures else []),
        *([_subgroups(figures)] if "subgroups" in figures else []),
        Section("How to read this", _METHODS),
    ]


def about_overlap(shared: str) -> str:
    """That validation images served for nothing, since the test has them too.

    Args:
      shared: what `mammo_jax.evaluation.prediction_table.overlap` found.
    """
    return (
        f"Test and validation share {shared}: the figures say nothing about new "
        "patients, and no threshold and no temperature was chosen."
    )


def number(value: float | None, digits: int = 3) -> str:
    """A figure as text; a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def interval(ends: Sequence[float] | None) -> str:
    """An interval as text."""
    return "-" if ends is None else f"{ends[0]:.3f} to {ends[1]:.3f}"


def _share(value: Sequence[float] | None) -> str:
    if value is None:
        return "-"
    return f"{value[0]:.3f} ({value[1]:.2f} to {value[2]:.2f})"


def _summary(tables: Tables, figures: dict[str, Any]) -> Section:
    test, found = tables.test, figures["auc"]
    text = [
        f"{figures['images']} images of {figures['patients']} patients, "
        f"{figures['malignant']} malignant. Scores: {test.name}."
    ]
    if tables.validation is not None:
        text.append(f"Validation: {tables.validation.name}.")
    if found["value"] is None:
        text.append(f"AUC {_UNDEFINED}.")
        pictures = [_histogram(tables, figures)]
    else:
        precision = figures["average_precision"]["value"]
        pictures = [
            Picture(
                "roc",
                curves.roc_figure(
                    {f"AUC {found['value']:.3f}": (test.scores, test.labels)},
                    _youden_point(figures),
                ),
                "ROC curve",
            ),
            Picture(
                "precision_recall",
                curves.precision_recall_figure(
                    {f"average precision {precision:.3f}": (test.scores, test.labels)}
                ),
                "Precision-recall curve; dotted: what chance gives",
            ),
            _histogram(tables, figures),
        ]
    return Section("Result", text, [_headline(figures)], pictures)


def _headline(figures: dict[str, Any]) -> Table:
    found, precision = figures["auc"], figures["average_precision"]
    rows = [
        [
            "AUC",
            number(found["value"]),
            interval(found["delong_95"]),
            interval(found["bootstrap_95"]),
        ],
        [
            "average precision",
            number(precision["value"]),
            "-",
            interval(precision["bootstrap_95"]),
        ],
    ]
    if "validation" in figures:
        validation = figures["validation"]
        rows.append(
            [
                f"AUC of the {validation['images']} validation images",
                number(validation["auc"]["value"]),
                interval(validation["auc"]["delong_95"]),
                interval(validation["auc"]["bootstrap_95"]),
            ]
        )
    header = ["", "value", "95 % (DeLong, images)", "95 % (bootstrap, patients)"]
    return Table(header, rows)


def _youden(figures: dict[str, Any]) -> dict[str, Any] | None:
    return (figures.get("thresholds_from_validation") or {}).get("Youden")


def _youden_point(figures: dict[str, Any]) -> tuple[float, float] | None:
    youden = _youden(figures)
    if youden is None or not youden["sensitivity"] or not youden["specificity"]:
        return None
    return youden["sensitivity"][0], youden["specificity"][0]


def _histogram(tables: Tables, figures: dict[str, Any]) -> Picture:
    youden = _youden(figures)
    threshold = None if youden is None else youden["threshold"]
    figure = curves.histogram_figure(tables.test.scores, tables.test.labels, threshold)
    return Picture("histogram", figure, "Scores of the two classes")


def _comparison(tables: Tables, figures: dict[str, Any]) -> Section:
    found, test, other = figures["comparison"], tables.test, tables.other
    assert other is not None
    text = [f"First: {test.name}. Second: {other.name}. The same images."]
    if found["difference"] is None:
        return Section("Two models", [*text, f"AUC {_UNDEFINED}."])
    values = figures["auc"]["value"], found["other_auc"]["value"]
    p_value = found["delong_p_value"]
    table = Table(
        ["", "value", "95 % (DeLong, images)", "95 % (bootstrap, patients)"],
        [
            *(
                [name, number(auc["value"]), *map(interval, _both(auc))]
                for name, auc in (
                    ("AUC of the first", figures["auc"]),
                    ("AUC of the second", found["other_auc"]),
                )
            ),
            ["difference", number(found["difference"]), *map(interval, _both(found))],
            ["p-value (DeLong, two-sided)", number(p_value, 4), "", ""],
        ],
    )
    names = [
        f"{name} ({value:.3f})"
        for name, value in zip(("first", "second"), values, strict=True)
    ]
    picture = curves.roc_figure(
        {
            names[0]: (test.scores, test.labels),
            names[1]: (other.scores, other.labels),
        }
    )
    return Section("Two models", text, [table], [Picture("comparison", picture)])


def _both(found: dict[str, Any]) -> tuple[Any, Any]:
    return found["delong_95"], found["bootstrap_95"]


def _operating_points(figures: dict[str, Any]) -> Section:
    if figures["operating_points"] is None:
        return Section(
            "Operating points", [f"Sensitivity or specificity {_UNDEFINED}."]
        )
    tables = []
    text = [
        "Scores from the threshold up are called malignant. A rule such as specificity "
        "0.90 takes the highest sensitivity with at least that specificity, and the "
        "reverse; nothing is interpolated."
    ]
    if figures.get("thresholds_from_validation"):
        tables.append(
            _points_table(
                "Chosen on validation, applied to test",
                figures["thresholds_from_validation"],
            )
        )
    elif "validation" in figures:
        text.append("The validation images are all of one class: no threshold.")
    else:
        text.append(_NO_VALIDATION)
    tables.append(
        _points_table(
            "Points of the test ROC curve (their thresholds were chosen on the test "
            "images themselves)",
            figures["operating_points"],
        )
    )
    return Section("Operating points", text, tables)


def _points_table(caption: str, points: dict[str, Any]) -> Table:
    header = [
        "rule",
        "threshold",
        "sensitivity",
        "specificity",
        "PPV",
        "NPV",
        "TP / FN",
        "TN / FP",
    ]
    rows = [
        [
            rule,
            "none" if point["threshold"] is None else f"{point['threshold']:.3f}",
            _share(point["sensitivity"]),
            _share(point["specificity"]),
            _share(point["positive_predictive_value"]),
            _share(point["negative_predictive_value"]),
            f"{point['true_positive']} / {point['false_negative']}",
            f"{point['true_negative']} / {point['false_positive']}",
        ]
        for rule, point in points.items()
    ]
    return Table(header, rows, caption)


def _calibration(figures: dict[str, Any]) -> Section:
    found = figures["calibration"]
    kinds = {"as predicted": found["as_predicted"]}
    temperature = found.get("temperature_from_validation")
    text = []
    if temperature is not None:
        kinds[f"divided by temperature {temperature:.3f}"] = found["scaled"]
        text.append(
            f"The scores' logits were divided by the temperature {temperature:.3f}, "
            "fitted on validation; above 1 the scores were too sure, below 1 not sure "
            "enough. The order of the images, and so the AUC, stays as it is."
        )
    elif "validation" in figures:
        text.append("The validation images allow no temperature to be fitted.")
    else:
        text.append(_NO_VALIDATION)
    table = Table(
        ["scores", "Brier score", "log loss (nats)", "expected calibration error"],
        [
            [
                name,
                number(kind["brier"], 4),
                number(kind["log_loss"], 4),
                number(kind["expected_error"], 4),
            ]
            for name, kind in kinds.items()
        ],
    )
    bins = {name: kind["bins"] for name, kind in kinds.items()}
    picture = Picture(
        "reliability",
        curves.reliability_figure(bins),
        "Reliability: bins of about equal counts "
        f"({', '.join(str(entry['images']) for entry in bins['as predicted'])} images)",
    )
    return Section("Calibration", text, [table], [picture])


def _aggregated(figures: dict[str, Any]) -> Section:
    found = figures["breasts_and_patients"]
    rows = [
        [
            name,
            str(entry["count"]),
            str(entry["malignant"]),
            number(entry["auc"]["value"]),
            *map(interval, _both(entry["auc"])),
        ]
        for name, entry in found.items()
    ]
    header = ["scores of", "count", "malignant", "AUC", "95 % (DeLong)"]
    header.append("95 % (bootstrap, patients)")
    text = ["A breast or patient is malignant when one of its views is."]
    if not any(name.startswith("breast") for name in found):
        text.append("No breasts: some lateralities are empty.")
    return Section("Per breast and per patient", text, [Table(header, rows)])


def _subgroups(figures: dict[str, Any]) -> Section:
    rows, points = [], []
    text = [
        f"Groups with fewer than {FEW} malignant or {FEW} other images are marked few: "
        "their figures can change by much with other patients.",
        "A lesion's size is the longer side of its bounding box as a share of the "
        "image's height; the largest of an image counts, in thirds of the images that "
        "have one.",
    ]
    for attribute, entry in figures["subgroups"].items():
        if entry["not_known"]:
            lacking = _LACKING.get(attribute, f"Without a known {attribute}")
            text.append(f"{lacking}: {entry['not_known']} images.")
        for name, group in entry["groups"].items():
            label = f"{attribute}: {name}"
            rows.append(_group_row(label, group))
            if group["auc"] is not None:
                points.append((label, group["auc"], group["delong_95"]))
    header = ["group", "images", "patients", "malignant", "AUC", "95 % (DeLong)", ""]
    pictures = []
    whole = figures["auc"]["value"]
    if points and whole is not None:
        figure = curves.interval_figure(points, whole)
        pictures.append(Picture("subgroups", figure, "AUC of the sub-groups"))
    return Section("Sub-groups", text, [Table(header, rows)], pictures)


def _group_row(label: str, group: dict[str, Any]) -> list[str]:
    return [
        label,
        str(group["images"]),
        str(group["patients"]),
        str(group["malignant"]),
        "one class" if group["auc"] is None else number(group["auc"]),
        interval(group["delong_95"]),
        "few" if group["few"] else "",
    ]
