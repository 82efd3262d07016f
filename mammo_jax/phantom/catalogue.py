"""Who is in a synthetic set: patients, breasts, findings, and the set's oddities.

Everything that is not to tell benign from malignant (density, side, kind, number of
findings) is dealt out evenly within the malignant and within the benign breasts.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from mammo_jax.phantom.anatomy import Anatomy, draw_anatomy
from mammo_jax.phantom.lesions import Lesion, draw_lesion
from mammo_jax.phantom.seeding import named_generator

T = TypeVar("T")

RELEASES = ("Training", "Test")
# Share of the images that show a malignant finding (CBIS-DDSM: 1347 of 3032).
MALIGNANT_SHARE = 0.45

_DENSITIES = {1: 0.20, 2: 0.40, 3: 0.28, 4: 0.12}
_KINDS = {"mass": 0.5, "calc": 0.5}
_SIDES = {"LEFT": 0.5, "RIGHT": 0.5}
_OPPOSITE = {"LEFT": "RIGHT", "RIGHT": "LEFT"}
_FINDINGS = {1: 0.84, 2: 0.12, 3: 0.04}
_VIEWS = {("CC", "MLO"): 0.90, ("MLO",): 0.06, ("CC",): 0.04}
_BOTH_BREASTS = 0.12

# Oddities of CBIS-DDSM, each given to one patient in every so many of the training
# release, so that small sets have them all and large ones have them rarely.
_QUIRK_PERIOD = 40
_QUIRKS = {
    1: "swapped",  # mask and crop: in the columns (CC), on disk (MLO)
    2: "mask_size",  # by some pixels (CC), by 15 % (MLO)
    3: "several",  # three abnormalities in each view
    4: "two_tables_other_label",  # benign mass, malignant calcifications
    5: "two_tables",  # both benign
    6: "both_releases",  # mass in the training, calcifications in the test release
    7: "ids_from_two",
    8: "density_zero",
    9: "two_series",  # mask and crop in studies of their own; descriptions wrong
}
_FIXED_LABELS = {"two_tables_other_label": True, "two_tables": False}
_TWO_KINDS = ("two_tables_other_label", "two_tables", "both_releases")


class Finding(NamedTuple):
    """An abnormality as the tables describe it.

    Attributes:
      lesion: the lesion to draw.
      release: "Training" or "Test".
      abnormality_id: as in the table.
      pathology: "MALIGNANT", "BENIGN" or "BENIGN_WITHOUT_CALLBACK".
      assessment: BI-RADS category 0..5.
      subtlety: 1 (subtle) to 5 (obvious).
      descriptors: mass shape and margins, or calc type and distribution.
    """

    lesion: Lesion
    release: str
    abnormality_id: int
    pathology: str
    assessment: int
    subtlety: int
    descriptors: tuple[str, str]


class Breast(NamedTuple):
    """A breast with its findings.

    Attributes:
      patient_id: "P_00016".
      laterality: "LEFT" or "RIGHT".
      findings: at least one; each shows in all views.
      anatomy: the breast to draw.
      views: "CC", "MLO" or both.
      quirk: the oddity of its files and rows, or "".
    """

    patient_id: str
    laterality: str
    findings: tuple[Finding, ...]
    anatomy: Anatomy
    views: tuple[str, ...]
    quirk: str

    @property
    def malignant(self) -> bool:
        """True if any finding is malignant."""
        return any(finding.lesion.malignant for finding in self.findings)


class _Slot(NamedTuple):
    """A breast to be filled in."""

    patient_id: str
    release: str
    quirk: str
    second: bool


def make_catalogue(seed: int, cases: int, test_share: float) -> list[Breast]:
    """Draws up a set of so many patients, a share of them in the test release."""
    generator = named_generator(seed, "catalogue")
    slots = _make_slots(generator, cases, test_share)
    labels = _deal_labels(generator, slots)
    breasts: dict[int, Breast] = {}
    for malignant in (False, True):
        indices = [i for i, label in enumerate(labels) if label is malignant]
        columns = [
            deal(generator, shares, len(indices))
            for shares in (_DENSITIES, _KINDS, _SIDES, _FINDINGS, _VIEWS)
        ]
        for index, density, kind, side, count, views in zip(
            indices, *columns, strict=True
        ):
            slot = slots[index]
            own = named_generator(seed, "breast", slot.patient_id, int(slot.second))
            breasts[index] = Breast(
                slot.patient_id,
                side,
                _draw_findings(own, slot, kind, malignant, count),
                draw_anatomy(own, density),
                ("CC", "MLO") if slot.quirk else views,
                slot.quirk,
            )
    return [_oppose(breasts, index) for index in range(len(slots))]


def _oppose(breasts: Mapping[int, Breast], index: int) -> Breast:
    """Gives a patient's second breast, which follows the first, the other side."""
    breast, before = breasts[index], breasts.get(index - 1)
    if before is None or before.patient_id != breast.patient_id:
        return breast
    return breast._replace(laterality=_OPPOSITE[before.laterality])


def deal(
    generator: np.random.Generator, shares: Mapping[T, float], count: int
) -> list[T]:
    """Deals `count` values in the given shares, as near as whole numbers allow."""
    values = list(shares)
    bounds = np.cumsum(list(shares.values())) / sum(shares.values())
    # One draw of the offset, so that rare values also reach small sets, sometimes.
    levels = (np.arange(count) + generator.uniform()) / max(count, 1)
    dealt = [values[i] for i in np.searchsorted(bounds, levels, side="right")]
    order = generator.permutation(count)
    return [dealt[i] for i in order]


