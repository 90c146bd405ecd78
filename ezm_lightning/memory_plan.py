"""The memory that a run will need, computed before anything is allocated."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import psutil
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

TO_CPU = "replay.device (cpu)"
KNOBS: dict[str, tuple[str, ...]] = {  # settings that reduce a part's memory, if it names none; the least costly first
    "learning": ("batch_size",),
    "search": (
        "reanalyzer.ratio",
        "planner.num_simulations",
        "planner.max_num_considered_actions",
        "planner.num_candidates",
        "planner.num_leaf_candidates",
        "unroll_steps",
    ),
    "model": ("model (model=small, model.latent_dim, model.num_value_heads)",),
    "replay": (TO_CPU, "replay.capacity (by default env_steps_per_task)"),
}
DOUBT = 20  # an estimate may be this many times too large


@dataclass(frozen=True)
class Part:
    """A part of one rank's memory. ``about`` marks an estimate of what a step needs temporarily.

    ``knobs`` are the settings that reduce it, if they are not those of ``KNOBS``.
    """

    name: str
    size: int  # bytes
    device: str  # 'cpu', 'cuda'
    about: bool = False
    knobs: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name} {'about ' * self.about}{gigabytes(self.size)}"


class MemoryPlan:
    """The parts of a rank's memory. Ranks of one host share its main memory; each rank has its own GPU.

    ``held`` is the process's memory when the plan is made: libraries and simulators.
    """

    def __init__(self, parts: Iterable[Part], *, ranks_per_host: int = 1) -> None:
        self.parts, self.ranks_per_host = list(parts), ranks_per_host
        self.held = psutil.Process().memory_info().rss

    def devices(self) -> list[str]:
        return list(dict.fromkeys(part.device for part in self.parts))

    def total(self, device: str) -> int:
        """Bytes of a rank at its peak. Search and learning take turns; on the CPU ``held`` is included."""
        sizes = {part.name: part.size for part in self.parts if part.device == device}
        by_turns = [sizes.pop(name, 0) for name in ("search", "learning")]
        return (self.held if device == "cpu" else 0) + sum(sizes.values()) + max(by_turns)

    def on(self, device: str) -> str:
        """'replay 1.00 GB, model 0.20 GB, search about 0.10 GB on cpu; 2.10 GB in all (16.00 GB free)'."""
        parts = ", ".join(str(part) for part in self.parts if part.device == device)
        ranks = f" for each of {self.ranks_per_host} ranks" if device == "cpu" and self.ranks_per_host > 1 else ""
        total, free = gigabytes(self.total(device)), gigabytes(available_bytes(device))
        return f"{parts} on {device}{ranks}; {total} in all ({free} free)"

    def check(self) -> None:
        """Raises MemoryError if the parts that are not estimates cannot fit, or an estimate is many times too large."""
        for device in self.devices():
            here = [part for part in self.parts if part.device == device]
            sure = sum(part.size for part in here if not part.about)
            needed = max(sure, *(part.size / DOUBT for part in here if part.about), 0)
            if needed * (self.ranks_per_host if device == "cpu" else 1) > available_bytes(device):
                raise MemoryError(f"the run cannot fit in memory: {self.advice(device)}")

    def advice(self, device: str) -> str:
        """The memory that a device needs, and the settings to turn down, those of the largest part first."""
        here = {part.name: part for part in self.parts if part.device == device}
        parts = sorted((here[name] for name in KNOBS if name in here), key=lambda part: -part.size)
        knobs = [knob for part in parts for knob in part.knobs or KNOBS[part.name]]
        if device == "cpu":
            knobs = [knob for knob in knobs if knob != TO_CPU]
        return f"{self.on(device)}; turn down, in this order: {', '.join(knobs)}"


def training_bytes(
    weights: Iterable[nn.Parameter], make_optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
) -> int:
    """Bytes of weights; for those that learn, also of their gradients and of the optimiser's state."""
    weights = list(weights)
    learned = sum(weight.nbytes for weight in weights if weight.requires_grad)
    return sum(weight.nbytes for weight in weights) + learned + round(moments_a_weight(make_optimizer) * learned)


def moments_a_weight(make_optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]) -> float:
    """The optimiser's state per weight, in weights, measured by one step on a small matrix."""
    weight = nn.Parameter(torch.zeros(16, 16))
    weight.grad = torch.zeros_like(weight)
    optimizer = make_optimizer([weight])
    optimizer.step()
    moments = [x for x in optimizer.state[weight].values() if isinstance(x, Tensor) and x.dim()]
    return sum(x.nbytes for x in moments) / weight.nbytes


def saved_bytes(forward: Callable[[], object], held: Iterable[Tensor]) -> int:
    """Bytes saved by ``forward`` for its backward pass, without the tensors ``held`` already; runs on 'meta'."""
    saved: dict[int, Tensor] = {}

    def keep(x: Tensor) -> Tensor:
        saved[x.untyped_storage()._cdata] = x
        return x

    with torch.device("meta"), saved_tensors_hooks(keep, lambda x: x):
        forward()
    already_held = {x.untyped_storage()._cdata for x in held}
    return sum(x.untyped_storage().nbytes() for at, x in saved.items() if at not in already_held)


def available_bytes(device: str | torch.device) -> int:
    """Free bytes on a device: of its own memory on a GPU, else of the machine's."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def gigabytes(size: int) -> str:
    """'1.23 GB'."""
    return f"{size / 1e9:.2f} GB"
