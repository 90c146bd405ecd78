"""Text encoders by name. ``hashed`` is built in; ``minilm`` reads its weights out of an installed package."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from torch import Tensor

from ezm_lightning.errors import nearest
from ezm_lightning.language import hashed, minilm


class TextEncoder(Protocol):
    """Turns texts into vectors."""

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """[n, dim] float32, a row a text."""
        ...


class Kind(NamedTuple):
    """What is known of an encoder before it is built."""

    dim: int
    make: Callable[[], TextEncoder]  # raises ImportError, saying what to type, where a package is missing
    missing: Callable[[], str]  # what to type, '' where nothing is missing
    source: Callable[[], str]  # where its weights come from: package, version, checksum of the file


ENCODERS = {
    "hashed": Kind(hashed.DIM, hashed.Hashed, lambda: "", lambda: "built in"),
    "minilm": Kind(minilm.DIM, minilm.MiniLM, minilm.missing, minilm.source),
}


def encoder_kind(name: str) -> Kind:
    """The encoder of a name. Raises ValueError for an unknown one, naming the nearest."""
    if name not in ENCODERS:
        raise ValueError(
            f"text.encoder={name} is no encoder; nearest: {nearest(str(name), ENCODERS, 1)} "
            f"(choices: {', '.join(ENCODERS)})"
        )
    return ENCODERS[name]


def check_installed(name: str) -> None:
    """Raises ImportError, saying what to type, unless the encoder of this name can be used."""
    needed = encoder_kind(name).missing()
    if needed:
        raise ImportError(f"text.encoder={name}: its weights are not installed; {needed} (or text.encoder=hashed)")
