"""Kernels, host-device waits and bytes of a search and of an update on a GPU, counted without one.

Every operation that computes is one kernel: libraries use more for a few (a sort), and one for several only where
something is compiled. Bytes are what kernels read and write, each input and output once. The host waits
if it needs a number from the device, or if a copy is not from pinned memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from benchmarks.gpu_check.fake_cuda import DEVICE, FakeGenerator, autocast, backward, fake_cuda, on_fake_cuda
from benchmarks.sizes import config, roots, windows
from benchmarks.update import Update
from ezm_lightning.acting import PlannerActor
from ezm_lightning.build import make_module
from ezm_lightning.envs.sources import resolve_tasks
from ezm_lightning.module import EZM

NO_KERNEL = {  # allocate, or describe a tensor; torch knows its views
    "empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "detach", "alias", "device", "lift",
    "lift_fresh", "resize_", "set_", "_unsafe_view", "_reshape_alias", "record_stream", "is_pinned", "item",
}  # fmt: skip
WAITS = {  # their result, or its shape, is needed on the host
    "_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "unique_dim", "_unique2",
    "unique_consecutive",
}  # fmt: skip


@dataclass
class Counts:
    """The work of one call on a GPU."""

    kernels: int
    waits: int
    megabytes: float  # read and written by kernels


class Counting(TorchDispatchMode):
    """Counts operations; a composite operation counts as its parts."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        with self:
            parts = func.decompose(*args, **kwargs) if func.namespace == "aten" else NotImplemented
        if parts is not NotImplemented:
            return parts
        name = func._opname
        result = _stand_in(name, args) if any(x.device.type == "cuda" for x in _tensors(args)) else None
        result = func(*_placed(name, args), **kwargs) if result is None else result
        self._count(func, args, kwargs, result)
        return result

    def _count(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        name, given, made = func._opname, _tensors((args, kwargs)), _tensors(result)
        tensors = [x for x in (*given, *made) if x.device.type == "cuda"]
        if not tensors:
            return
        if name in WAITS or _by_mask(name, args) or _unpinned(name, given, made):
            self.waits[name] += 1
        if name not in NO_KERNEL and not func.is_view and func.namespace != "prim":
            self.kernels[name] += 1
            self.bytes += sum({id(x): x.nbytes for x in tensors}.values())


def _stand_in(name: str, args: tuple[Any, ...]) -> Any:
    """A result that fake tensors cannot give: a number is 1, and no entry is 0. None for all other operations."""
    if name == "_local_scalar_dense":
        dtype = args[0].dtype
        return True if dtype == torch.bool else 1.0 if dtype.is_floating_point else 1
    if name == "nonzero":
        return args[0].new_zeros(args[0].numel(), args[0].dim(), dtype=torch.int64)
    return None


def _placed(name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments of an operation, with a mask as indices, as if all its entries were true."""
    if not _by_mask(name, args):
        return args
    indices: list[Tensor | None] = []
    for index in args[1]:
        mask = index is not None and index.dtype == torch.bool
        indices += [index.new_zeros(index.numel(), dtype=torch.int64)] * index.dim() if mask else [index]
    return args[0], indices, *args[2:]


def _tensors(tree: Any) -> list[Tensor]:
    return [x for x in tree_flatten(tree)[0] if isinstance(x, Tensor)]


def _by_mask(name: str, args: tuple[Any, ...]) -> bool:
    """Whether an operation indexes with a mask, whose number of true entries the host must know."""
    return name in ("index", "index_put", "index_put_") and any(x.dtype == torch.bool for x in _tensors(args[1]))


def _unpinned(name: str, given: list[Tensor], made: list[Tensor]) -> bool:
    """Whether a copy between host and device makes the host wait."""
    devices = {x.device.type for x in (*given, *made)}
    return name in ("_to_copy", "copy_", "copy") and devices == {"cpu", "cuda"}


class Fake:
    """The learner of a preset on a fake GPU."""

    def __init__(self, cfg: DictConfig, module: EZM) -> None:
        self.cfg, self.module = cfg, module
        on_fake_cuda(module)
        module.generator = FakeGenerator()
        slots = len(resolve_tasks(list(cfg.tasks.names))) * cfg.envs_per_task
        self.obs, self.task = roots(cfg, slots, "cpu")
        dtype = torch.bfloat16 if cfg.trainer.precision == "bf16-mixed" else None
        batch = windows(cfg, cfg.batch_size, DEVICE)
        self.update = Update(cfg, module, batch, autocast=lambda: autocast(dtype), backward=backward)

    def act(self) -> None:
        """The actions of a step of collection: a plan for every simulator, from and to the host."""
        actor = PlannerActor(self.module.reanalyzer.planner, self.module.target.search_form)
        actor.act(self.obs, self.task, self.module.generator, explore=True)


@dataclass
class Counted:
    """The counts of a call, and its operations."""

    counts: Counts
    kernels: Counter[str]
    waits: Counter[str]


def count(size: str, *overrides: str) -> dict[str, Counted]:
    """The counts of a 'search' for acting and of an 'update'. Raises ImportError if torch has no fake CUDA."""
    cfg = config(size, "trainer.precision=bf16-mixed", *overrides)  # as conf/trainer/gpu.yaml has it
    with torch.device("meta"):
        module = make_module(cfg)
    assert isinstance(module, EZM)
    with fake_cuda():
        fake = Fake(cfg, module)
        return {"search": counted(fake.act), "update": counted(fake.update)}


def counted(call: Callable[[], None]) -> Counted:
    """The counts of the second call; the first one also allocates what is kept."""
    call()
    with Counting() as counter:
        call()
    counts = Counts(counter.kernels.total(), counter.waits.total(), round(counter.bytes / 1e6, 1))
    return Counted(counts, counter.kernels, counter.waits)
