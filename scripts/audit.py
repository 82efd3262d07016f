"""Looks the packages of a lock up in the database of known vulnerabilities.

  python scripts/audit.py requirements.lock

By pip-audit, which asks the package index. Where that is not reached nothing is known:
this then says so, and is no error.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from mammo_jax.common.errors import UserError, run_command


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("locks", nargs="+", type=Path, help="files with exact versions")
    return parser.parse_args(arguments)


def audit(lock: Path) -> list[dict[str, Any]]:
    """Returns what pip-audit says of each package of a lock; none where it failed.

    Raises:
      UserError: there is no such lock.
    """
    if not lock.is_file():
        raise UserError(f"{lock}: no such file; give a lock")
    options = ("--disable-pip", "--require-hashes", "--progress-spinner=off")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip_audit", f"--requirement={lock}"),
            *(*options, "--format=json"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        return []
    return found


def main(options: argparse.Namespace) -> int:
    """Audits the locks; the exit code is 1 where a vulnerability is known."""
    bad = 0
    for lock in options.locks:
        packages = audit(lock)
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
    parsed = parse_arguments()
    run_command(lambda: main(parsed))
