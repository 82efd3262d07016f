"""The paper's claims, and what finished runs say for or against each.

A claim is an effect and the range in which it must lie. It is judged for where a test
refutes that the effect lies outside (where the range has two ends, "matters little",
two one-sided tests), and against where one refutes that it lies inside: at 5 % for both
together, after Holm's correction for all claims that are written down here, those
without runs included. The claims about this project's own designs are judged likewise.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from paper import effects, gradients, rescoring
from paper.effects import Effect, Ends
from paper.rescoring import ENSEMBLES, Ensemble
from paper.runs import Found

FOR, AGAINST, UNDECIDED = "for", "against", "undecided"
_LEVEL = 0.05
# Differences of AUC that do not matter: what the paper calls "only 0.02-0.03" is one.
_MARGIN = 0.05
_POSITIVE = (0.0, math.inf)
_SMALL = (-_MARGIN, _MARGIN)
_AT_MOST = (-math.inf, _MARGIN)

_FEW_SUFFICE = (
    f"Few patients suffice for transfer: 20 instead of all cost at most {_MARGIN}, and "
    "help"
)
# The validation images choose the epoch of the transfer, which favours it.
_TRANSFER_HELPS = "Transfer with 20 patients helps"

_BLOCKS = "resnet50_s10_residual_"
_BIG, _NARROW = f"{_BLOCKS}512-512-1024x2", f"{_BLOCKS}256-128x1"
_LONG = f"{_BLOCKS}512-512-2048x1"
_RESIDUAL = (_LONG, _BIG, _NARROW)
_VGG, _HYBRID = "vgg16_s10_vgg_512x1", "vgg16_s10_residual_512-512-1024x2"
_NARROW_VGG = "vgg16_s10_vgg_128-64x1"
_HEATMAPS = {
    trunk: tuple(f"{trunk}_s10_heatmap_{pool}" for pool in ("1x1", "2x2", "5x5"))
    for trunk in ("resnet50", "vgg16")
}


@dataclasses.dataclass(frozen=True)
class Claim:
    """A sentence about the mean of some scores less that of others.

    `first` and `second` name them, see `rescoring.scores`; `holds` are the effects,
    lowest and highest, between which it is true; `metric` is a key of `_READERS`.
    """

    text: str
    first: tuple[str, ...]
    second: tuple[str, ...]
    holds: Ends = _POSITIVE
    metric: str = "AUC"


def _ensemble_claims(ensemble: Ensemble) -> tuple[Claim, ...]:
    title = ensemble.title
    flips = tuple(f"flips: {row}" for row in ensemble.rows)
    mean, best = (f"mean: {title}",), (f"best: {title}",)
    return (
        Claim(f"Averaging four flips helps ({title})", flips, ensemble.rows),
        Claim(f"Averaging models helps ({title})", mean, flips),
        # The test images choose the best, which favours it.
        Claim(f"Averaging models beats the best of them ({title})", mean, best),
    )


_PRETRAINING = "Pretraining by the same task on other phantoms, not ImageNet, helps"
# Written down before the runs that judge them.
CLAIMS = (
    *(
        Claim(
            f"{_PRETRAINING} ({kind}, {metric})",
            (f"patch_resnet50_{kind}",),
            (f"patch_resnet50_{kind}_random",),
            _POSITIVE,
            metric,
        )
        for kind, metric in (
            ("s1", "accuracy"),
            ("s10", "accuracy"),
            ("s10", "AUC"),
        )
    ),
    Claim(
        "s10 beats s1 as the base of a whole-image classifier",
        (_LONG,),
        (_LONG.replace("_s10_", "_s1_"),),
    ),
    Claim(
        f"s30 is no better than s10 as that base (at most {_MARGIN})",
        tuple(row.replace("_s10_", "_s30_") for row in (_BIG, _NARROW)),
        (_BIG, _NARROW),
        _AT_MOST,
    ),
    Claim(
        "The all-convolutional top beats heatmap + FC (ResNet50)",
        _RESIDUAL,
        _HEATMAPS["resnet50"],
    ),
    Claim(
        "The all-convolutional top beats heatmap + FC (VGG16)",
        (_VGG, _NARROW_VGG, _HYBRID),
        _HEATMAPS["vgg16"],
    ),
    Claim(
        "The all-convolutional top beats heatmap + random forest",
        _RESIDUAL,
        ("resnet50_s10_forest",),
    ),
    Claim("ResNet50 beats VGG16 on DDSM", (_BIG,), (_VGG,)),
    *(
        Claim(
            f"Max-pooling the heatmap, and smaller FC layers, harm ({trunk})",
            (rows[0],),
            (rows[2],),
        )
        for trunk, rows in _HEATMAPS.items()
    ),
    *(
        Claim(
            f"The new layers' width matters little (within {_MARGIN}; {trunk})",
            (wide,),
            (narrow,),
            _SMALL,
        )
        for trunk, wide, narrow in (
            ("resnet50", _BIG, _NARROW),
            ("vgg16", _VGG, _NARROW_VGG),
        )
    ),
    Claim("Repeated VGG blocks overfit", (_VGG,), ("vgg16_s10_vgg_512x3",)),
    Claim("Extended training helps the hybrid", (f"{_HYBRID}_extended",), (_HYBRID,)),
    Claim(
        "VGG16 and the hybrid transfer better than ResNet50",
        (f"inbreast_{_VGG}", f"inbreast_{_HYBRID}"),
        (f"inbreast_{_BIG}",),
    ),
    Claim(
        _FEW_SUFFICE,
        tuple(f"inbreast_{model}" for model in rescoring.TRANSFERRED),
        rescoring.TRANSFER_ROWS,
        _AT_MOST,
    ),
    Claim(
        _TRANSFER_HELPS,
        rescoring.TRANSFER_ROWS,
        tuple(f"before: {row}" for row in rescoring.TRANSFER_ROWS),
    ),
    *(claim for ensemble in ENSEMBLES for claim in _ensemble_claims(ensemble)),
    *(
        Claim(
            f"The heatmap's softmax throttles the gradient ({trunk}, against {other})",
            (designs[gradients.SOFTMAX],),
            (row,),
            (-math.inf, 0.0),
            "log10 of the Jacobian",
        )
        for trunk, designs in gradients.DESIGNS.items()
        for other, row in designs.items()
        if other != gradients.SOFTMAX
    ),
)

# Designs of this project, with the paper's best top and the same steps and batches.
DESIGN_CLAIMS = tuple(
    Claim(f"{design} the paper's best design", (row,), (_BIG,))
    for design, row in {
        "Hard background patches in patch training beat": (
            "resnet50_s10hard_residual_512-512-1024x2"
        ),
        "One stage with a rate for each group beats": "resnet50_s10_one_stage",
        "The gentler stem beats": "resnet50_s10_gentle_residual_512-512-1024x2",
        "The original resolution beats": (
            "resnet50_s10_original_residual_512-512-1024x2"
        ),
    }.items()
)
# The rows that some claim needs, directly; the others run with one seed only.
CLAIMED_ROWS = frozenset(
    name.rpartition(": ")[2]
    for claim in (*CLAIMS, *DESIGN_CLAIMS)
    for name in (*claim.first, *claim.second)
    if not name.startswith(("mean: ", "best: "))
)


@dataclasses.dataclass(frozen=True)
class Finding:
    """The runs' answer to a claim: its effect, or None and what is `missing`."""

    text: str
    holds: Ends
    effect: Effect | None
    missing: str = ""

    @property
    def p_values(self) -> tuple[float, float]:
        """The p-values that refute the claim's opposite, and the claim."""
        if self.effect is None:
            return 1.0, 1.0
        low, high = self.holds
        ends = 1 + (math.isfinite(low) and math.isfinite(high))
        outside = max(self.effect.p_not_above(low), self.effect.p_not_below(high))
        inside = min(self.effect.p_not_below(low), self.effect.p_not_above(high))
        return outside, min(1.0, ends * inside)


