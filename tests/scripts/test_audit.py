"""What is said of known vulnerabilities, by a pip-audit that answers as told."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
WHOLE = {"name": "whole", "version": "1.0", "vulns": []}
BROKEN = {
    "name": "broken",
    "version": "2.0",
    "vulns": [{"id": "PYSEC-1", "fix_versions": ["2.1"], "aliases": []}],
}
UNKNOWN = {"name": "ours", "skip_reason": "not found"}


LOCK = """\
whole==1.0 ; python_full_version < '3.12' \\
    --hash=sha256:00
whole==2.0 ; python_full_version >= '3.12'
broken==2.0
"""


def run_audit(
    folder: Path, answer: str, error: str = ""
) -> subprocess.CompletedProcess[str]:
    (folder / "a.lock").write_text(LOCK)
    (folder / "pip_audit.py").write_text(
        "import pathlib, sys\n"
        "(path,) = [a.split('=')[1] for a in sys.argv if '--requirement=' in a]\n"
        "with open('asked.txt', 'a') as file:\n"
        "    file.write(pathlib.Path(path).read_text() + '\\n')\n"
        f"print({answer!r})\nprint({error!r}, file=sys.stderr)\n"
    )
    paths = [str(folder), str(REPOSITORY)]
    return subprocess.run(
        [sys.executable, str(REPOSITORY / "scripts/audit.py"), str(folder / "a.lock")],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("packages", "code", "said"),
    [
        ([WHOLE, UNKNOWN], 0, "2 packages looked up, 0 with known vulnerabilities, 2"),
        ([WHOLE, BROKEN], 1, "broken 2.0: PYSEC-1, mended in 2.1"),
        # Nothing is in a database that does not answer.
        ([UNKNOWN, UNKNOWN], 0, "not audited: the database cannot be reached"),
    ],
)
def test_known_vulnerabilities_are_an_error(tmp_path, packages, code, said):
    done = run_audit(tmp_path, json.dumps({"dependencies": packages}))
    assert (done.returncode, done.stderr) == (code, "")
    assert said in done.stdout


def test_versions_of_every_python_are_looked_up(tmp_path):
    run_audit(tmp_path, json.dumps({"dependencies": [WHOLE]}))
    asked = (tmp_path / "asked.txt").read_text()
    assert asked == "whole==1.0\nbroken==2.0\n\nwhole==2.0\n\n"


def test_no_connection_is_no_error_and_another_failure_is(tmp_path):
    done = run_audit(tmp_path, "", "ConnectionError: Max retries exceeded")
    assert done.returncode == 0
    assert "not audited: the database cannot be reached" in done.stdout
    done = run_audit(tmp_path, "", "requirement 'x' does not contain a hash")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "pip-audit failed (requirement 'x' does not contain a hash)" in line
