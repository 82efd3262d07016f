import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from raw_trees import Row, write_tables

from mammo_jax.datasets.cbis_tables import read_tables
from mammo_jax.datasets.splits import (
    PROTOCOLS,
    hold_out,
    leaking_patients,
    official_splits,
    paper_splits,
)

PATIENTS = st.dictionaries(
    st.integers(0, 99999).map("P_{:05d}".format), st.booleans(), max_size=60
)


@given(PATIENTS, st.floats(0.01, 0.99), st.integers(0, 2**32))
def test_each_stratum_gives_its_share(malignant, share, seed):
    chosen = hold_out(malignant, share, seed)

    assert chosen <= set(malignant)
    for stratum in (False, True):
        patients = {
            p for p, is_malignant in malignant.items() if is_malignant is stratum
        }
        count = len(chosen & patients)
        assert abs(count - share * len(patients)) <= 1
        if len(patients) > 1:
            assert 0 < count < len(patients)


@given(PATIENTS, st.integers(0, 99))
def test_the_draw_depends_on_the_seed_and_not_on_the_order(malignant, seed):
    backwards = dict(reversed(malignant.items()))

    assert hold_out(malignant, 0.3, seed) == hold_out(backwards, 0.3, seed)


def test_another_seed_draws_others():
    malignant = {f"P_{n:05d}": n % 2 == 0 for n in range(100)}

    draws = {frozenset(hold_out(malignant, 0.2, seed)) for seed in range(5)}

    assert len(draws) == 5


@pytest.fixture
def abnormalities(tmp_path):
    """Forty patients, half malignant; the first four are in both releases."""
    rows = [
        Row(patient=n, side=side, kind=kind, release=release, pathology=pathology)
        for n, kind in itertools.product(range(40), ("mass", "calc"))
        for release in {"train" if n < 30 else "test", "test" if n < 4 else "train"}
        if not (n >= 30 and release == "train")
        for side in ("LEFT", "RIGHT")
        for pathology in [("BENIGN", "MALIGNANT")[n % 2]]
    ]
    write_tables(tmp_path, rows)
    return read_tables(tmp_path)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_patient_is_in_two_splits(abnormalities, protocol):
    splits = PROTOCOLS[protocol](abnormalities, 0)

    patients = [{view.patient_id for view in views} for views in splits.values()]
    for one, other in itertools.combinations(patients, 2):
        assert not one & other
    assert all(patients)


def test_paper_protocol_uses_the_training_release_alone(abnormalities):
    splits = paper_splits(abnormalities, 0)

    used = {a for views in splits.values() for v in views for a in v.abnormalities}
    assert used == {a for a in abnormalities if a.release == "train"}


def test_official_test_set_loses_the_patients_that_train(abnormalities):
    splits = official_splits(abnormalities, 0)

    leaking = leaking_patients(abnormalities)
    assert leaking == ["P_00000", "P_00001", "P_00002", "P_00003"]
    tested = {view.patient_id for view in splits["test"]}
    assert tested == {f"P_{n:05d}" for n in range(30, 40)}


def test_official_training_views_know_what_the_test_tables_say_of_them(tmp_path):
    others = [Row(patient=n) for n in range(2, 8)]
    unseen = Row(kind="calc", release="test", view="MLO", pathology="MALIGNANT")
    known = Row(kind="calc", release="test", pathology="MALIGNANT")
    write_tables(tmp_path, [Row(), known, unseen, *others])

    splits = official_splits(read_tables(tmp_path), 0)

    views = {v.image_id: v for name in splits for v in splits[name]}
    assert views["P_00001_LEFT_CC"].is_malignant
    assert "P_00001_LEFT_MLO" not in views
