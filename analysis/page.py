"""A self-contained HTML page from escaped parts: tables, figures, notes. No script, no font, no link leaves it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from matplotlib.figure import Figure

from analysis import style
from analysis.artifacts import BY_FILE

CSS = """
:root { color-scheme: light; --ink:#1d2530; --muted:#5d6875; --rule:#dde2e8; --soft:#f5f7f9; --accent:#0072b2; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink); font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto,
  "Helvetica Neue", "DejaVu Sans", Arial, sans-serif; font-variant-numeric: tabular-nums; }
main, header, footer { max-width: 1120px; margin: 0 auto; padding: 0 32px; }
header { padding-top: 44px; }
h1 { font-size: 30px; line-height: 1.2; letter-spacing: -0.015em; margin: 0 0 6px; }
h2 { font-size: 20px; letter-spacing: -0.01em; margin: 52px 0 10px; padding-top: 18px;
  border-top: 2px solid var(--ink); }
h3 { font-size: 15px; margin: 26px 0 6px; }
p { margin: 8px 0; max-width: 84ch; }
.kicker { color: var(--muted); margin: 0; }
.lead { font-size: 18px; line-height: 1.5; margin: 18px 0 6px; }
nav { margin: 18px 0 0; display: flex; flex-wrap: wrap; gap: 4px 18px; font-size: 13.5px; }
a { color: var(--accent); text-decoration: none; } a:hover { text-decoration: underline; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); gap: 12px; margin: 22px 0 16px; }
.tile { background: var(--soft); border-left: 3px solid var(--accent); padding: 12px 14px; }
.tile b { display: block; font-size: 22px; font-weight: 650; letter-spacing: -0.01em; line-height: 1.25; }
.tile span { color: var(--muted); font-size: 13px; display: block; line-height: 1.4; }
.scroll { overflow-x: auto; margin: 10px 0 4px; }
table { border-collapse: collapse; font-size: 13px; width: 100%; }
th { text-align: left; font-weight: 600; color: var(--muted); font-size: 12.5px; line-height: 1.3;
  vertical-align: bottom; border-bottom: 1.5px solid var(--ink); padding: 6px 12px 6px 0; }
td { padding: 5px 12px 5px 0; border-bottom: 1px solid var(--rule); vertical-align: top; white-space: nowrap; }
td.number, th.number { text-align: right; } td:last-child, th:last-child { padding-right: 0; }
td.wide { white-space: normal; overflow-wrap: anywhere; }
tr.strong td { font-weight: 650; background: #eef5fa; }
table.facts { width: auto; } table.facts td:first-child { color: var(--muted); padding-right: 28px; }
figure { margin: 16px 0 8px; } figure svg { display: block; width: 100%; height: auto; }
figure.narrow svg { max-width: 560px; }
figcaption, .note { color: var(--muted); font-size: 13.5px; max-width: 92ch; margin-top: 6px; }
.missing { border: 1px dashed #b9c2cc; background: var(--soft); padding: 10px 14px; font-size: 14px; max-width: none; }
code, pre { font: 12.5px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
pre { background: var(--soft); padding: 12px 14px; overflow-x: auto; margin: 8px 0; }
details { margin: 12px 0; border-top: 1px solid var(--rule); padding-top: 8px; }
summary { cursor: pointer; font-weight: 600; }
footer { color: var(--muted); font-size: 13px; margin: 60px auto 40px; }
@media print { nav { display: none; } h2 { break-after: avoid; } figure, tr { break-inside: avoid; } }
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A table's column: its head, `number` aligns right, `wide` may wrap."""

    head: str
    number: bool = True
    wide: bool = False


def text(head: str, *, wide: bool = False) -> Column:
    """A column of text, aligned left."""
    return Column(head=head, number=False, wide=wide)


def number(head: str) -> Column:
    """A column of numbers, aligned right."""
    return Column(head=head)


def table(columns: Sequence[Column], rows: Iterable[Sequence[str]], *, strong: frozenset[int] = frozenset()) -> str:
    """Rows of plain text, escaped here; the rows whose index is in `strong` stand out."""
    classes = [" ".join(word for word, on in (("number", c.number), ("wide", c.wide)) if on) for c in columns]
    marks = [f' class="{name}"' if name else "" for name in classes]
    head = "".join(f'<th scope="col"{mark}>{escape(c.head)}</th>' for c, mark in zip(columns, marks, strict=True))
    body = []
    for index, row in enumerate(rows):
        cells = "".join(f"<td{mark}>{escape(cell)}</td>" for cell, mark in zip(row, marks, strict=True))
        body.append(f'<tr class="strong">{cells}</tr>' if index in strong else f"<tr>{cells}</tr>")
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Two columns without a head: name and value."""
    rows = "".join(f'<tr><td>{escape(name)}</td><td class="wide">{escape(value)}</td></tr>' for name, value in pairs)
    return f'<div class="scroll"><table class="facts"><tbody>{rows}</tbody></table></div>'


def tiles(items: Iterable[tuple[str, str]]) -> str:
    """Big numbers, each with what it is."""
    cells = "".join(
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(name)}</span></div>' for value, name in items
    )
    return f'<div class="tiles">{cells}</div>'


def drawing(name: str, figure: Figure, caption: str) -> str:
    """A figure inline, its caption below."""
    narrow = ' class="narrow"' if figure.get_figwidth() < 0.8 * style.WIDTH else ""
    return f"<figure{narrow}>{style.svg(figure, name, caption)}<figcaption>{escape(caption)}</figcaption></figure>"


def paragraph(content: str, kind: str = "") -> str:
    """Plain text as a paragraph of class `kind`."""
    return f'<p class="{kind}">{escape(content)}</p>' if kind else f"<p>{escape(content)}</p>"


def missing(file: str, command: str) -> str:
    """What stands where an artifact is absent."""
    maker = f"<code>{escape(command)}</code> makes it"
    return f'<p class="missing"><code>{escape(file)}</code> is not in this run folder; {maker}.</p>'


def absent(file: str) -> str:
    """The note for an absent table of a run folder."""
    return missing(file, BY_FILE[file].command)


def heading(content: str) -> str:
    """A heading inside a section."""
    return f"<h3>{escape(content)}</h3>"


def code(content: str) -> str:
    """A block of code."""
    return f"<pre>{escape(content)}</pre>"


def folded(summary: str, content: str) -> str:
    """HTML that the reader opens."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def section(anchor: str, title: str, content: str) -> str:
    """A section that the navigation points at."""
    return f'<section id="{anchor}"><h2>{escape(title)}</h2>{content}</section>'


def page(title: str, head: str, sections: Sequence[tuple[str, str, str]], foot: str) -> str:
    """The whole document. `head`: HTML of the header; `sections`: (anchor, title, HTML)."""
    links = "".join(f'<a href="#{anchor}">{escape(name)}</a>' for anchor, name, _ in sections)
    body = "\n".join(section(*part) for part in sections)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{escape(title)}</title>'
        f"<style>{CSS}</style></head>\n<body><header>{head}<nav>{links}</nav></header>\n<main>{body}</main>\n"
        f"<footer>{escape(foot)}</footer></body></html>\n"
    )
