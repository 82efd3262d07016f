"""The HTML of reports: complete, harmless, seen by a browser."""

import base64
import html.parser
import re
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from browser import accessibility, screenshot
from matplotlib.figure import Figure

from mammo_jax.evaluation.html_writer import Picture, Section, Table, write_html

HOSTILE = '<script>alert("x")</script>&amp;'
BLUE, ORANGE = (0, 114, 178), (213, 94, 0)
_RED_PNG = cv2.imencode(".png", np.full((40, 40, 3), (0, 0, 255), np.uint8))[1]


def _bars(colour: tuple[int, int, int]) -> Figure:
    figure = Figure(figsize=(4, 4))
    figure.subplots().bar([1, 2], [3, 4], color=tuple(c / 255 for c in colour))
    return figure


def _sections() -> list[Section]:
    return [
        Section(
            f"Heading {HOSTILE}",
            [f"Text {HOSTILE}"],
            [Table(["a", HOSTILE], [["1", HOSTILE], ["2", ""]])],
            [
                Picture("first", _bars(BLUE), HOSTILE),
                Picture("second", _bars(ORANGE), "orange bars"),
                Picture("thumbnail", _RED_PNG.tobytes(), "a thumbnail"),
            ],
        )
    ]


class _Page(html.parser.HTMLParser):
    """The elements of a page, and that they are nested well."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture
def page(tmp_path) -> Path:
    path = tmp_path / "new" / "report.html"
    write_html(path, f"Title {HOSTILE}", _sections())
    return path


def test_texts_are_texts_whatever_they_hold(page):
    parsed = _Page(page.read_text())
    assert not parsed.open
    tags = [tag for tag, _ in parsed.elements]
    assert "script" not in tags
    assert parsed.texts.count(f"Title {HOSTILE}") == 2
    for expected in (f"Heading {HOSTILE}", f"Text {HOSTILE}", HOSTILE):
        assert expected in parsed.texts
    images = [attributes for tag, attributes in parsed.elements if tag == "img"]
    assert [image["alt"] for image in images] == [HOSTILE, "orange bars", "a thumbnail"]


def test_a_report_needs_no_other_file(page):
    parsed = _Page(page.read_text())
    for tag, attributes in parsed.elements:
        assert tag not in ("script", "link", "iframe", "object", "a")
        assert "href" not in attributes
        assert attributes.get("src", "data:image/").startswith("data:image/")
    policy = next(a for _, a in parsed.elements if "http-equiv" in a)
    assert policy["content"].startswith("default-src 'none'")


def test_figures_are_drawings_in_the_page_and_png_files_beside_it(page):
    images = re.findall(r"data:image/([a-z+]+);base64,([^\"]+)", page.read_text())
    assert [kind for kind, _ in images] == ["svg+xml", "svg+xml", "png"]
    root = ElementTree.fromstring(base64.b64decode(images[0][1]))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert not any(".." in str(v) for e in root.iter() for v in e.attrib.values())
    beside = sorted(path.name for path in (page.parent / "figures").iterdir())
    assert beside == ["first.png", "second.png"]
    pixels = cv2.imread(str(page.parent / "figures" / "first.png"))
    assert (pixels == BLUE[::-1]).all(-1).sum() > 1000


def test_the_same_report_is_the_same_bytes(page, tmp_path):
    again = tmp_path / "again" / "report.html"
    write_html(again, f"Title {HOSTILE}", _sections())
    assert again.read_bytes() == page.read_bytes()
    first, second = (p.parent / "figures" / "first.png" for p in (page, again))
    assert first.read_bytes() == second.read_bytes()


def test_a_browser_shows_every_picture_and_asks_nobody(page, tmp_path):
    asked = screenshot(page, tmp_path / "seen.png", (1240, 900))
    assert asked == []
    seen = cv2.imread(str(tmp_path / "seen.png"))
    for colour, least in ((BLUE, 5000), (ORANGE, 5000), ((255, 0, 0), 1000)):
        assert (seen == colour[::-1]).all(-1).sum() > least


@pytest.mark.parametrize("width", [1240, 680, 500])
def test_a_page_is_accessible_and_as_narrow_as_a_phone_or_a_sheet(
    page, tmp_path, width
):
    header = [f"column {n}" for n in range(8)]
    table = Table(header, [["0.843 (0.761 to 0.902)"] * 8])
    write_html(page, "Report", [Section("Tables", ["x" * 200], [table])])
    (passed,) = accessibility(page, tmp_path, (width, 900))
    assert int(passed.split()[-1]) >= 10


def test_a_page_that_is_not_accessible_would_show(page, tmp_path):
    text = page.read_text().replace(' lang="en"', "").replace("<img alt", "<img data-a")
    text = text.replace("<p>", '<p style="color: #ccc; min-width: 999px">')
    page.write_text(text)
    *found, _ = accessibility(page, tmp_path, (500, 900))
    rules = {line.partition(":")[0] for line in found}
    wide = "wider than the window"
    assert {"html-has-lang", "image-alt", "color-contrast", wide} <= rules


def test_the_browsers_log_would_show_a_request(page, tmp_path):
    # Shows that the test above could fail; the port is closed.
    text = page.read_text()
    image = '<img src="http://127.0.0.1:9/pixel.png">'
    page.write_text(re.sub("<meta http-equiv[^>]*>", image, text))
    assert "http://127.0.0.1:9/pixel.png" in screenshot(
        page, tmp_path / "seen.png", (400, 300)
    )
    # With the page's policy the same picture is not even asked for.
    page.write_text(text.replace("<h1>", f"{image}<h1>"))
    assert screenshot(page, tmp_path / "again.png", (400, 300)) == []
