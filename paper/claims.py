"""The paper's claims, and what finished runs say for or against each.

A claim is an effect and the range of it in which the claim holds. It is borne out
where every interval of the effect lies within that range, contradicted where every
one lies outside, and undecided otherwise and with fewer than three seeds. The claims of
this project about its own designs are judged likewise.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from mammo_jax.evaluation.prediction_table import PredictionTable, mean_table
from paper import ensembles, outcomes, untransferred
from paper.ensembles import ENSEMBLES
from paper.outcomes import Effect, Ends
from paper.plan import PlannedRun, Setting

FOR, AGAINST, UNDECIDED = "for", "against", "undecided"
# Differences of AUC that do not matter: what the paper calls "only 0.02-0.03" is one.
_MARGIN = 0.05
# Below, an interval over the seeds says next to nothing.
FEWEST_SEEDS = 3
_POSITIVE = (0.0, math.inf)
_SMALL = (-_MARGIN, _MARGIN)
_AT_MOST = (-math.inf, _MARGIN)

_FEW_SUFFICE = "Few patients suffice for transfer"

_BLOCKS = "resnet50_s10_residual_"
_BIG, _NARROW = f"{_BLOCKS}512-512-1024x2", f"{_BLOCKS}256-128x1"
# The tops that other claims name, too; the others run with one seed.
_RESIDUAL = (f"{_BLOCKS}512-512-2048x1", _BIG, _NARROW)
_VGG_TOPS = (
    "vgg16_s10_vgg_512x1",
    "vgg16_s10_vgg_128-64x1",
    "vgg16_s10_residual_512-512-1024x2",
)
_HEATMAPS = {
    trunk: tuple(f"{trunk}_s10_heatmap_{pool}" for pool in ("1x1", "2x2", "5x5"))
    for trunk in ("resnet50", "vgg16")
}


@dataclasses.dataclass(frozen=True)
class Claim:
    """A sentence about a difference between rows: the paper's, or of this project.

    Attributes:
      text: what is claimed.
      effect: what is measured, in words.
      first: rows whose mean is compared.
      second: rows with whose mean it is compared.
      holds: the effects, lowest and highest, with which the claim is true.
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


