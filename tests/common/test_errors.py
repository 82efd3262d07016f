"""How commands end."""

import contextlib
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mammo_jax.common import errors
from mammo_jax.common.errors import (
    RunStoppedError,
    UserError,
    is_failure,
    run_command,
)
from mammo_jax.common.files import whole_folder
from mammo_jax.weights import hub, weight_files


@pytest.mark.parametrize(
    "inside",
    [
        lambda path: whole_folder(path / "out"),
        # They make a line of any error of a library's.
        lambda path: weight_files.reading(path / "weights", "weight file"),
        lambda _: hub._explained("hf://clinic/model"),
    ],
)
def test_sigterm_ends_a_command_and_leaves_nothing(tmp_path, capsys, inside):
    def command():
        with inside(tmp_path) as folder:
            if isinstance(folder, Path):
                (folder / "half").write_text("half")
            signal.raise_signal(signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with pytest.raises(SystemExit) as ended:
            run_command(command)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended.value.code == 128 + signal.SIGTERM
    assert capsys.readouterr().err == "stopped: give the same command again\n"
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_in_a_finalizer_is_not_lost(capsys, number):
    class Finalized:
        def __del__(self):
            signal.raise_signal(number)

    def command():
        Finalized()  # Python drops what its finalizer raises.
        time.sleep(20)
        return 0

    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        with pytest.raises(SystemExit) as ended:
            run_command(command)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert ended.value.code == 128 + signal.SIGTERM
    assert capsys.readouterr().err == "stopped: give the same command again\n"


def test_a_command_whose_terminal_is_gone_ends_as_stopped():
    script = (
        "import fcntl, signal, termios, time\n"
        "from mammo_jax.common.errors import run_command\n"
        "fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
        # The tests may have been started by `nohup`.
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
        "def work():\n print('ready', flush=True)\n time.sleep(60)\n"
        "run_command(work)"
    )
    master, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )
    os.close(terminal)
    while b"ready" not in os.read(master, 100):
        pass
    os.close(master)  # The kernel sends SIGHUP, and nothing can be written any more.
    assert process.wait(timeout=30) == 128 + signal.SIGTERM


@pytest.mark.parametrize("ignored", [False, True])
def test_a_closed_terminal_ends_a_command_unless_it_is_to_go_on(capsys, ignored):
    # `nohup` ignores it before the command begins.
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        with pytest.raises(SystemExit) as ended:
            run_command(lambda: signal.raise_signal(signal.SIGHUP))
        expected = signal.SIG_IGN if ignored else signal.SIG_DFL
        assert signal.getsignal(signal.SIGHUP) == expected
    finally:
        signal.signal(signal.SIGHUP, before)
    assert ended.value.code == (0 if ignored else 128 + signal.SIGTERM)
    assert ("stopped: " in capsys.readouterr().err) != ignored


@pytest.mark.parametrize(
    ("error", "failed"),
    [
        (UserError("it"), True),
        (SystemExit(1), True),
        (SystemExit(0), False),
        (SystemExit(143), False),
        (KeyboardInterrupt(), False),
        (RunStoppedError(15, "it"), False),
    ],
)
def test_a_stop_is_no_failure(error, failed):
    assert is_failure(error) == failed


def test_a_sigterm_that_a_finalizer_lost_can_be_sent_again(monkeypatch):
    monkeypatch.setattr(errors, "_SECONDS_TO_CLEAN_UP", 0.0)

    def command():
        with contextlib.suppress(RunStoppedError):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        pytest.fail("it was not stopped")

    with pytest.raises(SystemExit) as ended:
        run_command(command)
    assert ended.value.code == 128 + signal.SIGTERM


def test_a_stop_that_a_library_tells_as_an_error_is_a_stop(capsys):
    def command():
        try:
            signal.raise_signal(signal.SIGTERM)
        except RunStoppedError as error:
            raise ValueError("INTERNAL: RunStoppedError") from error

    with pytest.raises(SystemExit) as ended:
        run_command(command)
    assert ended.value.code == 128 + signal.SIGTERM
    assert capsys.readouterr().err == "stopped: give the same command again\n"


def test_a_second_sigterm_does_not_end_the_cleaning_up(tmp_path):
    def command():
        try:
            with whole_folder(tmp_path / "out"):
                signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit) as ended:
        run_command(command)
    assert ended.value.code == 128 + signal.SIGTERM


@pytest.mark.parametrize("before", ["", "import os; os.close(2)\n"])
@pytest.mark.parametrize("error", ["SystemExit(1)", "ValueError('the reason')"])
def test_a_failed_process_does_not_wait_for_its_threads(error, before):
    # The thread would take a minute.
    program = before + (
        "import threading, time\n"
        "from mammo_jax.common.errors import end_now\n"
        "threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "print('half a line', end='')\n"
        f"try: raise {error}\n"
        "except BaseException as error: end_now(error)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30
    )
    assert ended.returncode == 1
    assert ended.stdout == "half a line"
    said = error.startswith("Value") and not before
    assert ("the reason" in ended.stderr) == said
