"""Rows of a prediction table."""

from mammo_jax.training.scoring import told_apart


def test_ids_that_are_alike_are_numbered_and_others_left_alone():
    # Patches of two lesions may lie in one place.
    ids = ["P_1_7_7", "P_1_7_8", "P_1_7_7", "P_1_7_7"]
    assert told_apart(ids) == ("P_1_7_7", "P_1_7_8", "P_1_7_7_2", "P_1_7_7_3")
