"""One HTML file that needs no other file: its pictures are inside, and wide tables scroll on a phone."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

from ezm_lightning.report.contents import METHOD, PICTURES, Contents
from ezm_lightning.report.figures import Figure
from ezm_lightning.report.tables import Table

STYLE = """\
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 75rem; padding: 1rem }
body { color: #222; background: #fff }
h1 { font-size: 1.6rem } h2 { font-size: 1.2rem; margin: 2rem 0 .5rem }
code { font-size: .85em; overflow-wrap: anywhere }
.pictures { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 28rem), 1fr)) }
figure { margin: 0 } img { max-width: 100%; height: auto; display: block }
figcaption, .note { font-size: .85rem; color: #555 }
.table { overflow-x: auto } table { border-collapse: collapse; font-size: .85rem }
th, td { padding: .25rem .6rem; text-align: left; vertical-align: top; border-bottom: 1px solid #ddd }
td { white-space: nowrap } td.long { white-space: normal; min-width: 16rem; overflow-wrap: anywhere }
"""
LONG = 40  # letters; longer cells are broken into lines


def make_page(contents: Contents, figures: Sequence[Figure], *, command: str, version: str) -> str:
    """The page's HTML."""
    parts = [
        f"<h1>{escape(_title(contents))}</h1>",
        f"<p class=note>Made by <code>{escape(command)}</code>, ezm_lightning {escape(version)}.</p>",
        f"<p>{escape(METHOD)}</p>",
        f"<h2>Pictures</h2><p class=note>{escape(PICTURES)}</p>",
        f"<div class=pictures>{''.join(_picture(figure) for figure in figures)}</div>",
        *(_table(table) for table in contents.tables),
        f"<h2>What is left out</h2>{_list(contents.left_out) or '<p>Nothing.</p>'}",
        f"<h2>Files</h2><p>{_links([f'{data.name}.csv' for data in contents.data])}</p>",
    ]
    return (
        "<!DOCTYPE html>\n<html lang=en>\n<head>\n<meta charset=utf-8>\n"
        '<meta name=viewport content="width=device-width, initial-scale=1">\n'
        '<meta name=generator content="ezm report">\n'
        f"<title>{escape(_title(contents))}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def _title(contents: Contents) -> str:
    runs = sum(len(group.runs) for group in contents.groups)
    groups = len(contents.groups)
    return f"Report on {runs} run{'s' * (runs > 1)} in {groups} group{'s' * (groups > 1)}"


def _picture(figure: Figure) -> str:
    data = base64.b64encode(figure.png).decode()
    return f'<figure><img alt="{escape(figure.alt)}" src="data:image/png;base64,{data}"></figure>\n'


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in table.columns)
    body = "".join(f"<tr>{''.join(_cell(cell) for cell in row)}</tr>\n" for row in table.rows)
    note = f"<p class=note>{escape(table.note)}</p>" if table.note else ""
    return (
        f"<h2>{escape(table.title)}</h2><div class=table><table><thead><tr>{head}</tr></thead>\n"
        f"<tbody>{body}</tbody></table></div>{note}"
    )


def _cell(text: str) -> str:
    return f"<td class=long>{escape(text)}</td>" if len(text) > LONG else f"<td>{escape(text)}</td>"


def _list(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>" if lines else ""


def _links(names: Sequence[str]) -> str:
    return ", ".join(f'<a href="{escape(name)}">{escape(name)}</a>' for name in names)
