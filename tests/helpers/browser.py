"""A headless Chromium, where there is one, to look at pages with."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

_NAMES = (
    "chromium-headless-shell",
    "chrome-headless-shell",
    "chromium",
    "chromium-browser",
    "google-chrome",
)
_TIMEOUT = 60
# Chromium's word for who asks when no page does.
_BROWSER_ITSELF = "not an origin"


def find_browser() -> str:
    """Returns the path of a Chromium; skips the test where there is none.

    With MAMMO_JAX_NEEDS_BROWSER in the environment, as where one has been installed
    for the tests, it fails instead.
    """
    named = os.environ.get("MAMMO_JAX_BROWSER", "")
    for name in (named, *_NAMES):
        found = shutil.which(name) if name else None
        if found:
            return found
    end = pytest.fail if os.environ.get("MAMMO_JAX_NEEDS_BROWSER") else pytest.skip
    end(
        "no Chromium in PATH: install the package chromium-headless-shell (Debian) or "
        "chromium, or set MAMMO_JAX_BROWSER to the path of one"
    )


def screenshot(page: Path, picture: Path, size: tuple[int, int]) -> list[str]:
    """Opens a page of the disk and writes what is seen as PNG.

    Args:
      page: the HTML file.
      picture: the PNG file to write.
      size: of the window, width and height in pixels.

    Returns:
      Every address that the page asked the network for.
    """
    log = picture.with_suffix(".netlog.json")
    command = [
        find_browser(),
        "--headless",
        "--no-sandbox",  # Which needs rights that a container may not give.
        "--disable-gpu",
        # A full Chromium asks for things of its own.
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
        "--hide-scrollbars",
        f"--user-data-dir={picture.with_suffix('.profile')}",
        f"--window-size={size[0]},{size[1]}",
        f"--log-net-log={log}",
        f"--screenshot={picture}",
        page.absolute().as_uri(),
    ]
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=_TIMEOUT, check=False
    )
    assert picture.exists(), result.stderr
    events = json.loads(log.read_text())["events"]
    requests = [e["params"] for e in events if "initiator" in e.get("params", {})]
    return [r["url"] for r in requests if r["initiator"] != _BROWSER_ITSELF]
