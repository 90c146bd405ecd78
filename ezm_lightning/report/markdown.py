"""The generated part of a Markdown page, between two marks. Only this part is replaced."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from ezm_lightning.report.contents import METHOD, PICTURES, Contents
from ezm_lightning.report.figures import Figure
from ezm_lightning.report.tables import Table

BEGIN, END = "<!-- begin: ezm report -->", "<!-- end: ezm report -->"


def check_page(page: Path) -> None:
    """Raises ValueError if a page exists without the two marks, or if it cannot be written."""
    if page.is_dir() or not page.parent.is_dir():
        problem = "is a folder" if page.is_dir() else f"cannot be written: there is no folder {page.parent}"
        raise ValueError(f"page={page} {problem}")
    if page.exists() and not _between(page.read_text(encoding="utf-8")):
        raise ValueError(f"page={page} exists without the lines {BEGIN} and {END}, between which the report would go")


def updated_page(page: Path, contents: Contents, figures: Sequence[Figure], *, out: Path, command: str) -> str:
    """The page's text with this report; the pictures are in the folder ``out``."""
    folder = quote(Path(os.path.relpath(out, page.parent)).as_posix())
    pictures = " ".join(f"![{figure.alt}]({folder}/{figure.name})" for figure in figures)
    left_out = "\n".join(f"* {line}" for line in contents.left_out) or "Nothing."
    parts = [
        f"Made by `{command}`.",
        METHOD,
        *(_table(table) for table in contents.tables),
        "### What is left out",
        left_out,
        "### Pictures",
        PICTURES,
        pictures,
    ]
    text = "\n\n".join(parts)
    if not page.exists():
        return f"# Results\n\n{BEGIN}\n{text}\n{END}\n"
    rest_of_page = _between(page.read_text(encoding="utf-8"))
    assert rest_of_page is not None  # check_page
    before, after = rest_of_page
    return f"{before}{BEGIN}\n{text}\n{END}{after}"


def _between(text: str) -> tuple[str, str] | None:
    """The text before and after the generated part; None without both marks in this order."""
    before, begin, remainder = text.partition(BEGIN)
    _, end, after = remainder.partition(END)
    return (before, after) if begin and end else None


def _table(table: Table) -> str:
    lines = [
        f"### {table.title}",
        "",
        "| " + " | ".join(_cell(column) for column in table.columns) + " |",
        "|" + "---|" * len(table.columns),
        *("| " + " | ".join(_cell(cell) for cell in row) + " |" for row in table.rows),
    ]
    return "\n".join([*lines, "", table.note] if table.note else lines)


def _cell(text: str) -> str:
    return f"`{text}`" if text.startswith("ezm ") else text.replace("|", "\\|").replace("*", "\\*").replace("_", "\\_")
