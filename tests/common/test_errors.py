"""How commands end."""

import signal
import subprocess
import sys

import pytest

from mammo_jax.common.errors import UserError, is_failure, run_command
from mammo_jax.common.files import whole_folder


def test_sigterm_removes_what_is_half_written(tmp_path, capsys):
    def command():
        with whole_folder(tmp_path / "out") as folder:
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


@pytest.mark.parametrize(
    ("error", "failed"),
    [
        (UserError("it"), True),
        (SystemExit(1), True),
        (SystemExit(0), False),
        (SystemExit(143), False),
    ],
)
def test_a_stop_is_no_failure(error, failed):
    assert is_failure(error) == failed


@pytest.mark.parametrize("error", ["SystemExit(1)", "ValueError('the reason')"])
def test_a_failed_process_does_not_wait_for_its_threads(error):
    # The thread would take a minute.
    program = (
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
    assert ("the reason" in ended.stderr) == error.startswith("Value")
