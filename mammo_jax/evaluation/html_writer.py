"""The writer of reports: one HTML file that shows everything without a network.

A report is a list of sections. Curves are embedded as SVG and written as PNG beside
the page, in `figures/`; there are no scripts, and the page's own policy forbids
the browser to fetch anything.
"""

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mammo_jax.common.files import replace_file

REPORT_FILE = "report.html"
FIGURES_DIR = "figures"
_PNG_DPI = 150
# Wider in proportion than this, a figure gets a row of its own.
_WIDE = 1.25
# Fixed, so that the same figures are the same bytes.
_DRAWING: Any = {"svg.hashsalt": "mammo_jax", "svg.fonttype": "path"}
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
# A table of two columns holds texts.
_TEXT_COLUMNS = 2
# On a phone each row of a table of many columns is a block of its own.
_MANY_COLUMNS = 5
_STYLE = """
:root { color-scheme: light }
body { font: 15px/1.5 system-ui, "Segoe UI", "Liberation Sans", "DejaVu Sans",
  sans-serif; color: #1c2430; background: #f3f5f8; margin: 0; overflow-wrap: anywhere }
main { max-width: 1180px; margin: 0 auto; padding: 24px 20px 60px }
h1 { font-size: 26px; margin: 12px 0 20px }
h2 { font-size: 18px; margin: 0 0 10px; break-after: avoid }
section { background: #fff; border: 1px solid #dde3ea; border-radius: 8px;
  padding: 18px 22px; margin: 0 0 18px }
p { margin: 0 0 10px; max-width: 75ch }
table { border-collapse: collapse; font-size: 14px; margin: 12px 0;
  font-variant-numeric: tabular-nums; overflow-wrap: normal }
th, td { text-align: right; padding: 4px 0 4px 20px; vertical-align: top;
  border-bottom: 1px solid #e6eaf0 }
thead th { color: #4a5768; border-bottom: 2px solid #c9d2dd }
th:first-child, table.texts :is(th, td) { text-align: left }
th:first-child { padding-left: 0 }
tbody th { font-weight: 400 }
table.texts td { overflow-wrap: anywhere }
.pictures { display: flex; flex-wrap: wrap; gap: 18px; margin: 12px 0 0 }
figure { margin: 0; flex: 0 1 auto; max-width: 100%; break-inside: avoid }
figure.curve { flex: 0 1 360px }
figure.wide { flex: 0 1 720px }
figure.curve img, figure.wide img { width: 100% }
figure img { display: block; max-width: 100%; height: auto }
figcaption { font-size: 13px; color: #4a5768; margin-top: 4px; max-width: 60ch }
@media (max-width: 640px) {
  main { padding: 12px 8px 40px }
  section { padding: 14px 12px }
  table.many :is(tbody, tr, th, td) { display: block; padding: 1px 0; border: 0 }
  table.many thead { position: absolute; clip-path: inset(50%) }
  table.many tr { border-bottom: 1px solid #c9d2dd; padding: 6px 0 }
  table.many tbody th { font-weight: 600 }
  table.many td::before { content: attr(data-label) ": "; float: left; color: #4a5768 }
}
@page { margin: 15mm 14mm }
@media print {
  body { background: #fff; font-size: 10pt }
  main { padding: 0; max-width: none }
  section { border: 0; padding: 0; margin: 0 0 14pt }
  table { font-size: 9pt }
  th, td { padding-left: 10pt }
  tr { break-inside: avoid }
  figure.curve { flex-basis: 31% }
  figure.wide { flex-basis: 62% }
  p { break-after: avoid }
  p, figcaption { max-width: none }
}
"""


