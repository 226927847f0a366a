"""One static page: tables, pictures and a recommendation, in a single file that works from disk."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from diffrec.bench.leaderboard import Table
from diffrec.bench.render import LEGEND, caption, cells, header

_STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid #8884 }
th:first-child, td:first-child { text-align: left }
tr.control td { opacity: .75 }
tr.training-free td { font-style: italic }
figure { margin: 2rem 0 } img { max-width: 100%; background: white }
figcaption, .note { font-size: .875rem; opacity: .8; white-space: pre-line }
.scroll { overflow-x: auto }
""".strip()

# Nothing is loaded, sent or run: pictures are in the page, and it has no script.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


@dataclass(frozen=True)
class Example:
    """A recommendation to show. model: its name; history and items: titles, in order."""

    model: str
    history: tuple[str, ...]
    items: tuple[str, ...]


@dataclass(frozen=True)
class Picture:
    """A PNG file and what it shows."""

    path: Path
    text: str


def page(
    title: str, tables: Sequence[Table], example: Example, pictures: Sequence[Picture], notes: Sequence[str]
) -> str:
    """The whole page as HTML; every text is escaped."""
    body = [
        f"<h1>{escape(title)}</h1>",
        *(_table(table) for table in tables),
        f'<p class="note">{escape(LEGEND)}</p>',
        _example(example),
        *(_picture(picture) for picture in pictures),
        *(f'<p class="note">{escape(note)}</p>' for note in notes),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{_STYLE}\n</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in header(table))
    rows = [
        f'<tr class="{escape(row.role)}">' + "".join(f"<td>{escape(cell)}</td>" for cell in cells(row, table)) + "</tr>"
        for row in table.rows
    ]
    return (
        f'<h2>{escape(table.title)}</h2>\n<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n'
        + "\n".join(rows)
        + f'\n</tbody>\n</table></div>\n<p class="note">{escape(caption(table))}</p>'
    )


def _example(example: Example) -> str:
    items = "\n".join(f"<li>{escape(item)}</li>" for item in example.items)
    history = ", ".join(example.history)
    return f"<h2>{escape(example.model)} recommends</h2>\n<p>After {escape(history)}:</p>\n<ol>\n{items}\n</ol>"


def _picture(picture: Picture) -> str:
    data = base64.b64encode(picture.path.read_bytes()).decode()
    text = escape(picture.text)
    return (
        f'<figure>\n<img alt="{text}" src="data:image/png;base64,{data}">\n<figcaption>{text}</figcaption>\n</figure>'
    )
