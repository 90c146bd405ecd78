"""Ranges of numbers, written as types of parameters (``lr: Positive``). The config's checker reads them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True)
class Range:
    """The finite numbers from ``low`` to ``high``: only whole ones if ``whole``, without ``low`` if ``above``."""

    low: float = -math.inf
    high: float = math.inf
    whole: bool = False
    above: bool = False
    or_null: bool = False

    def __contains__(self, value: object) -> bool:
        if value is None:
            return self.or_null
        if isinstance(value, bool) or not isinstance(value, int if self.whole else (int, float)):
            return False
        return math.isfinite(value) and self.low <= value <= self.high and not (self.above and value == self.low)

    def __str__(self) -> str:
        if self.low == self.high:
            return f"{self.low:_}"
        kind = "a whole number" if self.whole else "a number"
        if self.low == -math.inf:
            return kind if self.high == math.inf else f"{kind} of at most {self.high:,}"
        if self.high == math.inf:
            return f"{kind} {'above' if self.above else 'of at least'} {self.low:,}"
        return f"{kind} in {'(' if self.above else '['}{self.low:,}, {self.high:,}]"

    def nearest(self, value: object) -> float | None:
        """The member nearest to ``value``; None if there is none."""
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            return None
        clipped = min(max(round(value) if self.whole else value, self.low), self.high)
        return None if self.above and clipped == self.low else clipped

    def check(self, key: str, value: object) -> None:
        """Raises ValueError for a value outside the range, with its ``key`` and the nearest number inside."""
        if value in self:
            return
        nearest = self.nearest(value)
        hint = "" if nearest is None or self.low == self.high else f"; nearest: {nearest:_}"
        shown = "null" if value is None else value
        raise ValueError(f"{key}={shown} must be {self}{' or null' * self.or_null}{hint}")


COUNT, COUNT_FROM_0 = Range(1, whole=True), Range(0, whole=True)
SHARE, SHARE_ABOVE_0 = Range(0, 1), Range(0, 1, above=True)
POSITIVE, NOT_NEGATIVE = Range(0, above=True), Range(0)
MAX_SIZE, MAX_BLOCKS = 1_000_000, 1_000  # of widths and numbers of heads, and of a tower; a larger number is a slip

Count = Annotated[int, COUNT]
CountFrom0 = Annotated[int, COUNT_FROM_0]
Size = Annotated[int, Range(1, MAX_SIZE, whole=True)]
SizeFrom0 = Annotated[int, Range(0, MAX_SIZE, whole=True)]
Blocks = Annotated[int, Range(0, MAX_BLOCKS, whole=True)]
Share = Annotated[float, SHARE]
ShareAbove0 = Annotated[float, SHARE_ABOVE_0]
Positive = Annotated[float, POSITIVE]
NotNegative = Annotated[float, NOT_NEGATIVE]
PerTaskShareAbove0 = ShareAbove0 | Sequence[ShareAbove0]  # one number for all tasks, or one per task


def check_discounts(discount: float | Sequence[float]) -> None:
    """Raises ValueError for a discount outside (0, 1], of one task or of all."""
    for gamma in [discount] if isinstance(discount, (int, float)) else discount:
        if gamma not in SHARE_ABOVE_0:
            raise ValueError(f"discount={gamma} must lie in (0, 1]")
