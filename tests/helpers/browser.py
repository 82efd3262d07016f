"""A headless Chromium, where there is one, to look at pages with."""

import base64
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import axe_core_python
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
        *_headless(picture.with_suffix(".profile"), size),
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


def _headless(profile: Path, size: tuple[int, int]) -> list[str]:
    return [
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
        f"--user-data-dir={profile}",
        f"--window-size={size[0]},{size[1]}",
    ]


# Runs in the page: says what axe finds, and whether a line is wider than the window.
_LOOK = """
axe.run().then(found => {
  const rules = found.violations.map(
    rule => rule.id + ": " + rule.nodes.map(node => node.html).join(" "));
  const root = document.documentElement;
  if (root.scrollWidth > root.clientWidth)
    rules.push("wider than the window: " + root.scrollWidth);
  rules.push("rules passed: " + found.passes.length);
  const text = btoa(unescape(encodeURIComponent(JSON.stringify(rules))));
  document.body.innerHTML = "found=" + text + "=found";
});
"""


def accessibility(page: Path, folder: Path, size: tuple[int, int]) -> list[str]:
    """Lists what axe-core finds wrong in a page, and content wider than the window.

    The last line counts the rules that the page follows, so that silence is no success.
    """
    axe = Path(axe_core_python.__file__).with_name("axe.min.js").read_text()
    text = re.sub("<meta http-equiv[^>]*>", "", page.read_text(errors="replace"))
    copy = folder / "with_axe.html"
    scripts = f"<script>{axe}</script><script>{_LOOK}</script>"
    copy.write_text(text.replace("</body>", f"{scripts}</body>"))
    result = subprocess.run(
        [
            *_headless(folder / "axe.profile", size),
            "--virtual-time-budget=20000",
            "--dump-dom",
            copy.absolute().as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=_TIMEOUT,
        check=False,
    )
    found = re.search("found=(.*?)=found", result.stdout)
    assert found, result.stderr
    rules: list[str] = json.loads(base64.b64decode(found[1]))
    return rules
