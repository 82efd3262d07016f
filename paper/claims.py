"""The paper's claims, and what finished runs say for or against each.

A claim is an effect and the range in which it must lie. It is judged for where a test
refutes that the effect lies outside (where the range has two ends, "matters little",
two one-sided tests), and against where one refutes that it lies inside: at 5 % for both
together, after Holm's correction for all claims that are written down here, those
without runs included. The claims about this project's own designs are judged likewise.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from mammo_jax.evaluation.prediction_table import PredictionTable, mean_table
from paper import effects, rescoring
from paper.effects import Effect, Ends
from paper.rescoring import ENSEMBLES, FLIPS, UNTRANSFERRED, Ensemble
from paper.runs import Found, PlannedRun, Setting

FOR, AGAINST, UNDECIDED = "for", "against", "undecided"
_LEVEL = 0.05
# Differences of AUC that do not matter: what the paper calls "only 0.02-0.03" is one.
_MARGIN = 0.05
_POSITIVE = (0.0, math.inf)
_SMALL = (-_MARGIN, _MARGIN)
_AT_MOST = (-math.inf, _MARGIN)

_FEW_SUFFICE = "Few patients suffice for transfer"
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
_FOREST = "resnet50_s10_forest"


@dataclasses.dataclass(frozen=True)
class Claim:
    """A sentence about a difference between rows.

    Attributes:
      text: what is claimed.
      effect: what is measured, in words.
      first: the rows whose mean is compared.
      second: the rows with whose mean it is compared.
      holds: the effects, lowest and highest, between which the claim is true.
      metric: "auc" of the test images, or "accuracy".
    """

    text: str
    effect: str
    first: tuple[str, ...]
    second: tuple[str, ...]
    holds: Ends = _POSITIVE
    metric: str = "auc"


def _pretraining(kind: str, metric: str) -> Claim:
    return Claim(
        f"Pretraining helps patch classifiers ({kind})",
        f"{'AUC of malignant patches' if metric == 'auc' else metric}, pretrained (by "
        "the same task on other phantoms, not ImageNet) less random",
        (f"patch_resnet50_{kind}",),
        (f"patch_resnet50_{kind}_random",),
        metric=metric,
    )


# Written down before the runs that judge them.
CLAIMS = (
    _pretraining("s1", "accuracy"),
    _pretraining("s10", "accuracy"),
    _pretraining("s10", "auc"),
    Claim(
        "s10 beats s1 as the base of a whole-image classifier",
        "AUC on s10 less AUC on s1, [512-512-2048]x1",
        (_LONG,),
        ("resnet50_s1_residual_512-512-2048x1",),
    ),
    Claim(
        "s30 is no better than s10 as that base",
        f"mean AUC of two tops on s30 less on s10; at most {_MARGIN}",
        tuple(row.replace("_s10_", "_s30_") for row in (_BIG, _NARROW)),
        (_BIG, _NARROW),
        _AT_MOST,
    ),
    Claim(
        "The all-convolutional top beats heatmap + FC (ResNet50)",
        "mean AUC of three residual tops less that of three heatmap tops",
        _RESIDUAL,
        _HEATMAPS["resnet50"],
    ),
    Claim(
        "The all-convolutional top beats heatmap + FC (VGG16)",
        "mean AUC of 512x1, 128x1 and hybrid less that of three heatmap tops",
        (_VGG, _NARROW_VGG, _HYBRID),
        _HEATMAPS["vgg16"],
    ),
    Claim(
        "The all-convolutional top beats heatmap + random forest",
        "mean AUC of three residual tops less that of the forest",
        _RESIDUAL,
        (_FOREST,),
    ),
    Claim(
        "ResNet50 beats VGG16 on DDSM",
        "AUC of [512-512-1024]x2 on ResNet50 less that of 512x1 on VGG16",
        (_BIG,),
        (_VGG,),
    ),
    *(
        Claim(
            f"Max-pooling the heatmap harms ({trunk})",
            "AUC of heatmap 1x1 less that of 5x5 (which has smaller FC layers, too)",
            (rows[0],),
            (rows[2],),
        )
        for trunk, rows in _HEATMAPS.items()
    ),
    *(
        Claim(
            f"The width of the new layers matters little ({trunk})",
            f"AUC of {wide[1]} less that of {narrow[1]}; within {_MARGIN}",
            (wide[0],),
            (narrow[0],),
            _SMALL,
        )
        for trunk, wide, narrow in (
            ("ResNet50", (_BIG, "[512-512-1024]x2"), (_NARROW, "[256], [128]")),
            ("VGG16", (_VGG, "512x1"), (_NARROW_VGG, "128x1, 64x1")),
        )
    ),
    Claim(
        "Repeated VGG blocks overfit",
        "AUC of 512x1 less that of 512x3",
        (_VGG,),
        ("vgg16_s10_vgg_512x3",),
    ),
    Claim(
        "Extended training helps the hybrid",
        "AUC with the extended training less that without",
        (f"{_HYBRID}_extended",),
        (_HYBRID,),
    ),
    Claim(
        "VGG16 and the hybrid transfer better than ResNet50",
        "mean AUC of the two on INbreast less that of ResNet50, all patients",
        (f"inbreast_{_VGG}", f"inbreast_{_HYBRID}"),
        (f"inbreast_{_BIG}",),
    ),
    Claim(
        _FEW_SUFFICE,
        "AUC with all patients less that with 20, mean of three models; at most "
        f"{_MARGIN}, and for only where the transfer with 20 helps",
        tuple(f"inbreast_{model}" for model in rescoring.TRANSFERRED),
        rescoring.TRANSFER_ROWS,
        _AT_MOST,
    ),
)

# Designs of this project, with the paper's best top and the same steps and batches.
DESIGN_CLAIMS = tuple(
    Claim(
        f"{design} the paper's best design",
        f"AUC of {row} less that of {_BIG}",
        (row,),
        (_BIG,),
    )
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
    row for claim in (*CLAIMS, *DESIGN_CLAIMS) for row in (*claim.first, *claim.second)
) | frozenset(rescoring.FLIPPED_ROWS)


@dataclasses.dataclass(frozen=True)
class Finding:
    """The runs' answer to a claim.

    Attributes:
      text: what is claimed.
      measured: what was measured, in words.
      holds: the effects, lowest and highest, between which the claim is true.
      effect: None where a row is missing.
      missing: why there is no effect.
    """

    text: str
    measured: str
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


def find(found: Found, setting: Setting) -> list[Finding]:
    """Measures every claim about rows and ensembles by the finished runs."""
    findings = [_find_rows(claim, found, setting) for claim in CLAIMS]
    findings.append(_find_transfer(found, setting))
    for ensemble in ENSEMBLES:
        findings += _find_ensemble(ensemble, found, setting)
    return findings


def find_designs(found: Found, setting: Setting) -> list[Finding]:
    """Measures every design of this project against the paper's best."""
    return [_find_rows(claim, found, setting) for claim in DESIGN_CLAIMS]


