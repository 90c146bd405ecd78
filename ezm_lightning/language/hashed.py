"""An encoder without weights: a vector of signed counts of words; a word's CRC-32 gives its column and sign."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

import torch
from torch import Tensor

DIM = 256
WORD = re.compile(r"[a-z0-9]+")


def place(word: str) -> tuple[int, int]:
    """(column, sign) of a word: its CRC-32 modulo 256, and −1 if bit 16 is set."""
    code = zlib.crc32(word.encode())
    return code % DIM, -1 if code >> 16 & 1 else 1


class Hashed:
    """Texts to unit vectors [n, 256], which depend on the spelling of words but not on their order or meaning."""

    def __call__(self, texts: Sequence[str]) -> Tensor:
        rows = torch.zeros(len(texts), DIM)
        for row, text in zip(rows, texts, strict=True):
            for word in WORD.findall(text.lower()):
                column, sign = place(word)
                row[column] += sign
        return torch.nn.functional.normalize(rows, dim=-1)
