"""Lines that say what goes on."""

import functools
import time

import pytest
from tqdm import tqdm

from mammo_jax.common import progress


@pytest.mark.parametrize("silent", [0.0, 60.0])
def test_only_what_takes_long_is_spoken_of(monkeypatch, capsys, silent):
    monkeypatch.setattr(progress, "_SILENT_SECONDS", silent)
    # A thread's start is not waited for, so one short wait may go unsaid.
    said = ""
    for _ in range(1000 if silent == 0 else 10):
        with progress.waiting("compiling"):
            pass
        said += capsys.readouterr().err
        if said:
            break
    assert ("compiling: 00:00" in said) == (silent == 0)


def test_nothing_is_said_where_lines_are_switched_off(monkeypatch, capsys):
    monkeypatch.setattr(progress, "_SILENT_SECONDS", 0.0)
    monkeypatch.setattr(progress.tqdm, "tqdm", functools.partial(tqdm, disable=True))
    with progress.waiting("compiling"):
        time.sleep(0.2)
    assert not capsys.readouterr().err


def test_an_error_ends_the_wait():
    with pytest.raises(KeyError), progress.waiting("compiling"):
        raise KeyError
