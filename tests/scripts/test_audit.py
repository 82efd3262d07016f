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


def run_audit(folder: Path, answer: str) -> subprocess.CompletedProcess[str]:
    (folder / "a.lock").write_text("whole==1.0\n")
    (folder / "pip_audit.py").write_text(f"print({answer!r})\n")
    paths = [str(folder), str(REPOSITORY)]
    return subprocess.run(
        [sys.executable, str(REPOSITORY / "scripts/audit.py"), str(folder / "a.lock")],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("packages", "code", "said"),
    [
        ([WHOLE, UNKNOWN], 0, "1 packages looked up, 0 with known vulnerabilities, 1"),
        ([WHOLE, BROKEN], 1, "broken 2.0: PYSEC-1, mended in 2.1"),
        # Nothing is in a database that does not answer.
        ([UNKNOWN, UNKNOWN], 0, "not audited: the database cannot be reached"),
    ],
)
def test_known_vulnerabilities_are_an_error(tmp_path, packages, code, said):
    done = run_audit(tmp_path, json.dumps({"dependencies": packages}))
    assert (done.returncode, done.stderr) == (code, "")
    assert said in done.stdout


def test_an_audit_that_fails_says_that_nothing_is_known(tmp_path):
    done = run_audit(tmp_path, "ConnectionError")
    assert done.returncode == 0
    assert "not audited" in done.stdout
