"""What the documentation points to exists, and generated parts carry their marks."""

import ast
import re
import tomllib

import pytest
from doc_pages import OF_TODAY, PAGES, ROOT, anchors, code_spans, links, name, prose

import mammo_jax
from benchmarks.pages import split_at_markers
from mammo_jax.config import PRESETS, patch_config, whole_config

README, TRAINING = ROOT / "README.md", ROOT / "docs" / "training.md"
FIGURES = ROOT / "docs" / "figures.md"
GENERATED = {"docs/performance.md": ("model costs", "speed table")}
# Folders of the repository whose files pages name in inline code.
_FOLDERS = "mammo_jax|paper|configs|scripts|benchmarks|tests|docs|tfds_builders"


def test_the_readme_is_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 200


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    for link in links(page):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_reached_from_the_readme():
    reached, new = set(), {README}
    while new:
        page = new.pop()
        reached.add(page)
        targets = {(page.parent / link.split("#")[0]).resolve() for link in links(page)}
        new |= {target for target in targets if target.suffix == ".md"} - reached
    assert {page for page in PAGES if ".github" not in page.parts} <= reached


def test_every_picture_is_shown():
    shown = {(page.parent / link).resolve() for page in PAGES for link in links(page)}
    assert {*(ROOT / "docs").glob("*.png")} <= shown


@pytest.mark.parametrize("page", OF_TODAY, ids=name)
def test_files_in_inline_code_exist(page):
    for span in code_spans(page):
        if re.fullmatch(rf"({_FOLDERS})/[a-z_\d./]*", span):
            assert (ROOT / span).exists(), span


@pytest.mark.parametrize("page", OF_TODAY, ids=name)
def test_fields_of_the_configuration_exist(page):
    known = {
        f"config.{field}"
        for config in (whole_config(), patch_config())
        for field in _fields(config)
    }
    for span in code_spans(page):
        for field in re.findall(r"(?<![\w/])config\.[\w.]*\w", span):
            if field not in ("config.json", "config.py"):
                assert field in known, span


def _fields(config, prefix=""):
    for key, value in config.items():
        yield f"{prefix}{key}"
        if hasattr(value, "items"):
            yield from _fields(value, f"{prefix}{key}.")


def test_the_page_of_training_lists_every_preset():
    table = re.search(r"^\| preset \|.*?\n\n", prose(TRAINING), re.DOTALL | re.M)
    assert {*re.findall(r"^\| `(\w+)`", table[0], re.M)} == {*PRESETS}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_marks_of_generated_tables_come_in_pairs(page):
    text = page.read_text(encoding="utf-8")
    marks = re.findall(r"^<!-- (.+) -->$", text, re.MULTILINE)
    begun = [mark for mark in marks if not mark.startswith("end of ")]
    assert marks == [part for mark in begun for part in (mark, f"end of {mark}")]


@pytest.mark.parametrize(("page", "marks"), GENERATED.items())
def test_generated_tables_stand_between_their_marks(page, marks):
    whole = (ROOT / page).read_text(encoding="utf-8")
    for mark in marks:
        before, after = split_at_markers(ROOT / page, mark)
        table = whole[len(before) : -len(after)]
        assert table.count("\n|") > 5
        # A table that lost its marks would stay for good.
        header = next(line for line in table.splitlines() if line.startswith("|"))
        assert whole.count(header) == 1


def _words_of(text):
    return re.findall(r"[a-z]+", text.lower())


def test_the_messages_of_troubleshooting_are_the_programs():
    said = [" ".join(_words_of((ROOT / "Makefile").read_text(encoding="utf-8")))]
    for folder in ("mammo_jax", "tfds_builders", "paper", "scripts"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    said.append(" ".join(_words_of(node.value)))
    program = "\n".join(said)
    page = ROOT / "docs" / "troubleshooting.md"
    cells = re.findall(r"^\| (`.+?) \| ", page.read_text(encoding="utf-8"), re.M)
    messages = [span for cell in cells for span in re.findall(r"`([^`]+)`", cell)]
    assert len(messages) > 20
    # XLA's, GNU OpenMP's, uv's and the system's own.
    others = ("RESOURCE_EXHAUSTED", "libgomp", "invalid peer", "No space left")
    for message in messages:
        words = _words_of(message)
        size = min(3, len(words))
        runs = [" ".join(words[i : i + size]) for i in range(len(words) - size + 1)]
        assert message.startswith(others) or any(run in program for run in runs), (
            message
        )


def test_the_version_is_the_same_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" in project["project"]["dynamic"]
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {mammo_jax.__version__}\n" in citation
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## \[(\d.*?)\] - \d{4}-\d\d-\d\d$", changes, re.M)
    assert newest[1] == mammo_jax.__version__


def test_every_figure_of_the_list_stands_on_its_page():
    rows = [
        [cell.strip() for cell in line.split(" | ")]
        for line in FIGURES.read_text(encoding="utf-8").splitlines()
        if line.count(" | ") == 4 and "](" in line
    ]
    assert len(rows) > 10
    for figure, where, *_ in rows:
        pages = [FIGURES.parent / link for link in re.findall(r"\]\((.+?)\)", where)]
        texts = [" ".join(page.read_text(encoding="utf-8").split()) for page in pages]
        quoted = re.findall(r"`(.+?)`", figure)[:1]
        assert all(any(part in text for text in texts) for part in quoted), figure


def test_the_design_shows_the_order_that_is_checked():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (contract,) = project["tool"]["importlinter"]["contracts"]
    page = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    (picture,) = re.findall(r"^```\n(paper/.*?)^```$", page, re.DOTALL | re.M)
    found = {
        name.strip("/").removesuffix(".py"): number
        for number, line in enumerate(picture.splitlines())
        for name in line[:32].split()
    }
    places = []
    for layer in contract["layers"]:
        names = [part.split(".")[-1] for part in re.split(r" [:|] ", layer)]
        places.append({found[name] for name in names})
    assert all(len(place) == 1 for place in places)
    assert places == sorted(places, key=min)


def test_the_workflows_run_the_ladder_and_templates_warn_of_patient_data():
    workflows = [path.read_text() for path in (ROOT / ".github/workflows").glob("*")]
    steps = {step for text in workflows for step in re.findall(r"- run: (.+)", text)}
    assert steps == {"make check", ".ci/run"}
    templates = [*(ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")]
    forms = [path for path in templates if path.name != "config.yml"]
    assert len(forms) == 3
    for path in (*forms, ROOT / ".github/PULL_REQUEST_TEMPLATE.md"):
        assert "patient" in path.read_text(encoding="utf-8")
    for form in forms:
        assert "**No patient data, please.**" in form.read_text(encoding="utf-8")


def test_the_readme_repeats_the_figures_of_the_generated_tables():
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in page.splitlines()
        if line.startswith("|")
    ]
    # The paper's models: the others' trunks have a remark behind their name.
    costs = [
        float(cell)
        for row in rows
        if len(row) == 9 and row[2] == "1152x896" and row[0].strip().isalnum()
        for cell in row[6:]
    ]
    (ratio,) = (row[5] for row in rows if row[:2] == ["resnet50_whole", "train"])
    readme = README.read_text(encoding="utf-8")
    assert (
        f"| {min(costs):.1f} to {max(costs):.1f} GB, as planned by XLA; not run"
        in readme
    )
    assert f"two cores | {ratio} times on an EPYC, " in readme
