"""The notebook of the tour runs as it is stored, and is stored without outputs."""

import json
import os
import re
import subprocess
import sys

import pytest
from doc_pages import ROOT

TOUR = ROOT / "docs" / "tour.ipynb"
# A kernel runs cells within an event loop.
AS_A_KERNEL = """
import asyncio, sys
async def run():
    exec(sys.stdin.read(), {"__name__": "__main__"})
asyncio.run(run())
"""


def cells(kind: str) -> list[str]:
    """Returns the sources of the notebook's cells of one kind."""
    notebook = json.loads(TOUR.read_text(encoding="utf-8"))
    return [
        "".join(cell["source"])
        for cell in notebook["cells"]
        if cell["cell_type"] == kind
    ]


def test_the_tour_is_stored_without_outputs():
    notebook = json.loads(TOUR.read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(code) > 5
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)


def test_the_tours_links_lead_somewhere():
    linked = re.findall(r"\]\(([^)]+)\)", "\n".join(cells("markdown")))
    assert len(linked) > 3
    assert all((TOUR.parent / link).is_file() for link in linked)


def test_the_first_cell_installs_where_the_package_is_missing(tmp_path, monkeypatch):
    (tmp_path / "mammo_jax-9.9.9-py3-none-any.whl").touch()
    monkeypatch.chdir(tmp_path)
    commands = []
    monkeypatch.setattr(subprocess, "run", lambda *words, **_: commands.append(words))
    exec(cells("code")[0], {})
    assert not commands  # It is there.
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    exec(cells("code")[0], {})
    assert commands[0][0][-1] == "mammo_jax-9.9.9-py3-none-any.whl"


@pytest.mark.slow
def test_the_tour_runs(tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", AS_A_KERNEL],
        input="\n".join(cells("code")),
        env={**os.environ, "MPLBACKEND": "agg", "TMPDIR": str(tmp_path)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    losses = [float(loss) for loss in re.findall(r"step \d: loss (\S+)", done.stdout)]
    assert losses[-1] < losses[0]
    assert "metrics.json" in done.stdout
    assert re.search(r"\d images of \d patients\nAUC \d", done.stdout)
    assert [*tmp_path.glob("*/report.html")]
