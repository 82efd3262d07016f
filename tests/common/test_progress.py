"""Lines that say what goes on."""

import pytest

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


def test_an_error_ends_the_wait():
    with pytest.raises(KeyError), progress.waiting("compiling"):
        raise KeyError
