"""Text encoders by name. ``hashed`` is built in; ``minilm`` reads its weights from an installed package."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ezm_lightning.errors import nearest
from ezm_lightning.language.weights import missing, source

if TYPE_CHECKING:
    from torch import Tensor


class TextEncoder(Protocol):
    """Turns texts into vectors."""

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """[n, dim] float32, one row per text."""
        ...


class Kind(NamedTuple):
    """The description of an encoder, known before it is built."""

    dim: int
    make: Callable[[], TextEncoder]  # raises ImportError, with what to type, if a package is missing
    missing: Callable[[], str]  # what to type, '' if nothing is missing
    source: Callable[[], str]  # the origin of its weights: package, version, checksum of the file


def make_hashed() -> TextEncoder:
    from ezm_lightning.language.hashed import Hashed  # imports torch, which composing a config does not need

    return Hashed()


def make_minilm() -> TextEncoder:
    from ezm_lightning.language.minilm import MiniLM

    return MiniLM()


ENCODERS = {
    "hashed": Kind(256, make_hashed, lambda: "", lambda: "built in"),
    "minilm": Kind(384, make_minilm, missing, source),
}


def encoder_kind(name: str) -> Kind:
    """The encoder of a name. Raises ValueError for an unknown name, with the nearest."""
    if name not in ENCODERS:
        raise ValueError(
            f"text.encoder={name} is no encoder; nearest: {nearest(str(name), ENCODERS, 1)} "
            f"(choices: {', '.join(ENCODERS)})"
        )
    return ENCODERS[name]


def check_installed(name: str) -> None:
    """Raises ImportError, with what to type, unless the encoder of this name can be used."""
    needed = encoder_kind(name).missing()
    if needed:
        raise ImportError(f"text.encoder={name}: its weights are not installed; {needed} (or text.encoder=hashed)")
