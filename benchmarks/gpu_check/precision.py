"""Results in lower precision: searches of a trained agent in float16 and bfloat16, an update in bfloat16."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

import ezm_lightning
from benchmarks.gpu_check.agreement import chosen, gradient, woken
from benchmarks.gpu_check.finding import Finding, Sizes
from benchmarks.sizes import config, make_learner, roots
from benchmarks.update import update_of
from ezm_lightning.model import PackedModel, WorldModel
from ezm_lightning.planner import Planner
from ezm_lightning.player import Player
from ezm_lightning.types import SearchOutput

AGENT = "walker"  # is shipped, and trained
LOST = 1e-3  # cost of other choices as a share of the range of values, at most
SAME_GRADIENT = 0.98  # cosine
STRIDE = 4  # decisions between two observations that are searched


def findings(sizes: Sizes) -> Iterator[Finding]:
    """The trained agent's searches, then finite numbers at the largest preset, then an update's gradient."""
    agent = ezm_lightning.load(AGENT, device=sizes.device)
    actor: Any = agent.actor()
    planner, packed = actor.planner, actor.model
    obs = observations(agent, sizes.decisions).to(sizes.device)
    task = torch.zeros(len(obs), dtype=torch.int64, device=sizes.device)
    for dtype in ("float16", "bfloat16"):
        yield agreement(planner, packed.model, obs, task, dtype)
    yield finite(sizes)
    yield update(sizes)


def observations(agent: Player, decisions: int) -> Tensor:
    """Observations of the agent's task under its policy, every fourth decision."""
    env = ezm_lightning.make_env(agent.tasks[0], action_repeat=agent.action_repeat, seed=1)
    obs, _ = env.reset(seed=1)
    seen = []
    for decision in range(decisions):
        if decision % STRIDE == 0:
            seen.append(torch.as_tensor(obs, dtype=torch.float32))
        obs, _, terminated, truncated, _ = env.step(agent.act(obs, env.task, search=False))
        if terminated or truncated:
            obs, _ = env.reset()
    return torch.stack(seen)


def agreement(planner: Planner, model: WorldModel, obs: Tensor, task: Tensor, dtype: str) -> Finding:
    """How often searches in ``dtype`` and in float32 choose the same candidate."""
    generator = torch.Generator(device=obs.device).manual_seed(0)
    exact = PackedModel(model, dtype="float32")
    noise = planner.sample_noise(exact, len(obs), generator, explore=False)
    expected, plan = (planner(packed, obs, task, noise) for packed in (exact, PackedModel(model, dtype=dtype)))
    same = (chosen(plan) == chosen(expected)).double().mean().item()
    lost = _lost(plan, expected)
    good = lost <= LOST or dtype == "bfloat16"  # bfloat16 is no default, so it needs no override
    return Finding(
        "precision",
        f"A search of the trained agent {AGENT} in {dtype}",
        "ok" if good else "look",
        f"{same:.1%} of {len(obs)} roots choose float32's candidate; the others cost {lost:.1e} of the range of values"
        f" (at most {LOST:.0e} in float16)",
        "" if good else "module.search_model.dtype=float32",
        {"same_candidate": same, "lost": lost},
    )


def _lost(plan: SearchOutput, expected: SearchOutput) -> float:
    """The mean loss of value of the chosen candidates by float32's values, as a share of the range of these."""
    q = expected.qvalues.float().cpu()
    best, other = (q.gather(1, chosen(searched)[:, None]) for searched in (expected, plan))
    return float((best - other).mean() / (q.max() - q.min()).clamp_min(1e-12))


def finite(sizes: Sizes) -> Finding:
    """Whether the numbers of the largest preset are finite in float16."""
    cfg = config(sizes.largest, *sizes.overrides)
    module = woken(make_learner(cfg, sizes.device)).eval()
    obs, task = roots(cfg, sizes.rows, sizes.device)
    packed, planner = PackedModel(module.model, dtype="float16"), module.reanalyzer.planner
    generator = torch.Generator(device=sizes.device).manual_seed(0)
    plan = planner(packed, 10 * obs, task, planner.sample_noise(packed, len(obs), generator, explore=False))
    share = float(plan.search_value.isfinite().double().mean())
    return Finding(
        "precision",
        f"Numbers of {sizes.largest} in a search in float16",
        "ok" if share == 1 else "look",
        f"{share:.1%} of the search values are finite for observations ten times as large as usual",
        "" if share == 1 else "module.search_model.dtype=float32",
        {"finite": share},
    )


def update(sizes: Sizes) -> Finding:
    """The gradient in bfloat16 against float32's, as an angle; weights, batch and noise are the same."""
    gradients = []
    for precision in ("32-true", "bf16-mixed"):
        cfg = config(sizes.largest, f"trainer.precision={precision}", *sizes.overrides)
        module = woken(make_learner(cfg, sizes.device))
        torch.manual_seed(3)
        call = update_of(cfg, module, max(4, sizes.rows // 8), sizes.device)
        call()
        gradients.append(gradient(module))
    cosine = float(torch.nn.functional.cosine_similarity(*gradients, dim=0))
    good = cosine >= SAME_GRADIENT
    return Finding(
        "precision",
        f"One update of {sizes.largest} in bfloat16",
        "ok" if good else "look",
        f"its gradient and float32's have a cosine of {cosine:.4f} (at least {SAME_GRADIENT})",
        "" if good else "trainer.precision=32-true",
        {"cosine": cosine},
    )
