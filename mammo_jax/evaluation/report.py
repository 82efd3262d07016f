"""The report of an evaluation: its figures as text, tables and curves."""

from collections.abc import Mapping, Sequence
from typing import Any

from mammo_jax.evaluation import curves
from mammo_jax.evaluation.analysis import FEW, Tables
from mammo_jax.evaluation.html_writer import Picture, Section, Table

Figures = Mapping[str, Any]

ABOUT_PATCHES = (
    "Every row of the tables is a patch of a mammogram; its score is the probability "
    "of a malignant calcification or mass."
)
_UNDEFINED = "undefined: the images are all of one class"
_NO_VALIDATION = "There is no validation table to choose thresholds on"
_NO_CALIBRATION = "There is no validation table to fit a calibration on."
_RULES = (
    "Scores from the threshold up are called malignant. A rule such as specificity "
    "0.90 takes the highest sensitivity with at least that specificity, and the "
    "reverse; nothing is interpolated."
)
_PRIOR = (
    "Training weights the classes of every batch to equal shares, so raw scores stand "
    "for more malignant images than there are: a share of 0.05 reads as 0.09, 0.16 or "
    "0.45 with batches of 2, 4 or 32. The intercept takes that shift of the prior "
    "back, and holds where the share of malignant images is that of validation."
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
_CALIBRATION = ("brier", "log_loss", "expected_error")
_METHODS = (
    "A score is the probability of malignancy, 0 to 1; an image is malignant when one "
    "of its abnormalities is. Ties count one half in every AUC.",
    "All intervals are of 95 % and over patients, since the images of one patient are "
    "not independent: those of differences of AUCs by DeLong's covariance summed over "
    "patients (Obuchowski 1997), of AUCs by Newcombe's (2006) and of shares by "
    "Wilson's, both with the effective number of images, of average precision by "
    "Boyd's (2013) with the number of patients. None is corrected for the number of "
    "figures in this report: among many sub-groups some will differ by chance.",
    "Predictive values hold for the share of malignant images in this table only.",
    "For research. Not a medical device: no clinical decision may rest on these "
    "figures.",
)


def report_sections(tables: Tables, figures: Figures) -> list[Section]:
    """Returns the sections of a report.

    Args:
      tables: what was evaluated.
      figures: what `analyse` said of them.
    """
    return [
        _summary(tables, figures),
        *([_comparison(tables, figures)] if tables.other is not None else []),
        _operating_points(figures),
        _calibration(figures),
        *([_merged(figures)] if "per_patient" in figures else []),
        *([_subgroups(figures)] if "subgroups" in figures else []),
        Section("How to read this", _METHODS),
    ]


def number(value: float | None, digits: int = 3) -> str:
    """Returns a figure as text; a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def interval(ends: Sequence[float] | None) -> str:
    """Returns an interval as text."""
    return "-" if ends is None else f"{ends[0]:.3f} to {ends[1]:.3f}"


def estimate(found: Figures) -> tuple[str, str]:
    """Returns a figure and its interval as text."""
    return number(found["value"]), interval(found["patients_95"])


def _share(value: Sequence[float] | None) -> str:
    if value is None:
        return "-"
    return f"{value[0]:.3f} ({value[1]:.2f} to {value[2]:.2f})"


def _summary(tables: Tables, figures: Figures) -> Section:
    test, area = tables.test, figures["auc"]["value"]
    text = [
        f"{figures['images']} images of {figures['patients']} patients, "
        f"{figures['malignant']} malignant. Scores: {test.name}."
    ]
    if tables.validation is not None:
        text.append(f"Validation: {tables.validation.name}.")
    pictures = []
    if area is None:
        text.append(f"AUC {_UNDEFINED}.")
    else:
        known = (test.scores, test.labels)
        precision = f"average precision {figures['average_precision']['value']:.3f}"
        roc = curves.roc_figure({f"AUC {area:.3f}": known}, _youden_point(figures))
        recall = curves.precision_recall_figure({precision: known})
        pictures = [
            Picture("roc", roc, "ROC curve"),
            Picture(
                "precision_recall",
                recall,
                "Precision-recall curve; dotted: what chance gives",
            ),
        ]
    return Section(
        "Result", text, [_headline(figures)], [*pictures, _histogram(tables, figures)]
    )


def _headline(figures: Figures) -> Table:
    rows = [
        ("AUC", *estimate(figures["auc"])),
        ("average precision", *estimate(figures["average_precision"])),
    ]
    if "validation" in figures:
        validation = figures["validation"]
        name = f"AUC of the {validation['images']} validation images"
        rows.append((name, *estimate(validation["auc"])))
    return Table(("", "value", "95 %, patients"), rows)


def _youden(figures: Figures) -> dict[str, Any] | None:
    return (figures.get("operating_points") or {}).get("Youden")


def _youden_point(figures: Figures) -> tuple[float, float] | None:
    youden = _youden(figures)
    if youden is None or not youden["sensitivity"] or not youden["specificity"]:
        return None
    return youden["sensitivity"][0], youden["specificity"][0]


def _histogram(tables: Tables, figures: Figures) -> Picture:
    youden = _youden(figures)
    threshold = None if youden is None else youden["threshold"]
    figure = curves.histogram_figure(tables.test.scores, tables.test.labels, threshold)
    return Picture("histogram", figure, "Scores of the two classes")


def _comparison(tables: Tables, figures: Figures) -> Section:
    found, test, other = figures["comparison"], tables.test, tables.other
    assert other is not None
    text = [f"First: {test.name}. Second: {other.name}. The same images."]
    if found["difference"]["value"] is None:
        return Section("Two models", [*text, f"AUC {_UNDEFINED}."])
    rows = [
        ("AUC of the first", *estimate(figures["auc"])),
        ("AUC of the second", *estimate(found["other_auc"])),
        ("difference", *estimate(found["difference"])),
        ("p-value (two-sided)", number(found["p_value"], 4), ""),
    ]
    first, second = figures["auc"]["value"], found["other_auc"]["value"]
    picture = curves.roc_figure(
        {
            f"first ({first:.3f})": (test.scores, test.labels),
            f"second ({second:.3f})": (other.scores, other.labels),
        }
    )
    table = Table(("", "value", "95 %, patients"), rows)
    return Section("Two models", text, [table], [Picture("comparison", picture)])


def _operating_points(figures: Figures) -> Section:
    heading = "Operating points, chosen on validation"
    points = figures.get("operating_points")
    if points:
        return Section(heading, [_RULES], [_points_table(points)])
    why = _NO_VALIDATION
    if "validation" in figures:
        why = "The validation images are all of one class"
    return Section(heading, [f"{why}: no threshold was chosen."])


def _points_table(points: Mapping[str, Figures]) -> Table:
    header = (
        *("rule", "threshold", "sensitivity", "specificity", "PPV", "NPV"),
        *("TP / FN", "TN / FP"),
    )
    rates = (
        *("sensitivity", "specificity"),
        *("positive_predictive_value", "negative_predictive_value"),
    )
    rows = [
        (
            rule,
            "none" if point["threshold"] is None else f"{point['threshold']:.3f}",
            *(_share(point[rate]) for rate in rates),
            f"{point['true_positive']} / {point['false_negative']}",
            f"{point['true_negative']} / {point['false_positive']}",
        )
        for rule, point in points.items()
    ]
    return Table(header, rows)


def _calibration(figures: Figures) -> Section:
    found = figures["calibration"]
    kinds = {"as predicted": found["as_predicted"]}
    line = found.get("line_from_validation")
    if line is not None:
        slope, intercept = line["slope"], line["intercept"]
        kinds["calibrated"] = found["calibrated"]
        text = [
            "The log-odds of the scores were put on a straight line that was fitted on "
            f"validation: slope {slope:.3f} (below 1 the scores were too sure), "
            f"intercept {intercept:.3f}. The order of the images stays, and the AUC.",
            _PRIOR,
        ]
    elif "validation" in figures:
        text = ["The validation images allow no calibration to be fitted."]
    else:
        text = [_NO_CALIBRATION]
    table = Table(
        ("scores", "Brier score", "log loss (nats)", "expected calibration error"),
        [
            (name, *(number(kind[key], 4) for key in _CALIBRATION))
            for name, kind in kinds.items()
        ],
    )
    bins = {name: kind["bins"] for name, kind in kinds.items()}
    images = ", ".join(str(entry["images"]) for entry in bins["as predicted"])
    picture = Picture(
        "reliability",
        curves.reliability_figure(bins),
        f"Reliability: bins of about equal counts ({images} images)",
    )
    return Section("Calibration", text, [table], [picture])


def _merged(figures: Figures) -> Section:
    rows = [
        (name, str(found["count"]), str(found["malignant"]), *estimate(found["auc"]))
        for name, found in (
            ("breasts", figures["per_breast"]),
            ("patients", figures["per_patient"]),
        )
        if found is not None
    ]
    text = [
        "A breast's score is the mean over its views, a patient's the higher of the "
        "two breasts'. Either is malignant when one of its views is."
    ]
    if figures["per_breast"] is None:
        text.append(
            "No breasts: some lateralities are empty; a patient's images without one "
            "count as those of one breast."
        )
    header = ("scores of", "count", "malignant", "AUC", "95 %, patients")
    return Section("Per breast and per patient", text, [Table(header, rows)])


def _subgroups(figures: Figures) -> Section:
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
            text.append(f"{entry['not_known']} images have no known {attribute}.")
        for name, group in entry["groups"].items():
            label, found = f"{attribute}: {name}", group["auc"]
            counts = (str(group[key]) for key in ("images", "patients", "malignant"))
            value, ends = estimate(found)
            few = "few" if group["few"] else ""
            if found["value"] is None:
                value = "one class"
            else:
                points.append((label, found["value"], found["patients_95"]))
            rows.append((label, *counts, value, ends, few))
    header = ("group", "images", "patients", "malignant", "AUC", "95 %, patients", "")
    pictures = []
    whole = figures["auc"]["value"]
    if points and whole is not None:
        figure = curves.interval_figure(points, whole)
        pictures.append(Picture("subgroups", figure, "AUC of the sub-groups"))
    return Section("Sub-groups", text, [Table(header, rows)], pictures)
