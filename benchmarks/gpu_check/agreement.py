"""Whether the device computes what a CPU computes: a search, the targets of a batch, one update; all in float32."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.gpu_check.finding import Finding, Sizes, relative_difference
from benchmarks.sizes import config, make_learner, roots, windows
from benchmarks.update import update_of
from ezm_lightning.module import EZM
from ezm_lightning.types import SearchOutput

SAME_ACTIONS = 0.95  # share of roots; rounding chooses between candidates of equal value
CLOSE = 2e-3  # relative difference in float32
FLOAT32 = ("module.search_model.dtype=float32", "reanalyzer.ratio=1.0")


class HostRandom(TorchDispatchMode):
    """Draws all random numbers from one generator on the CPU, so that two devices see the same ones."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        drawn = torch.Tag.nondeterministic_seeded in func.tags and func._opname in ("rand", "randn", "randperm")
        if not drawn:
            return func(*args, **kwargs)
        overload = getattr(getattr(torch.ops.aten, func._opname), "generator")  # noqa: B009
        device = kwargs.pop("device", None) or torch.device("cpu")
        kwargs["generator"] = self.generator
        return overload(*args, **kwargs, device=torch.device("cpu")).to(device)


def findings(sizes: Sizes) -> Iterator[Finding]:
    """Search, targets and update of the largest preset against the same on the CPU."""
    overrides = (*FLOAT32, *sizes.overrides)
    reference = woken(make_learner(config(sizes.largest, *overrides), "cpu"))
    ours = woken(make_learner(config(sizes.largest, *overrides), "cpu")).to(sizes.device)
    ours.generator = torch.Generator(device=sizes.device)
    yield search(sizes, ours, reference)
    yield from targets(sizes, ours, reference)
    yield update(sizes, ours, reference)


def woken(module: EZM) -> EZM:
    """The learner with noise on all weights: new layers of zeros would make all values equal."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in module.model.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
        target: Any = module.target
        target.model.load_state_dict(module.model.state_dict())
        target.refresh_()
    return module


def search(sizes: Sizes, ours: EZM, reference: EZM) -> Finding:
    """Plans of the packed model on the device against the plain model's on the CPU."""
    reference.eval(), ours.eval()
    cfg = config(sizes.largest, *FLOAT32, *sizes.overrides)
    obs, task = roots(cfg, sizes.rows, "cpu")
    planner = reference.reanalyzer.planner
    noise = planner.sample_noise(reference.target.model, len(obs), torch.Generator().manual_seed(0), explore=True)
    there = dataclasses.replace(noise, **{name: x.to(sizes.device) for name, x in vars(noise).items()})
    expected = planner(reference.target.model, obs, task, noise)
    plan = ours.reanalyzer.planner(ours.target.search_form, obs.to(sizes.device), task.to(sizes.device), there)
    return compared("results", f"A search of {sizes.largest} in float32", plan, expected, least=SAME_ACTIONS)


def compared(part: str, what: str, plan: SearchOutput, expected: SearchOutput, *, least: float) -> Finding:
    """How many roots choose the same candidate, and how far their values are apart."""
    same = (chosen(plan) == chosen(expected)).double().mean().item()
    values = relative_difference(plan.search_value, expected.search_value)
    finite = all(bool(x.isfinite().all()) for x in (plan.best_action, plan.search_value))
    good = finite and same >= least
    return Finding(
        part,
        what,
        "ok" if good else "wrong",
        f"{same:.1%} of {len(plan)} roots choose the same candidate; search values differ by {values:.1e}"
        + ("" if finite else "; some are not finite"),
        figures={"same_candidate": same, "value_difference": values, "finite": finite},
    )


def chosen(plan: SearchOutput) -> Tensor:
    """Which of the root's candidates was chosen [B], on the CPU."""
    return (plan.candidates - plan.best_action[:, None]).abs().sum(-1).argmin(-1).cpu()


def targets(sizes: Sizes, ours: EZM, reference: EZM) -> Iterator[Finding]:
    """The targets of one batch of windows."""
    cfg = config(sizes.largest, *FLOAT32, *sizes.overrides)
    torch.manual_seed(2)
    batch = windows(cfg, max(4, sizes.rows // 8), "cpu")
    made = []
    for module, copy in ((ours, batch.to(sizes.device)), (reference, batch)):
        with HostRandom():
            records, _ = module.reanalyzer(copy, module.target.search_form, module.value_mix, 0, module.generator)
        made.append(records)
    for name in ("value_td", "value_search"):
        difference = relative_difference(*(getattr(records, name) for records in made))
        limit = CLOSE if name == "value_td" else 0.05  # a search that rounds otherwise may visit other nodes
        yield Finding(
            "results",
            f"Targets of {sizes.largest}: {name}",
            "ok" if difference <= limit else "wrong",
            f"differ by {difference:.1e} over {len(batch)} windows (at most {limit:.0e})",
            figures={"difference": difference},
        )


def update(sizes: Sizes, ours: EZM, reference: EZM) -> Finding:
    """Loss and gradients of one update on given targets."""
    cfg = config(sizes.largest, *FLOAT32, *sizes.overrides)
    losses, gradients = [], []
    for module, device in ((ours, sizes.device), (reference, "cpu")):
        torch.manual_seed(3)
        call = update_of(cfg, module, max(4, sizes.rows // 8), device)
        with HostRandom():
            call()
        losses.append(call.loss)
        gradients.append(gradient(module))
    loss, difference = relative_difference(*losses), relative_difference(*gradients)
    return Finding(
        "results",
        f"One update of {sizes.largest} in float32",
        "ok" if max(loss, difference) <= CLOSE else "wrong",
        f"the loss differs by {loss:.1e}, the gradient by {difference:.1e} (at most {CLOSE:.0e})",
        figures={"loss_difference": loss, "gradient_difference": difference},
    )


def gradient(module: nn.Module) -> Tensor:
    """All gradients of a module as one vector, on the CPU."""
    return torch.cat([p.grad.flatten().float().cpu() for p in module.parameters() if p.grad is not None])
