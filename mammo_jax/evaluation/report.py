"""The report of an evaluation: its figures as text, tables and curves."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mammo_jax.evaluation import curves
from mammo_jax.evaluation.analysis import FEW, Tables
from mammo_jax.evaluation.html_writer import Picture, Section, Table

Figures = Mapping[str, Any]
# Names of the figures that a report may have.
FIGURES = (
    *("roc", "precision_recall", "histogram"),
    *("comparison", "reliability", "subgroups"),
)
ABOUT_PATCHES = (
    "Every row of the tables is a patch of a mammogram; its score is the probability "
    "of a malignant calcification or mass."
)
ABOUT_PHANTOMS = (
    "These are phantoms: synthetic mammograms, drawn by this program. No figure here "
    "says anything about patients."
)
_UNDEFINED = "undefined: the images are all of one class"
_ENDS = "95 %, patients"
_RULES = (
    "Scores from the threshold up are called malignant. A rule such as specificity "
    "0.90 takes the highest sensitivity with at least that specificity, and the "
    "reverse; nothing is interpolated. PPV and NPV, the shares of right answers among "
    "images called malignant and among the others, hold for the share of malignant "
    "images in this table only."
)
_PRIOR = (
    "Training weights the classes of every batch to equal shares, so raw scores stand "
    "for more malignant images than there are: a share of 0.05 reads as 0.09, 0.16 or "
    "0.45 with batches of 2, 4 or 32. The intercept takes that shift of the prior "
    "back, and holds where the share of malignant images is that of validation."
)
_CALIBRATION = ("brier", "log_loss", "expected_error")
_METHODS = (
    "A score is the model's for malignancy, 0 to 1; an image is malignant when one of "
    "its abnormalities is. Ties count one half in every AUC.",
    "All intervals are of 95 % and over patients, since the images of one patient are "
    "not independent: those of differences of AUCs by DeLong's covariance summed over "
    "patients (Obuchowski 1997), of AUCs by Newcombe's (2006) and of shares by "
    "Wilson's, both with the effective number of images, of average precision by "
    "Boyd's (2013) with the number of patients. None is corrected for the number of "
    "figures in this report: among many sub-groups some will differ by chance.",
    "For research. Not a medical device: no clinical decision may rest on these "
    "figures.",
)


def report_sections(
    tables: Tables, figures: Figures, about: Sequence[str], facts: Mapping[str, str]
) -> list[Section]:
    """Returns the sections of a report.

    Args:
      tables: the evaluated prediction tables.
      figures: their figures, from `analyse`.
      about: paragraphs before the summary.
      facts: facts about the tables and their making, by name.
    """
    names = {"test": tables.test.name}
    if tables.validation is not None:
        names["validation"] = tables.validation.name
    known = Table(("what", "value"), [*names.items(), *facts.items()])
    sections = [
        Section("In short", [*about, *_in_words(figures)], [known]),
        _result(tables, figures),
        _comparison(tables, figures),
        _operating_points(figures),
        _calibration(figures),
        _merged(figures),
        _subgroups(figures),
        Section("How to read this", _METHODS),
    ]
    return [section for section in sections if section is not None]


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
    return "-" if value is None else f"{value[0]:.3f} ({interval(value[1:])})"


def _youden(figures: Figures) -> Figures | None:
    """Returns the operating point, where both its rates are known."""
    found: Figures = (figures.get("operating_points") or {}).get("Youden") or {}
    return found if found.get("sensitivity") and found.get("specificity") else None


def _in_words(figures: Figures) -> Iterable[str]:
    """Says the main result without a term of statistics."""
    images, malignant, patients = (
        figures[key] for key in ("images", "malignant", "patients")
    )
    yield f"{images} images of {patients} patients were scored, {malignant} malignant."
    area, ends = figures["auc"]["value"], figures["auc"]["patients_95"]
    if area is None:
        yield f"AUC {_UNDEFINED}."
        return
    sure = "" if ends is None else f" (95 % interval {_percent(*ends)})"
    yield (
        "Of all pairs of a malignant image and another one, the malignant one has the "
        f"higher score in {_percent(area)}{sure}; guessing reaches 50 %."
    )
    if youden := _youden(figures):
        found, alarms = youden["true_positive"], youden["false_positive"]
        yield (
            f"With a threshold of {_threshold(youden)}, chosen on the validation "
            f"images, {found} of {malignant} malignant images are found, and {alarms} "
            f"of {images - malignant} others called malignant."
        )


def _percent(*shares: float) -> str:
    return f"{' to '.join(f'{100 * share:.0f}' for share in shares)} %"


def _threshold(point: Figures) -> str:
    return number(point["threshold"]) if point["threshold"] is not None else "none"


def _result(tables: Tables, figures: Figures) -> Section:
    rows = [
        ("AUC", *estimate(figures["auc"])),
        ("average precision", *estimate(figures["average_precision"])),
    ]
    if youden := _youden(figures):
        rows += [
            (f"{name} at {_threshold(youden)}", number(found[0]), interval(found[1:]))
            for name in ("sensitivity", "specificity")
            if (found := youden[name])
        ]
    if "validation" in figures:
        validation = figures["validation"]
        chose = " (they chose the epoch)" * validation["chose_epoch"]
        name = f"AUC of the {validation['images']} validation images{chose}"
        rows.append((name, *estimate(validation["auc"])))
    test, area, pictures = tables.test, figures["auc"]["value"], []
    if area is not None:
        known = (test.scores, test.labels)
        point = None
        if youden:
            point = youden["sensitivity"][0], youden["specificity"][0]
        precision = f"average precision {figures['average_precision']['value']:.3f}"
        pictures = [
            Picture(
                "roc",
                curves.roc_figure({f"AUC {area:.3f}": known}, point),
                f"ROC curve, AUC {area:.3f}",
            ),
            Picture(
                "precision_recall",
                curves.precision_recall_figure({precision: known}),
                "Precision-recall curve; dotted: what chance gives",
            ),
        ]
    threshold = youden["threshold"] if youden else None
    figure = curves.histogram_figure(test.scores, test.labels, threshold)
    histogram = Picture("histogram", figure, "Scores of the two classes")
    headline = Table(("figure", "value", _ENDS), rows)
    return Section("Result", (), [headline], [*pictures, histogram])


def _comparison(tables: Tables, figures: Figures) -> Section | None:
    test, other = tables.test, tables.other
    if other is None:
        return None
    found = figures["comparison"]
    text = [f"First: {test.name}. Second: {other.name}. The same images."]
    if found["difference"]["value"] is None:
        return Section("Two models", [*text, f"AUC {_UNDEFINED}."])
    rows = [
        ("AUC of the first", *estimate(figures["auc"])),
        ("AUC of the second", *estimate(found["other_auc"])),
        ("difference", *estimate(found["difference"])),
        ("p-value (two-sided)", number(found["p_value"], 4), ""),
    ]
    picture = curves.roc_figure(
        {
            f"first ({rows[0][1]})": (test.scores, test.labels),
            f"second ({rows[1][1]})": (other.scores, other.labels),
        }
    )
    table = Table(("figure", "value", _ENDS), rows)
    pictures = [Picture("comparison", picture, "ROC curves of the two models")]
    return Section("Two models", text, [table], pictures)


_RATES = {
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "PPV": "positive_predictive_value",
    "NPV": "negative_predictive_value",
}


def _operating_points(figures: Figures) -> Section:
    heading = "Operating points, chosen on validation"
    points = figures.get("operating_points")
    if not points:
        why = "There is no validation table to choose thresholds on"
        if "validation" in figures:
            why = "The validation images are all of one class"
        return Section(heading, [f"{why}: no threshold was chosen."])
    rows = [
        (
            rule,
            _threshold(point),
            *(_share(point[rate]) for rate in _RATES.values()),
            f"{point['true_positive']} / {point['false_negative']}",
            f"{point['true_negative']} / {point['false_positive']}",
        )
        for rule, point in points.items()
    ]
    header = ("rule", "threshold", *_RATES, "TP / FN", "TN / FP")
    return Section(heading, [_RULES], [Table(header, rows)])


def _calibration(figures: Figures) -> Section:
    found = figures["calibration"]
    kinds = {"as predicted": found["as_predicted"]}
    line = found.get("line_from_validation")
    text = ["There is no validation table to fit a calibration on."]
    if line is not None:
        kinds["calibrated"] = found["calibrated"]
        text = [
            "The log-odds of the scores were put on a straight line that was fitted on "
            f"validation: slope {line['slope']:.3f} (below 1 the scores were too "
            f"sure), intercept {line['intercept']:.3f}. The order of the images stays, "
            "and the AUC. The model's directory keeps the line of its run; predict "
            "--calibrated applies it.",
            _PRIOR,
        ]
    elif "validation" in figures:
        text = ["The validation images allow no calibration to be fitted."]
    rows = [
        (name, *(number(kind[key], 4) for key in _CALIBRATION))
        for name, kind in kinds.items()
    ]
    header = ("scores", "Brier score", "log loss (nats)", "expected calibration error")
    bins = {name: kind["bins"] for name, kind in kinds.items()}
    images = ", ".join(str(entry["images"]) for entry in bins["as predicted"])
    picture = Picture(
        "reliability",
        curves.reliability_figure(bins),
        f"Reliability: bins of about equal counts ({images} images)",
    )
    return Section("Calibration", text, [Table(header, rows)], [picture])


def _merged(figures: Figures) -> Section | None:
    if "per_patient" not in figures:
        return None
    rows = [
        (name, str(found["count"]), str(found["malignant"]), *estimate(found["auc"]))
        for name in ("breast", "patient")
        if (found := figures[f"per_{name}"]) is not None
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
    header = ("scores of each", "count", "malignant", "AUC", _ENDS)
    return Section("Per breast and per patient", text, [Table(header, rows)])


def _subgroups(figures: Figures) -> Section | None:
    if "subgroups" not in figures:
        return None
    rows, points, pictures = [], [], []
    text = [
        f"Groups with fewer than {FEW} malignant or {FEW} other images are marked few: "
        "their figures can change by much with other patients.",
        "A lesion's size is the square root of its bounding box's share of the image; "
        "the largest of an image counts, in thirds of the images that have one.",
    ]
    unknown = {
        name: entry["not_known"]
        for name, entry in figures["subgroups"].items()
        if entry["not_known"]
    }
    if unknown:
        parts = (
            f"{count} images have no known {name}" for name, count in unknown.items()
        )
        text.append(f"{'; '.join(parts)}.")
    for attribute, entry in figures["subgroups"].items():
        for name, group in entry["groups"].items():
            label, found = f"{attribute}: {name}", group["auc"]
            counts = (str(group[key]) for key in ("images", "patients", "malignant"))
            value, ends = estimate(found)
            if found["value"] is None:
                value = "one class"
            else:
                points.append((label, found["value"], found["patients_95"]))
            rows.append((label, *counts, value, ends, "few" if group["few"] else ""))
    header = ("group", "images", "patients", "malignant", "AUC", _ENDS, "remark")
    if points:
        figure = curves.interval_figure(points, figures["auc"]["value"])
        pictures.append(Picture("subgroups", figure, "AUC of the sub-groups"))
    return Section("Sub-groups", text, [Table(header, rows)] * bool(rows), pictures)
