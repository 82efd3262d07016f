"""Looks the packages of a lock up in the database of known vulnerabilities.

  python scripts/audit.py requirements.lock

By pip-audit, which asks the package index. Where that is not reached nothing is known:
this then says so, and is no error.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from mammo_jax.common.command_line import make_parser, run_main
from mammo_jax.common.errors import UserError

_PIN = re.compile(r"^([\w.-]+)==([^\s;\\]+)", re.MULTILINE)
_NO_CONNECTION = re.compile("Connection|Timeout|resolve|unreachable", re.IGNORECASE)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = make_parser(__doc__)
    parser.add_argument("locks", nargs="+", type=Path, help="files with exact versions")
    return parser.parse_args(arguments)


def read_pins(lock: Path) -> list[dict[str, str]]:
    """Reads the packages of a lock, for every Python and platform at once.

    Returns:
      Versions by name. A package that has several, by its markers, has one in each.

    Raises:
      UserError: there is no such lock, or it pins nothing.
    """
    if not lock.is_file():
        raise UserError(f"{lock}: no such file; give a lock")
    pins: list[dict[str, str]] = []
    for name, version in _PIN.findall(lock.read_text(encoding="utf-8")):
        free = next((pin for pin in pins if name not in pin), None)
        if free is None:
            pins.append(free := {})
        free[name] = version
    if not pins:
        raise UserError(f"{lock}: names no package as NAME==VERSION; give a lock")
    return pins


def audit(pins: dict[str, str]) -> list[dict[str, Any]]:
    """Returns what pip-audit says of each package; nothing where it gets no answer.

    Raises:
      UserError: pip-audit failed for another reason.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.writelines(f"{name}=={version}\n" for name, version in pins.items())
        file.flush()
        options = ("--no-deps", "--disable-pip", "--progress-spinner=off")
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pip_audit", f"--requirement={file.name}"),
                *(*options, "--format=json"),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
    try:
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError) as error:
        if _NO_CONNECTION.search(done.stderr):
            return []
        last = done.stderr.strip().splitlines()[-1:] or ["it says nothing"]
        raise UserError(f"pip-audit failed ({last[0]}); run it by hand") from error
    return found


def main(options: argparse.Namespace) -> int:
    """Audits the locks; the exit code is 1 where a vulnerability is known."""
    bad = 0
    for lock in options.locks:
        packages = [one for pins in read_pins(lock) for one in audit(pins)]
        known = [package for package in packages if "vulns" in package]
        if not known:
            print(f"{lock}: not audited: the database cannot be reached")
            continue
        found = [package for package in known if package["vulns"]]
        unknown = len(packages) - len(known)
        print(
            f"{lock}: {len(known)} packages looked up, {len(found)} with known "
            f"vulnerabilities, {unknown} not in the database"
        )
        for package in found:
            bad = 1
            for vulnerability in package["vulns"]:
                fixed = ", ".join(vulnerability["fix_versions"]) or "no version"
                print(
                    f"  {package['name']} {package['version']}: {vulnerability['id']}, "
                    f"mended in {fixed}"
                )
    return bad


if __name__ == "__main__":
    run_main(parse_arguments, main)
