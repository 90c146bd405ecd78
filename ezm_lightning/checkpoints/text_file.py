"""Text files that are written completely or not at all."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ezm_lightning.checkpoints.replaced import replaced


def replace_text(file: Path, text: str) -> None:
    """Writes a file in UTF-8, completely or not at all."""
    with replaced(file) as temporary:
        temporary.write_text(text, encoding="utf-8")


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]], *, header: bool = True) -> str:
    """The ``columns`` of rows as CSV, below a header with their names."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