@dataclass(frozen=True)
class Table:
    """A table of a report: cells as text, of which the first heads its row."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Picture:
    """A picture of a report.

    Attributes:
      name: stem of the PNG beside the page, letters, digits, _ and -.
      content: a figure (embedded as SVG, and `figures/NAME.png` written), or the
        bytes of a PNG (embedded only).
      caption: below the picture; also what a screen reader says.
      link: file beside the page that shows it larger; empty for none.
    """

    name: str
    content: Figure | bytes
    caption: str
    link: str = ""


@dataclass(frozen=True)
class Section:
    """A part of a report: shown in the order heading, text, tables, pictures."""

    heading: str
    paragraphs: Sequence[str] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()


def write_html(
    path: Path,
    title: str,
    sections: Sequence[Section],
    *,
    earlier_figures: Sequence[str] = (),
) -> None:
    """Writes the page, whole or not at all, and its figures as PNG beside it.

    Args:
      path: the HTML file; its directory is made.
      title: plain text, as are all texts of the sections.
      sections: in their order.
      earlier_figures: names that an earlier page's figures may have; those that this
        page does not have are removed.

    Raises:
      OSError: the directory cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    body = "".join(_section(section, path.parent) for section in sections)
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>"
        f"<body><main><h1>{html.escape(title)}</h1>{body}</main></body></html>\n"
    )
    # Names of files in it may hold bytes that are no UTF-8.
    _write(path, page.encode(errors="backslashreplace"))
    drawn = {picture.name for section in sections for picture in section.pictures}
    for name in {*earlier_figures} - drawn:
        (path.parent / FIGURES_DIR / f"{name}.png").unlink(missing_ok=True)


def _write(path: Path, content: bytes) -> None:
    with replace_file(path) as partial:
        partial.write_bytes(content)


def _section(section: Section, directory: Path) -> str:
    paragraphs = "".join(f"<p>{html.escape(text)}</p>" for text in section.paragraphs)
    tables = "".join(_table(table) for table in section.tables)
    pictures = "".join(_picture(picture, directory) for picture in section.pictures)
    if pictures:
        pictures = f'<div class="pictures">{pictures}</div>'
    heading = f"<h2>{html.escape(section.heading)}</h2>"
    return f"<section>{heading}{paragraphs}{tables}{pictures}</section>"


def _table(table: Table) -> str:
    names = [html.escape(name) for name in table.header]
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    rows = "".join(_row(names, [*map(html.escape, row)]) for row in table.rows)
    many = "many" if len(names) >= _MANY_COLUMNS else ""
    style = "texts" if len(names) == _TEXT_COLUMNS else many
    return (
        f'<table class="{style}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )


def _row(names: Sequence[str], cells: Sequence[str]) -> str:
    values = "".join(
        f'<td data-label="{name}">{cell}</td>'
        for name, cell in zip(names[1:], cells[1:], strict=True)
    )
    return f'<tr><th scope="row">{cells[0]}</th>{values}</tr>'


def _picture(picture: Picture, directory: Path) -> str:
    if isinstance(picture.content, bytes):
        kind, data, style = "png", picture.content, "thumbnail"
    else:
        kind, data = "svg+xml", draw(picture.content, "svg")
        width, height = picture.content.get_size_inches()
        style = "wide" if width > _WIDE * height else "curve"
        target = directory / FIGURES_DIR / f"{picture.name}.png"
        target.parent.mkdir(exist_ok=True)
        _write(target, draw(picture.content, "png"))
    caption = html.escape(picture.caption)
    # As images, not inline: the ids of two drawings would collide.
    image = (
        f'<img alt="{caption}" '
        f'src="data:image/{kind};base64,{base64.b64encode(data).decode()}">'
    )
    if picture.link:
        image = f'<a href="{html.escape(picture.link)}">{image}</a>'
    return f'<figure class="{style}">{image}<figcaption>{caption}</figcaption></figure>'


def draw(figure: Figure, file_format: str) -> bytes:
    """The figure as the bytes of an `svg` or `png` file; the same every time."""
    FigureCanvasAgg(figure)
    engine = figure.get_layout_engine()
    if engine is not None:  # Laid out once for both formats: that is half the time.
        engine.execute(figure)
        figure.set_layout_engine("none")
    buffer = io.BytesIO()
    date = {"Date": None} if file_format == "svg" else {"Software": None}
    with mpl.rc_context(_DRAWING):
        figure.savefig(buffer, format=file_format, dpi=_PNG_DPI, metadata=date)
    return buffer.getvalue()
