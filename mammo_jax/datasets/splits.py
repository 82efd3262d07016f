"""Seeded splits by patient, stratified by malignancy, and CBIS-DDSM's two protocols."""

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from mammo_jax.datasets.cbis_tables import Abnormality, CbisView, merge_views

# Paper, section 2.1: 85/15 for the test set, then 90/10 for the validation set.
PAPER_TEST_SHARE = 0.15
VALIDATION_SHARE = 0.10


def hold_out(
    malignant_by_patient: Mapping[str, bool], share: float, seed: int
) -> set[str]:
    """Draws `share` (0..1) of the patients, from the malignant and the others alike.

    The draw depends on `seed` and on the set of patients alone, not on their order. A
    stratum of two or more patients gives at least one and keeps at least one.
    """
    chosen: set[str] = set()
    for stratum in (False, True):
        patients = sorted(
            p for p, is_ in malignant_by_patient.items() if is_ is stratum
        )
        count = round(share * len(patients))
        if len(patients) > 1:
            count = min(max(count, 1), len(patients) - 1)
        order = np.random.default_rng([seed, stratum]).permutation(len(patients))
        chosen.update(patients[i] for i in order[:count])
    return chosen


def label_patients(images: Iterable[tuple[str, bool]]) -> dict[str, bool]:
    """Returns True for each patient with any malignant image, of (patient, label)."""
    malignant: dict[str, bool] = {}
    for patient, is_malignant in images:
        malignant[patient] = malignant.get(patient, False) or is_malignant
    return malignant


def draw_paper_splits(malignant: Mapping[str, bool], seed: int) -> dict[str, set[str]]:
    """Draws the paper's shares: 15 % of the patients test, 10 % of others validate."""
    test = hold_out(malignant, PAPER_TEST_SHARE, seed)
    rest = {patient: is_ for patient, is_ in malignant.items() if patient not in test}
    validation = hold_out(rest, VALIDATION_SHARE, seed + 1)
    return {"train": set(rest) - validation, "validation": validation, "test": test}


def paper_splits(
    abnormalities: Sequence[Abnormality], seed: int
) -> dict[str, list[CbisView]]:
    """Splits the training release alone, in the paper's shares."""
    pool = [a for a in abnormalities if a.release == "train"]
    return _by_patient(pool, draw_paper_splits(_label_patients(pool), seed))


def official_splits(
    abnormalities: Sequence[Abnormality], seed: int
) -> dict[str, list[CbisView]]:
    """Takes the release's own test set, less the patients that also train.

    A training patient's views keep the abnormalities that only the test tables list,
    so that their labels are the truth; views that only the test tables list are left
    out with her.
    """
    pool = [a for a in abnormalities if a.release == "train"]
    malignant = _label_patients(pool)
    validation = hold_out(malignant, VALIDATION_SHARE, seed + 1)
    trained_views = {a.image_id for a in pool}
    test = {a.patient_id for a in abnormalities} - set(malignant)
    kept = [
        a for a in abnormalities if a.image_id in trained_views or a.patient_id in test
    ]
    train = set(malignant) - validation
    return _by_patient(kept, {"train": train, "validation": validation, "test": test})


def leaking_patients(abnormalities: Sequence[Abnormality]) -> list[str]:
    """Lists the patients that are in both the training and the test tables."""
    train, test = (
        {a.patient_id for a in abnormalities if a.release == release}
        for release in ("train", "test")
    )
    return sorted(train & test)


def _label_patients(abnormalities: Sequence[Abnormality]) -> dict[str, bool]:
    return label_patients((a.patient_id, a.is_malignant) for a in abnormalities)


def _by_patient(
    abnormalities: Sequence[Abnormality], patients: Mapping[str, Collection[str]]
) -> dict[str, list[CbisView]]:
    return {
        split: merge_views(a for a in abnormalities if a.patient_id in chosen)
        for split, chosen in patients.items()
    }


PROTOCOLS = {"paper": paper_splits, "official": official_splits}
# Releases whose tables a protocol reads.
PROTOCOL_RELEASES = {"paper": ("train",), "official": ("train", "test")}