def missing_rows(rows: Sequence[str], found: Found, setting: Setting) -> str:
    """Says which rows were not run, or with too few seeds; empty where none lacks."""
    gone = [row for row in rows if row not in found]
    if gone:
        return f"not run: {', '.join(gone)}"
    seeds = effects.common_seeds(rows, found)
    return setting.missing_replicates(dict.fromkeys(seeds, ()))


def _find_rows(claim: Claim, found: Found, setting: Setting) -> Finding:
    rows = (*claim.first, *claim.second)
    why = missing_rows(rows, found, setting)
    if why:
        return Finding(claim.text, claim.effect, claim.holds, None, why)
    seeds = effects.common_seeds(rows, found)
    first, second = (
        setting.replicates({s: effects.runs_with(names, s, found) for s in seeds})
        for names in (claim.first, claim.second)
    )
    if claim.metric == "accuracy":
        pairs = zip(first, second, strict=True)
        effect = effects.effect_of([_accuracy(a) - _accuracy(b) for a, b in pairs])
    else:
        tables = [
            [[effects.test_table(run) for run in runs] for runs in side]
            for side in (first, second)
        ]
        effect = effects.auc_effect(*tables)
    return Finding(claim.text, claim.effect, claim.holds, effect)


def _accuracy(runs: Sequence[PlannedRun]) -> float:
    return float(np.mean([run.figures["test"]["accuracy"] for run in runs]))


