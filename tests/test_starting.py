"""How a program starts."""

import gc
import sys

import pytest

from mammo_jax.starting import quick_start


def test_a_quick_start_ends_also_by_an_error():
    usual, during = sys.getswitchinterval(), []

    def fail():
        during.append((gc.isenabled(), sys.getswitchinterval()))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), quick_start():
        fail()
    assert during == [(False, pytest.approx(usual / 10, rel=0.01))]
    assert gc.isenabled()
    assert sys.getswitchinterval() == usual
