"""A model's card, `README.md`, with the front matter of the Hugging Face hub."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from mammo_jax.common.errors import UserError
from mammo_jax.common.files import replace_file
from mammo_jax.weights.model_description import FOR_PRESENTATION, Description

CARD_FILE = "README.md"
UNKNOWN = "unknown"
_TAGS = ["mammography", "breast-cancer", "medical-imaging", "jax", "flax"]
_ROLES = {"train": "training", "validation": "validation", "test": "the test"}
# Licence and citation of each public data set, by the first part of its name.
_DATA_TERMS = {
    "cbis_ddsm": "CBIS-DDSM is CC BY 3.0: cite Lee et al., Scientific Data 4:170177, "
    "2017.",
    "inbreast": "INbreast is given on request, for research, and not to be passed on: "
    "ask its owners if a model trained on it may be. Cite Moreira et al., Academic "
    "Radiology 19(2), 2012.",
}
_PHANTOMS = (
    "The images were phantoms, that is, synthetic drawings: no figure here says "
    "anything about patients."
)


class CardFacts(NamedTuple):
    """Facts that a card is written from.

    Attributes:
      name: the model's.
      licence: identifier of the hub, such as "cc-by-4.0"; `UNKNOWN` if none is given.
      config: the run's configuration.
      metrics: its `metrics.json`.
      description: its `model.json`.
    """

    name: str
    licence: str
    config: Mapping[str, Any]
    metrics: Mapping[str, Any]
    description: Description


def write_card(folder: Path, facts: CardFacts) -> None:
    """Writes a model's card into its directory.

    Raises:
      UserError: a figure of the metrics is none.
    """
    front = yaml.safe_dump(
        _front_matter(facts), sort_keys=False, allow_unicode=True, width=10**6
    )
    text = f"---\n{front}---\n\n{_page(facts)}"
    with replace_file(folder / CARD_FILE) as partial:
        partial.write_text(text, "utf-8")


def _front_matter(facts: CardFacts) -> dict[str, Any]:
    said = facts.description
    family = _family(said)
    front: dict[str, Any] = {
        "license": facts.licence,
        "library_name": "mammo_jax",
        "pipeline_tag": "image-classification",
        "tags": _TAGS + ["synthetic"] * bool(said.phantoms),
    }
    if family in _DATA_TERMS:
        front["datasets"] = [family]
    found = _auc(facts.metrics, "test")
    if found is not None and not _doubt(facts):
        value, interval = found
        name = f"{_line(said.dataset)}{' (phantoms)' * bool(said.phantoms)}"
        dataset = {"name": name, "type": family or UNKNOWN, "split": "test"}
        area = f"AUC{' of patches' * (said.task == 'patch')}{interval}"
        metric = {"type": "roc_auc", "name": area, "value": value}
        result = {
            "task": {"type": "image-classification"},
            "dataset": dataset,
            "metrics": [metric],
        }
        front["metrics"] = ["roc_auc"]
        front["model-index"] = [{"name": _line(facts.name), "results": [result]}]
    return front


def _page(facts: CardFacts) -> str:
    sections = {
        f"# {_plain(facts.name)}": _about(facts),
        "## Data": _data(facts),
        "## Figures": _figures(facts),
        "## Calibration": _calibration(facts.description),
        "## Licence and credit": _terms(facts),
        "## Intended use": _INTENDED,
        "## Use": _USE,
    }
    parts = (part for title in sections for part in (title, *sections[title]))
    return "\n\n".join(parts) + "\n"


def _about(facts: CardFacts) -> Iterator[str]:
    said, model = facts.description, facts.config["model"]
    kind = {"whole": "whole mammograms", "patch": "patches of mammograms"}[said.task]
    top = model.get("top", {}).get("kind", "residual")
    yield (
        f"A classifier of {kind} ({_plain(model.get('trunk', 'resnet50'))}, top: "
        f"{_plain(top)}), trained with mammo_jax. It gives an image a score from "
        "0 to 1: higher is more suspicious."
    )
    yield "**It is not a medical device. No decision about anyone may rest on it.**"


def _data(facts: CardFacts) -> Iterator[str]:
    said = facts.description
    splits = _part(facts.config, "data")
    used = [
        f"{_plain(splits[f'{role}_split'])} for {use}"
        for role, use in _ROLES.items()
        if f"{role}_split" in splits
    ]
    yield f"Trained on {_plain(said.dataset)}. Splits: {', '.join(used) or UNKNOWN}."
    if said.phantoms:
        yield _PHANTOMS
    scale = "each stretched to its full range" if said.stretch else "on film's scale"
    intent = {None: "not stated", FOR_PRESENTATION: "digital, for presentation"}
    yield (
        f"Images: {said.height} rows, {said.width} columns, {scale}; kind: "
        f"{intent.get(said.intent, 'scanned films')}. Classes: "
        f"{', '.join(map(_plain, said.class_names))}."
    )


def _figures(facts: CardFacts) -> Iterator[str]:
    splits = [
        (name, facts.metrics[name])
        for name in ("validation", "test")
        if isinstance(facts.metrics.get(name), Mapping)
    ]
    if not splits:
        yield "There are no figures: the model was not tested by the run it is from."
        return
    unit = {"whole": "images", "patch": "patches"}[facts.description.task]
    lines = [
        f"| split | {unit} | patients | malignant | AUC |",
        "|---|---|---|---|---|",
    ]
    for name, figures in splits:
        counts = [
            _plain(figures.get(key)) for key in ("images", "patients", "malignant")
        ]
        found = _auc(facts.metrics, name)
        area = "undefined" if found is None else f"{found[0]:.3f}{found[1]}"
        lines.append(f"| {' | '.join([name, *counts, area])} |")
    yield "\n".join(lines)
    yield _doubt(facts) or (
        "The splits are by patient. Validation images chose the epoch, the threshold "
        "and the calibration; only the figures of the test count."
    )


def _doubt(facts: CardFacts) -> str:
    """Returns why the figures of the test do not count; empty where they do."""
    splits = _part(facts.config, "data")
    test = splits.get("test_split")
    if test is not None and test == splits.get("train_split"):
        return "**The model was trained on the test images: the AUC is of no use.**"
    if facts.metrics.get("test_images_chose_the_epoch") or (
        test is not None and test == splits.get("validation_split")
    ):
        return (
            "**The test images chose the epoch, as well as the threshold and the "
            "calibration: their AUC is too high.**"
        )
    return ""


def _auc(metrics: Mapping[str, Any], split: str) -> tuple[float, str] | None:
    """Returns the AUC of a split and its interval in words; None without one."""
    figures = metrics.get(split)
    if not isinstance(figures, Mapping):
        return None
    found = [figures.get(name) for name in ("auc", "auc_95_low", "auc_95_high")]
    for value in found:
        if value is not None and not (type(value) in (int, float) and 0 <= value <= 1):
            raise UserError(f"metrics.json is damaged: {split}.auc is no AUC")
    area, low, high = found
    if area is None:
        return None
    known = low is not None and high is not None
    interval = f" (95 %, over patients: {low:.3f} to {high:.3f})" if known else ""
    return float(area), interval


def _calibration(said: Description) -> Iterator[str]:
    yield "A score orders images and is no probability."
    if said.calibration:
        slope, intercept = said.calibration
        yield (
            f"On the validation images its log-odds times {slope:.4g} plus "
            f"{intercept:.4g} were those of a probability, where as many are malignant "
            "as there (`predict --calibrated`)."
        )
    else:
        yield "No calibration was fitted."
    if said.threshold is not None:
        yield (
            f"From the score {said.threshold:.4g} on, sensitivity + specificity were "
            "largest on the validation images."
        )


def _terms(facts: CardFacts) -> Iterator[str]:
    if facts.licence == UNKNOWN:
        yield "Its maker has named no licence: ask before you use it."
    else:
        yield f"Licence of the weights: {_plain(facts.licence)}."
    if facts.description.credit:
        yield f"Credit: {_plain(facts.description.credit, most=5000)}"
    if terms := _DATA_TERMS.get(_family(facts.description)):
        yield terms
    config = facts.config
    stage = config if "pretrained" in config else _part(config, "patch")
    if start := config.get("init_from"):
        yield f"Training went on from the model {_plain(start)}, whose terms hold, too."
    elif weights := stage.get("pretrained"):
        yield (
            f"Training began with the weights {_plain(weights)}; ImageNet's own terms "
            "are for non-commercial research."
        )


_INTENDED = (
    "Research on methods, by people who can judge a statistical result: reproducing "
    "and extending, comparing networks, studying transfer to other data, teaching.",
    "Not for screening, diagnosis, triage or treatment, alone or as a second opinion; "
    "not for tomosynthesis, ultrasound, MRI, men, implants, or the risk of future "
    "cancer. Images of other sites and makers, and other shares of cancer, give other "
    "figures: the AUC falls where the model was not trained on a site's own images.",
)
_USE = (
    "```bash\nmammo-jax check-model FOLDER\n"
    "mammo-jax predict --model=FOLDER --out=scores IMAGES\n```",
    "`expected_scores.csv` has the model's scores of phantoms that anyone can draw "
    "(`mammo-jax make-phantom --layout=cbis_ddsm --cases=4` with the table's `--seed` "
    "and `--height`; row n is the first view of the n-th patient). `check-model` draws "
    "and scores them, and checks the weights' SHA-256.",
)


def _part(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = config.get(name)
    return part if isinstance(part, Mapping) else {}


def _family(said: Description) -> str:
    """Returns the data set's name without its configuration."""
    return (
        "phantoms" if said.phantoms else _line(said.dataset).partition("/")[0].lower()
    )


def _line(value: object, most: int = 500) -> str:
    """Returns a text as one line of at most so many characters."""
    shown = (mark if mark.isprintable() else " " for mark in str(value))
    return " ".join("".join(shown).split())[:most]


def _plain(value: object, most: int = 500) -> str:
    """Returns a text that Markdown shows as it is."""
    return re.sub(r"([\\`*_{}\[\]<>#|!~])", r"\\\1", _line(value, most))