def _tables_of(rows: Sequence[str], seed: int, found: Found) -> list[PredictionTable]:
    return [effects.test_table(run) for run in effects.runs_with(rows, seed, found)]


def _find_transfer(found: Found, setting: Setting) -> Finding:
    measured = (
        "AUC with 20 patients less that of the same models before any transfer, mean "
        "of three models; the validation images choose the epoch of the first, which "
        "favours it"
    )
    rows = rescoring.TRANSFER_ROWS
    before = UNTRANSFERRED.tables(rows, found, setting)
    why = missing_rows(rows, found, setting) or setting.missing_replicates(before)
    if why:
        if not before:
            why = "not scored before transfer: --table=4"
        return Finding(_TRANSFER_HELPS, measured, _POSITIVE, None, why)
    after = {seed: _tables_of(rows, seed, found) for seed in before}
    pair = (setting.replicates(side) for side in (after, before))
    return Finding(_TRANSFER_HELPS, measured, _POSITIVE, effects.auc_effect(*pair))


NOT_FLIPPED = "four flips not scored: --table=ensemble"


def _find_ensemble(ensemble: Ensemble, found: Found, setting: Setting) -> list[Finding]:
    texts = {
        f"Averaging four flips helps ({ensemble.title})": (
            f"mean AUC of {len(ensemble.rows)} models with flips less without"
        ),
        f"Averaging models helps ({ensemble.title})": (
            "AUC of the mean of the models less their mean AUC, all with flips"
        ),
        f"Averaging models beats the best of them ({ensemble.title})": (
            "AUC of the mean of the models less that of the best, all with flips; "
            "the test images choose the best of each seed, which favours it"
        ),
    }
    tables = ensemble_tables(ensemble, found, setting)
    why = missing_ensemble(ensemble, found, setting)
    if why:
        return [Finding(*text, _POSITIVE, None, why) for text in texts.items()]
    singles = {seed: plain for seed, (plain, _) in tables.items()}
    flips = {seed: flipped for seed, (_, flipped) in tables.items()}
    means = {seed: [mean_table(each)] for seed, each in flips.items()}
    best = {seed: [max(each, key=effects.auc)] for seed, each in flips.items()}
    return [
        Finding(
            *text,
            _POSITIVE,
            effects.auc_effect(*(setting.replicates(side) for side in pair)),
        )
        for text, pair in zip(
            texts.items(),
            ((flips, singles), (means, flips), (means, best)),
            strict=True,
        )
    ]


def missing_ensemble(ensemble: Ensemble, found: Found, setting: Setting) -> str:
    """Says what an ensemble lacks; empty where nothing is missing."""
    why = missing_rows(ensemble.rows, found, setting)
    scored = ensemble_tables(ensemble, found, setting)
    return why or ("" if scored else NOT_FLIPPED) or setting.missing_replicates(scored)


def ensemble_tables(
    ensemble: Ensemble, found: Found, setting: Setting
) -> dict[int, tuple[list[PredictionTable], list[PredictionTable]]]:
    """Returns the models' scores without and with flips, for each common seed."""
    return {
        seed: (_tables_of(ensemble.rows, seed, found), flipped)
        for seed, flipped in FLIPS.tables(ensemble.rows, found, setting).items()
    }
