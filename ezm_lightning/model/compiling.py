"""``torch.compile`` with the options of a config, whose mistakes it reports."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from ezm_lightning.errors import first_line


def compiled(function: Callable[..., Any], options: Mapping[str, Any] | None) -> Callable[..., Any]:
    """``torch.compile(function, **options)``; with None the function itself.

    Raises ValueError for options, modes and backends that ``torch.compile`` does not have.
    """
    if options is None:
        return function
    try:
        return torch.compile(function, **options)
    except (TypeError, RuntimeError, AssertionError) as error:
        reason = first_line(error)
        raise ValueError(f"compile={dict(options)} is nothing that torch.compile takes: {reason}") from error
