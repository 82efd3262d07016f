"""Reads the pages of the documentation: their links, commands and code."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page
    for pattern in ("*.md", "docs/*.md", "tfds_builders/*/*.md", ".github/**/*.md")
    for page in ROOT.glob(pattern)
)
# RESULTS.md is written by a program from its runs; CHANGELOG.md names what is gone.
OF_TODAY = [page for page in PAGES if page.name not in ("RESULTS.md", "CHANGELOG.md")]

_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)


class Command(NamedTuple):
    """A command that a page names.

    Attributes:
      program: `python -m MODULE`, `python FILE`, `mammo-jax NAME`,
        `make` or `uv`.
      arguments: what follows.
    """

    program: str
    arguments: list[str]


def name(page: Path) -> str:
    """Path of the page in the repository."""
    return str(page.relative_to(ROOT))


def blocks(page: Path, *languages: str) -> list[str]:
    """Returns the fenced blocks in these languages; "" is a block without one."""
    found = _FENCE.findall(page.read_text(encoding="utf-8"))
    return [
        "".join(line.removeprefix(indent) for line in text.splitlines(keepends=True))
        for indent, language, text in found
        if language in languages
    ]


def prose(page: Path) -> str:
    """Returns the page without its fenced blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def code_spans(page: Path) -> list[str]:
    """Returns the inline code, each on one line."""
    spans = re.findall(r"`([^`]+)`", _COMMENT.sub("", prose(page)))
    return [" ".join(span.split()) for span in spans]


def links(page: Path) -> list[str]:
    """Returns the targets of links and pictures."""
    text = re.sub(r"`[^`]*`", "", prose(page))
    return re.findall(r"\]\(([^()\s]+)\)", text)


def anchors(page: Path) -> set[str]:
    """Returns the names that GitHub gives the page's headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in headings
    }


def commands(page: Path) -> Iterator[Command]:
    """Returns the commands in shell blocks and in inline code."""
    lines = [
        line
        for block in blocks(page, "bash", "sh", "")
        for line in block.replace("\\\n", " ").splitlines()
    ]
    for line in (*lines, *code_spans(page)):
        if not re.match(r"([A-Z_]+=\S+ )*(python|make|uv|mammo-jax) ", line):
            continue
        words = shlex.split(line, comments=True)
        while "=" in words[0]:  # Variables of the environment.
            del words[0]
        size = {"python": 3 if words[1] == "-m" else 2, "mammo-jax": 2}.get(words[0], 1)
        yield Command(" ".join(words[:size]), words[size:])