CLAIMS = (
    _pretraining("s1", "accuracy"),
    _pretraining("s10", "accuracy"),
    _pretraining("s10", "auc"),
    Claim(
        "s10 beats s1 as the base of a whole-image classifier",
        "AUC on s10 less AUC on s1, [512-512-2048]x1",
        (f"{_BLOCKS}512-512-2048x1",),
        ("resnet50_s1_residual_512-512-2048x1",),
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
        _VGG_TOPS,
        _HEATMAPS["vgg16"],
    ),
    Claim(
        "Heatmap + FC beats heatmap + random forest",
        "AUC of heatmap 1x1 less that of the forest",
        (_HEATMAPS["resnet50"][0],),
        ("resnet50_s10_forest",),
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
    Claim(
        "The width of the new layers matters little (ResNet50)",
        f"AUC of [512-512-1024]x2 less that of [256], [128]; within {_MARGIN}",
        (_BIG,),
        (_NARROW,),
        _SMALL,
    ),
    Claim(
        "The width of the new layers matters little (VGG16)",
        f"AUC of 512x1 less that of 128x1, 64x1; within {_MARGIN}",
        ("vgg16_s10_vgg_512x1",),
        ("vgg16_s10_vgg_128-64x1",),
        _SMALL,
    ),
    Claim(
        _FEW_SUFFICE,
        "AUC with all patients less that with 20, mean of three models; at most "
        f"{_MARGIN}, and for only where the transfer with 20 helps",
        tuple(f"inbreast_{model}" for model in untransferred.MODELS),
        untransferred.ROWS,
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
    for design, row in (
        (
            "Hard background patches in patch training beat",
            "resnet50_s10hard_residual_512-512-1024x2",
        ),
        ("One stage with a rate for each group beats", "resnet50_s10_one_stage"),
        ("The gentler stem beats", "resnet50_s10_gentle_residual_512-512-1024x2"),
        (
            "The original resolution beats",
            "resnet50_s10_original_residual_512-512-1024x2",
        ),
    )
)
# Rows that some claim needs, directly; the others need one seed only.
CLAIMED_ROWS = frozenset(
    row for claim in (*CLAIMS, *DESIGN_CLAIMS) for row in (*claim.first, *claim.second)
) | frozenset(ensembles.ROWS)


@dataclasses.dataclass(frozen=True)
class Finding:
    """What the runs say of a claim.

    Attributes:
      text: what is claimed.
      measured: what was measured, in words.
      effect: None where a row is missing.
      verdict: for, against, undecided, or why there is none.
    """

    text: str
    measured: str
    effect: Effect | None
    verdict: str


def verdict(effect: Effect, holds: Ends) -> str:
    """See the module's first lines; without any interval a claim is undecided."""
    if effect.seeds < FEWEST_SEEDS:
        return UNDECIDED
    intervals = [ends for ends in (effect.by_seeds, effect.by_patients) if ends]
    if not intervals:
        return UNDECIDED
    if all(holds[0] < low and high < holds[1] for low, high in intervals):
        return FOR
    if all(high < holds[0] or low > holds[1] for low, high in intervals):
        return AGAINST
    return UNDECIDED


def judge(found: Mapping[str, Sequence[PlannedRun]], setting: Setting) -> list[Finding]:
    """Every claim about rows and ensembles, judged by the finished runs."""
    transfer = _judge_transfer(found, setting)
    return [
        *(_if_helpful(_judge_rows(claim, found), transfer) for claim in CLAIMS),
        transfer,
        *_judge_ensembles(found, setting),
    ]


def _if_helpful(finding: Finding, transfer: Finding) -> Finding:
    """Few patients suffice for nothing where the transfer itself has no effect.

    The little that more patients add would then be within the margin as well.
    """
    helps = transfer.verdict == FOR
    if finding.text == _FEW_SUFFICE and finding.verdict == FOR and not helps:
        return dataclasses.replace(finding, verdict=UNDECIDED)
    return finding


def judge_designs(found: Mapping[str, Sequence[PlannedRun]]) -> list[Finding]:
    """Every design of this project against the paper's best, by the finished runs."""
    return [_judge_rows(claim, found) for claim in DESIGN_CLAIMS]


def _missing(rows: Sequence[str], found: Mapping[str, Sequence[PlannedRun]]) -> str:
    gone = [row for row in rows if row not in found]
    return f"not run: {', '.join(gone)}" if gone else "not run with a common seed"


def _judge_rows(claim: Claim, found: Mapping[str, Sequence[PlannedRun]]) -> Finding:
    rows = (*claim.first, *claim.second)
    seeds = outcomes.common_seeds(rows, found)
    if not seeds:
        return Finding(claim.text, claim.effect, None, _missing(rows, found))

    def runs(names: Sequence[str], seed: int) -> list[PlannedRun]:
        return [run for name in names for run in found[name] if run.seed == seed]

    if claim.metric == "accuracy":
        means = [
            [
                sum(outcomes.figures(run)["test"]["accuracy"] for run in part)
                / len(part)
                for part in (runs(names, seed) for seed in seeds)
            ]
            for names in (claim.first, claim.second)
        ]
        effect = outcomes.figure_effect(*means)
    else:
        first, second = (
            [[ensembles.single(run) for run in runs(names, seed)] for seed in seeds]
            for names in (claim.first, claim.second)
        )
        effect = outcomes.auc_effect(first, second)
    return Finding(claim.text, claim.effect, effect, verdict(effect, claim.holds))


def _judge_transfer(
    found: Mapping[str, Sequence[PlannedRun]], setting: Setting
) -> Finding:
    text = "Transfer with 20 patients helps"
    measured = (
        "AUC with 20 patients less that of the same models before any transfer, mean "
        "of three models; the validation images choose the epoch of the first, which "
        "favours it"
    )
    rows = untransferred.ROWS
    before = untransferred.tables(rows, found, setting)
    if not before:
        why = _missing(rows, found)
        if outcomes.common_seeds(rows, found):
            why = "not scored before transfer; --table=4 does it"
        return Finding(text, measured, None, why)
    after = [
        [
            ensembles.single(run)
            for row in rows
            for run in found[row]
            if run.seed == seed
        ]
        for seed in before
    ]
    effect = outcomes.auc_effect(after, list(before.values()))
    return Finding(text, measured, effect, verdict(effect, _POSITIVE))


def _judge_ensembles(
    found: Mapping[str, Sequence[PlannedRun]], setting: Setting
) -> list[Finding]:
    findings = []
    for ensemble in ENSEMBLES.values():
        texts = (
            (
                f"Averaging four flips helps ({ensemble.title})",
                f"mean AUC of {len(ensemble.rows)} models with flips less without",
            ),
            (
                f"Averaging models helps ({ensemble.title})",
                "AUC of the mean of the models less their mean AUC, all with flips",
            ),
            (
                f"Averaging models beats the best of them ({ensemble.title})",
                "AUC of the mean of the models less that of the best, all with flips; "
                "the test images choose the best of each seed, which favours it",
            ),
        )
        tables = ensemble_tables(ensemble.rows, found, setting)
        if not tables:
            why = why_no_ensemble(ensemble.rows, found)
            findings += [Finding(*text, None, why) for text in texts]
            continue
        singles = [seed[0] for seed in tables.values()]
        flips = [seed[1] for seed in tables.values()]
        means = [[mean_table(seed)] for seed in flips]
        best = [[max(seed, key=outcomes.auc)] for seed in flips]
        pairs = ((flips, singles), (means, flips), (means, best))
        for text, pair in zip(texts, pairs, strict=True):
            effect = outcomes.auc_effect(*pair)
            findings.append(Finding(*text, effect, verdict(effect, _POSITIVE)))
    return findings


def why_no_ensemble(
    rows: Sequence[str], found: Mapping[str, Sequence[PlannedRun]]
) -> str:
    """What is missing where `ensemble_tables` gives none."""
    if outcomes.common_seeds(rows, found):
        return "four flips not scored; --table=ensemble scores them"
    return _missing(rows, found)


def ensemble_tables(
    rows: Sequence[str],
    found: Mapping[str, Sequence[PlannedRun]],
    setting: Setting,
) -> dict[int, tuple[list[PredictionTable], list[PredictionTable]]]:
    """For each common seed, the models' scores without and with flips."""
    result = {}
    for seed in outcomes.common_seeds(rows, found):
        runs = [run for row in rows for run in found[row] if run.seed == seed]
        if all(ensembles.is_flipped(run, setting) for run in runs):
            result[seed] = (
                [ensembles.single(run) for run in runs],
                [ensembles.flipped(run, setting) for run in runs],
            )
    return result
