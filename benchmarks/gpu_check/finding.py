"""A finding of the GPU check, and the sizes of its parts."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

VERDICTS = {
    "ok": "as it should be",
    "faster": "an override makes this faster",
    "look": "slower, larger or less exact than it should be",
    "wrong": "a result is wrong: do not train like this",
    "skipped": "not checked, for the given reason",
    "failed": "the check has failed",
}


@dataclass(frozen=True)
class Finding:
    """One line of the page. ``override`` is what to type after ``ezm train``; empty: nothing has to be changed."""

    part: str
    what: str
    verdict: str
    result: str
    override: str = ""
    figures: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise ValueError(f"verdict={self.verdict} is not known (choices: {', '.join(VERDICTS)})")

    def as_json(self) -> str:
        """One line."""
        return json.dumps(dataclasses.asdict(self))


@dataclass(frozen=True)
class Sizes:
    """How large the parts are: presets on a GPU, something small on a CPU."""

    device: str  # 'cuda' or 'cpu'
    presets: tuple[str, ...]  # of benchmarks.sizes, the largest last
    rows: int  # roots of a search, and windows of an update, where results are compared
    repeats: int  # of what is timed
    updates: int  # of the whole loop
    decisions: int  # of the trained agent, for the searches in several types
    compile: tuple[dict[str, Any], ...]  # arguments of torch.compile that are tried
    overrides: tuple[str, ...] = ()  # of every config
    out: Path = Path("gpu_check")  # where the page and its files go

    @property
    def largest(self) -> str:
        return self.presets[-1]


GPU = Sizes(
    device="cuda",
    presets=("medium", "hard"),
    rows=128,
    repeats=15,
    updates=60,
    decisions=500,
    compile=(
        {"mode": "default", "dynamic": False},
        {"mode": "reduce-overhead", "dynamic": False},
        {"backend": "cudagraphs", "dynamic": False},
    ),
)
CPU = Sizes(
    device="cpu",
    presets=("demo",),
    rows=8,
    repeats=5,
    updates=4,
    decisions=500,
    compile=({"backend": "aot_eager", "dynamic": False},),  # needs no compiler
    overrides=(  # the losses of the presets for GPUs, small
        "planner.num_simulations=8",
        "batch_size=16",
        "reanalyzer.ratio=1.0",
        "module.loss_coefs.policy=1.0",
        "module.loss_coefs.value_gradient=0.0",
    ),
)


def sizes(device: str) -> Sizes:
    """The sizes of a device."""
    return GPU if device == "cuda" else CPU


class Part(Protocol):
    """A part of the check. It yields its findings one by one, so that those before a failure are kept."""

    def __call__(self, sizes: Sizes) -> Iterator[Finding]: ...


def relative_difference(ours: torch.Tensor, reference: torch.Tensor) -> float:
    """|ours − reference| / |reference|, both as one vector; they may be on different devices."""
    ours, reference = (x.detach().double().flatten().cpu() for x in (ours, reference))
    return float((ours - reference).norm() / reference.norm().clamp_min(1e-12))
