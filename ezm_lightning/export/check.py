"""Checks of a graph: it gives the same actions as its module in torch. Also the latency of a call."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from ezm_lightning.export.graph import GraphModule
from ezm_lightning.export.runtime import Array, ExportedAgent
from ezm_lightning.model import PackedModel

TOLERANCE = 1e-4  # of actions; for values also relative
LEAST_SHARE = 0.99  # of roots; ties within rounding also occur inside a search
SEED = 0


@dataclass(frozen=True)
class Check:
    """A graph compared with its module in torch, for the same observations and noise."""

    roots: int
    equal: int  # roots whose actions differ by at most ``TOLERANCE``
    tied: int  # other roots whose two choices have the same value up to rounding
    largest_difference: float  # of the actions at equal roots


Recorded = tuple[Array, Array]  # observations [R, D] float32 and their tasks [R] int64 of a replay


@torch.no_grad()
def check(module: GraphModule, agent: ExportedAgent, roots: int, recorded: Recorded | None = None) -> Check:
    """Compares actions at ``roots`` or slightly more observations. Half of them are ``recorded``, if there are any; the
    others are drawn with the mean and variance of training.

    Raises ValueError if less than ``LEAST_SHARE`` of the roots are equal or tied.
    """
    rows = module.batch or min(roots, 64)
    generator = np.random.default_rng(SEED)
    differences, ties = [], []
    for call in range(-(-roots // rows)):
        if recorded is not None and call % 2 == 0:
            chosen = generator.integers(len(recorded[0]), size=rows)
            obs, task = recorded[0][chosen], recorded[1][chosen]
        else:
            obs, task = sample_roots(module.packed, rows, generator)
        noise = agent.draw_noise(rows)
        values = module(*map(torch.as_tensor, (obs, task, *noise.values())))
        expected = {name: value.numpy() for name, value in zip(module.outputs, values, strict=True)}
        action = agent.run(obs, task, noise)["best_action"]
        differences.append(np.abs(action - expected["best_action"]).max(1))
        ties.append(tied(action, expected) if "qvalues" in expected else np.zeros(rows, bool))
    difference = np.concatenate(differences)
    equal = difference <= TOLERANCE
    num_tied = int((np.concatenate(ties) & ~equal).sum())
    result = Check(len(difference), int(equal.sum()), num_tied, float(difference[equal].max(initial=0.0)))
    different = result.roots - result.equal - result.tied
    if different > (1 - LEAST_SHARE) * result.roots:
        raise ValueError(
            f"{agent.file} acts otherwise than its module in torch at {different} of {result.roots} roots, "
            f"by up to {difference.max():.1e}"
        )
    return result


def tied(action: Array, plan: Mapping[str, Array]) -> Array:
    """Whether ``action`` [B, A] is a candidate with the same value in ``plan`` as the plan's own choice; [B] bool."""

    def nearest_candidate(chosen: Array) -> tuple[Array, Array]:
        """The value of the candidate nearest to an action, and how far away it is; [B] each."""
        distance = np.abs(plan["candidates"] - chosen[:, None]).max(-1)  # [B, C]
        value = np.take_along_axis(plan["qvalues"], distance.argmin(1)[:, None], 1)[:, 0]
        return value, distance.min(1)

    (value, distance), (own_value, _) = nearest_candidate(action), nearest_candidate(plan["best_action"])
    return (distance <= TOLERANCE) & np.isclose(value, own_value, rtol=TOLERANCE, atol=TOLERANCE)


def sample_roots(packed: PackedModel, rows: int, generator: np.random.Generator) -> tuple[Array, Array]:
    """Observations [B, D] float32 of random tasks [B] int64, with the mean and the variance of training."""
    task = generator.integers(len(packed.obs_mask), size=rows)
    norm = packed.model.obs_norm
    mean, std = norm.mean.numpy(), norm.var.sqrt().numpy()
    of_task = (mean[task], std[task]) if mean.ndim == 2 else (mean, std)
    obs = generator.standard_normal((rows, mean.shape[-1])) * of_task[1] + of_task[0]
    return (obs * packed.obs_mask[task].numpy()).astype(np.float32), task


def latency_ms(agent: ExportedAgent, calls: int = 200) -> tuple[float, float]:
    """The median and the 99th percentile of the wall time of one decision on this machine."""
    obs, task = np.zeros(agent.obs_dims[0], np.float32), agent.tasks[0]
    times = []
    for _ in range(calls):
        start = time.perf_counter()
        agent.act(obs, task)
        times.append(time.perf_counter() - start)
    return float(np.median(times) * 1e3), float(np.quantile(times, 0.99) * 1e3)