def verdicts(findings: Sequence[Finding]) -> list[tuple[Finding, float, str]]:
    """Judges findings together: each with its corrected p-value and the verdict.

    That few patients suffice is no gain where the transfer itself has no effect: the
    little that more patients add would then be within the margin as well.
    """
    corrected = effects.holm([min(1.0, 2 * min(f.p_values)) for f in findings])
    judged = []
    for finding, p_value in zip(findings, corrected, strict=True):
        pro, contra = finding.p_values
        said = UNDECIDED if p_value > _LEVEL else FOR if pro < contra else AGAINST
        judged.append((finding, p_value, finding.missing or said))
    said_of = {finding.text: said for finding, _, said in judged}
    if said_of.get(_TRANSFER_HELPS) != FOR:
        judged = [
            (f, p, UNDECIDED if f.text == _FEW_SUFFICE and said == FOR else said)
            for f, p, said in judged
        ]
    return judged


def find(claim: Claim, found: Found, fewest_seeds: int) -> Finding:
    """Measures a claim by the finished runs, if these have as many seeds."""
    read = _READERS[claim.metric]
    names = (*claim.first, *claim.second)
    by_name = {name: read(name, found) for name in names}
    why, effect = missing_scores(by_name, fewest_seeds), None
    if not why:
        first, second = (
            [*effects.joined(by_name, side).values()]
            for side in (claim.first, claim.second)
        )
        if claim.metric == "AUC":
            effect = effects.auc_effect(first, second)
        else:
            pairs = zip(first, second, strict=True)
            effect = effects.effect_of(
                [float(np.mean(a) - np.mean(b)) for a, b in pairs]
            )
    return Finding(claim.text, claim.holds, effect, why)


def missing_scores(by_name: Mapping[str, Mapping[int, Any]], fewest_seeds: int) -> str:
    """Says which scores are not there, or of too few seeds; empty if none lacks."""
    gone = [name for name, scores in by_name.items() if not scores]
    if gone:
        return f"not run: {', '.join(gone)}"
    seeds = len(effects.joined(by_name, ()))
    return "" if seeds >= fewest_seeds else f"run with {seeds} of {fewest_seeds} seeds"


def _accuracies(row: str, found: Found) -> dict[int, list[float]]:
    runs = found.get(row, ())
    return {run.seed: [run.figures["test"]["accuracy"]] for run in runs}


# A metric's reader: figures, or tables of scores, of a name by seed.
_READERS: dict[str, Callable[[str, Found], Mapping[int, Sequence[Any]]]] = {
    "AUC": rescoring.scores,
    "accuracy": _accuracies,
    "log10 of the Jacobian": gradients.read_logarithms,
}
