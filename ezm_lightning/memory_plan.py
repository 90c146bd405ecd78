"""What a run will hold in memory, known before anything is allocated."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from ezm_lightning.model import WorldModel
from ezm_lightning.module import EZM
from ezm_lightning.planner import Planner

KNOBS = {  # the part that turning it down relieves most, in the order in which it costs least
    "batch_size": "learning",
    "reanalyzer.ratio": "search",
    "planner.num_simulations": "search",
    "planner.max_num_considered_actions": "search",
    "model (model=small, model.latent_dim)": "model",
    "replay.device (cpu)": "replay",
    "replay.capacity": "replay",
}


@dataclass(frozen=True)
class Part:
    """A part of one rank's memory; ``about`` for what a step needs for a while, estimated."""

    name: str
    size: int  # bytes
    device: str  # 'cpu', 'cuda'
    about: bool = False

    def __str__(self) -> str:
        return f"{self.name} {'about ' * self.about}{gigabytes(self.size)}"


class MemoryPlan:
    """The parts of a rank's memory. Ranks of one host share its main memory; each has a GPU of its own.

    ``held`` is what the process has when the plan is made: libraries and simulators.
    """

    def __init__(self, parts: Iterable[Part], *, ranks_per_host: int = 1) -> None:
        self.parts, self.ranks_per_host = list(parts), ranks_per_host
        self.held = psutil.Process().memory_info().rss

    def devices(self) -> list[str]:
        return list(dict.fromkeys(part.device for part in self.parts))

    def total(self, device: str) -> int:
        """Bytes of a rank at its peak: search and learning take turns; on the CPU with what the process has already."""
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
        """Raises MemoryError where the parts that are no estimates cannot fit."""
        for device in self.devices():
            needed = sum(part.size for part in self.parts if part.device == device and not part.about)
            if needed * (self.ranks_per_host if device == "cpu" else 1) > available_bytes(device):
                raise MemoryError(f"the run cannot fit in memory: {self.advice(device)}")

    def advice(self, device: str) -> str:
        """What a device has to hold, and what to turn down, that of the largest part first."""
        sizes = {part.name: part.size for part in self.parts if part.device == device}
        knobs = sorted((knob for knob in KNOBS if KNOBS[knob] in sizes), key=lambda knob: -sizes[KNOBS[knob]])
        if device == "cpu":
            knobs.remove("replay.device (cpu)")
        return f"{self.on(device)}; turn down, in this order: {', '.join(knobs)}"


def model_bytes(module: EZM, *, search_models: int) -> int:
    """Bytes of the learner's weights, gradients and optimiser moments, of its target, and of what searches read.

    ``module`` is on the device 'meta': nothing is allocated.
    """
    weights = list(module.model.parameters())
    learned = sum(weight.nbytes for weight in weights if weight.requires_grad)
    copies = sum(x.nbytes for x in [*weights, *module.model.buffers()])
    packed = sum(x.nbytes for x in module.make_search_model(module.target_model).weights.tensors())
    return 2 * copies + search_models * packed + learned + round(moments_a_weight(module.make_optimizer) * learned)


def moments_a_weight(make_optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]) -> float:
    """What an optimiser keeps of each weight, in weights: found by a step on a small one."""
    weight = nn.Parameter(torch.zeros(16, 16))
    weight.grad = torch.zeros_like(weight)
    optimizer = make_optimizer([weight])
    optimizer.step()
    kept = [x for x in optimizer.state[weight].values() if isinstance(x, Tensor) and x.dim()]
    return sum(x.nbytes for x in kept) / weight.nbytes


def learning_bytes(model: WorldModel, *, batch_size: int, unroll_steps: int) -> int:
    """Bytes that the backward pass through an unroll keeps, in float32; ``model`` is on 'meta'."""
    kept: dict[int, Tensor] = {}

    def keep(x: Tensor) -> Tensor:
        kept[x.untyped_storage()._cdata] = x
        return x

    (_, obs_dim), (_, action_dim) = model.obs_mask.shape, model.action_mask.shape
    with torch.device("meta"), saved_tensors_hooks(keep, lambda x: x):
        action, task = torch.empty(2, unroll_steps, action_dim), torch.zeros(2, dtype=torch.int64)
        latent = model.unroll(torch.empty(2, obs_dim), action, task).latent
        model.predict_projection(latent[:, 1:])
    own = {x.untyped_storage()._cdata for x in [*model.parameters(), *model.buffers()]}
    return batch_size * sum(x.untyped_storage().nbytes() for at, x in kept.items() if at not in own) // 2


def search_bytes(planner: Planner, model: WorldModel, *, num_roots: int) -> int:
    """Bytes of the nodes that a batch of searches keeps, and of the widest layers of its largest network call."""
    latent_dim = model.dynamics.fc2.out_features
    trunk: Any = model.trunk
    node = latent_dim + trunk[1].normalized_shape[0] + planner.num_leaf_candidates * model.action_mask.shape[-1]
    call = 3 * model.num_value_heads * model.value_heads.hidden_dim + 8 * latent_dim
    widest = min(planner.max_num_considered_actions, planner.num_candidates, planner.num_simulations)
    return 4 * num_roots * (planner.num_simulations * node + widest * call)


def make_plan(
    module: EZM,
    *,
    replay: int,
    replay_device: str,
    device: str,
    batch_size: int,
    search_models: int = 1,
    ranks_per_host: int = 1,
) -> MemoryPlan:
    """The plan of a rank that draws ``batch_size`` windows from ``replay`` bytes; ``module`` is on 'meta'.

    ``search_models`` is 2 where acting needs packed weights of its own.
    """
    reanalyzer = module.reanalyzer
    k = reanalyzer.unroll_steps
    roots = round(reanalyzer.ratio * batch_size) * (k + 1)
    learning = learning_bytes(module.model, batch_size=batch_size, unroll_steps=k)
    parts = [
        Part("replay", replay, replay_device),
        Part("model", model_bytes(module, search_models=search_models), device),
        Part("search", search_bytes(reanalyzer.planner, module.model, num_roots=roots), device, about=True),
        Part("learning", learning, device, about=True),
    ]
    return MemoryPlan(parts, ranks_per_host=ranks_per_host)


def available_bytes(device: str | torch.device) -> int:
    """Bytes free for new allocations on a device: its own memory on a GPU, the machine's otherwise."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def gigabytes(size: int) -> str:
    """'1.23 GB'."""
    return f"{size / 1e9:.2f} GB"
