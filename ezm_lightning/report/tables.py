"""Tables for the HTML page, the Markdown page and CSV files, and the format of their cells."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ezm_lightning.report.statistics import Estimate

UNKNOWN = "–"


@dataclass(frozen=True)
class Table:
    """Columns and rows of text, with a note below."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass
class Data:
    """Rows of plain values for a CSV file."""

    name: str
    columns: Sequence[str]
    rows: list[Sequence[object]] = field(default_factory=list)

    def add(self, *values: object) -> None:
        self.rows.append(values)

    def text(self) -> str:
        """The text of the file; numbers have six digits, unknown values are empty."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows([_plain(value) for value in row] for row in self.rows)
        return out.getvalue()


def _plain(value: object) -> object:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.6g}" if isinstance(value, float) else value


def number(value: float | None, digits: int = 0) -> str:
    """'123', or a dash if it is not known; no minus before a zero."""
    if value is None or math.isnan(value):
        return UNKNOWN
    text = f"{value:,.{digits}f}"
    return text.removeprefix("-") if not text.strip("-0.,") else text


def interval(estimate: Estimate, digits: int = 0) -> str:
    """'123 [100, 150]', or only the number if it has no interval."""
    if math.isnan(estimate.low):
        return number(estimate.value, digits)
    return f"{number(estimate.value, digits)} [{number(estimate.low, digits)}, {number(estimate.high, digits)}]"


def in_order(numbers: Iterable[str]) -> list[str]:
    """Whole numbers as text, each once, from the smallest on; what is no number comes where its length puts it."""
    return sorted(set(numbers), key=lambda text: (len(text), text))


def steps(env_steps: float) -> str:
    """'25 k' from a thousand on, '1.5 M' from a million on, else the number."""
    for size, unit in ((1_000_000, "M"), (1_000, "k")):
        if env_steps >= size:
            return f"{env_steps / size:.4g} {unit}"
    return f"{env_steps:g}"


def duration(seconds: float | None) -> str:
    """'1 h 05 min'."""
    if seconds is None:
        return UNKNOWN
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"
