"""Text files that are written completely or not at all."""

from __future__ import annotations

import contextlib
import csv
import io
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ezm_lightning.checkpoints.replaced import replaced


def replace_text(file: Path, text: str) -> None:
    """Writes a file in UTF-8, completely or not at all."""
    with replaced(file) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def warned_of(file: Path) -> Iterator[None]:
    """Within this context a ``file`` that cannot be written, as on a full disk, is a warning: training continues."""
    try:
        yield
    except OSError as error:
        warnings.warn(f"{file} is not written ({error.strerror or error}); training continues", stacklevel=3)


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]], *, header: bool = True) -> str:
    """The ``columns`` of rows as CSV, below a header with their names."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