def _make_slots(
    generator: np.random.Generator, cases: int, test_share: float
) -> list[_Slot]:
    numbers = np.cumsum(generator.integers(1, 4, cases))
    tests = min(cases - 1, max(round(cases * test_share), int(test_share > 0)))
    in_test = np.zeros(cases, bool)
    in_test[generator.permutation(cases)[:tests]] = True
    both = deal(generator, {True: _BOTH_BREASTS, False: 1 - _BOTH_BREASTS}, cases)
    slots = []
    trained = 0
    for number, test, two in zip(numbers, in_test, both, strict=True):
        quirk = "" if test else _QUIRKS.get(trained % _QUIRK_PERIOD, "")
        trained += not test
        slot = _Slot(f"P_{number:05d}", RELEASES[int(test)], quirk, False)
        slots.append(slot)
        if two and not quirk:
            slots.append(slot._replace(second=True))
    return slots


def _deal_labels(
    generator: np.random.Generator, slots: Sequence[_Slot]
) -> list[bool | None]:
    """Deals malignant or not to each slot, `MALIGNANT_SHARE` within each release."""
    labels = [_FIXED_LABELS.get(slot.quirk) for slot in slots]
    for release in RELEASES:
        members = [i for i, slot in enumerate(slots) if slot.release == release]
        free = [i for i in members if labels[i] is None]
        # Rounded up: the mean is then right with the one breast more or less.
        wanted = round(MALIGNANT_SHARE * len(members) + 0.2)
        fixed = sum(labels[i] is True for i in members)
        share = np.clip((wanted - fixed) / max(len(free), 1), 0, 1)
        count = round(share * len(free))
        order = generator.permutation(len(free))
        for rank, position in enumerate(order):
            labels[free[position]] = rank < count
    return labels


def _draw_findings(
    generator: np.random.Generator,
    slot: _Slot,
    kind: str,
    malignant: bool,
    count: int,
) -> tuple[Finding, ...]:
    first_id = 2 if slot.quirk == "ids_from_two" else 1
    if slot.quirk in _TWO_KINDS:
        # The mass is benign where the two tables are to disagree.
        mass = malignant and slot.quirk == "both_releases"
        other = "Test" if slot.quirk == "both_releases" else slot.release
        return (
            _draw_finding(generator, "mass", mass, slot.release, 1),
            _draw_finding(generator, "calc", malignant, other, 1),
        )
    if slot.quirk == "several":
        count = 3
    labels = [malignant] + [
        malignant and bool(generator.uniform() < 0.5) for _ in range(count - 1)
    ]
    return tuple(
        _draw_finding(generator, kind, label, slot.release, first_id + index)
        for index, label in enumerate(labels)
    )


# BI-RADS categories of findings by label, and descriptors by kind and label.
_ASSESSMENTS = {
    True: {5: 0.5, 4: 0.42, 3: 0.04, 0: 0.04},
    False: {4: 0.5, 3: 0.35, 0: 0.1, 2: 0.05},
}
_DESCRIPTORS = {
    ("mass", False): (
        {"OVAL": 0.4, "ROUND": 0.25, "LOBULATED": 0.35},
        {"CIRCUMSCRIBED": 0.85, "OBSCURED": 0.1, "N/A": 0.05},
    ),
    ("mass", True): (
        {"IRREGULAR": 0.8, "IRREGULAR-ARCHITECTURAL_DISTORTION": 0.2},
        {"SPICULATED": 0.6, "ILL_DEFINED-SPICULATED": 0.3, "ILL_DEFINED": 0.1},
    ),
    ("calc", False): (
        {"COARSE": 0.4, "ROUND_AND_REGULAR-LUCENT_CENTER": 0.4, "DYSTROPHIC": 0.2},
        {"N/A": 0.6, "REGIONAL": 0.2, "DIFFUSELY_SCATTERED": 0.2},
    ),
    ("calc", True): (
        {"PLEOMORPHIC": 0.8, "PLEOMORPHIC-FINE_LINEAR_BRANCHING": 0.2},
        {"CLUSTERED": 0.85, "CLUSTERED-LINEAR": 0.15},
    ),
}


def _draw_finding(
    generator: np.random.Generator,
    kind: str,
    malignant: bool,
    release: str,
    abnormality_id: int,
) -> Finding:
    lesion = draw_lesion(generator, kind, malignant)
    assessment = _choose(generator, _ASSESSMENTS[malignant])
    first, second = _DESCRIPTORS[kind, malignant]
    descriptors = _choose(generator, first), _choose(generator, second)
    pathology = "MALIGNANT" if malignant else "BENIGN"
    if not malignant and generator.uniform() < 0.3:
        pathology, assessment = "BENIGN_WITHOUT_CALLBACK", 2
    subtlety = 1 + int(5 * lesion.conspicuity)
    return Finding(
        lesion, release, abnormality_id, pathology, assessment, subtlety, descriptors
    )


def _choose(generator: np.random.Generator, shares: Mapping[T, float]) -> T:
    values = list(shares)
    return values[generator.choice(len(values), p=np.array(list(shares.values())))]
