"""``ezm eval eval.open_loop=[...]``: plays and prints the returns of plans that are executed in open loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import OmegaConf
from torch import Tensor
from torch.nn.functional import pad

from ezm_lightning.acting import PlannerActor
from ezm_lightning.agent import Agent, AmongTasks
from ezm_lightning.checkpoints.text_file import csv_text, replace_text
from ezm_lightning.commands.printing import table
from ezm_lightning.envs.spec import TaskSpec
from ezm_lightning.evaluation.episodes import floor_actors, play
from ezm_lightning.evaluation.open_loop import WAYS, Drift, OpenLoopActor
from ezm_lightning.ranges import COUNT

LEAST_SHARE = 0.05  # of the range of returns: an agent nearer to random actions has no retention
DRIFT_COLUMNS = ("task", "interval", "decisions_since_look", "latent_drift", "reward_error", "decisions")


@dataclass(frozen=True)
class OpenLoopRow:
    """One task and interval; returns up to the task's own termination, means over episodes."""

    task: str
    interval: int  # decisions between two looks
    returns: Mapping[str, float] = field(default_factory=dict)  # by the choice of actions between looks
    retention: float | None = None  # (R_N − random) / (R_1 − random) of the search; None if it is not defined


def check_open_loop(intervals: Any, agent: Agent | None = None) -> list[int]:
    """The intervals of a config. Raises ValueError for anything but a list of whole numbers above 0, and for an agent
    without a world model."""
    listed = OmegaConf.to_container(intervals) if OmegaConf.is_list(intervals) else [intervals]
    if not listed:
        raise ValueError("eval.open_loop=[] names no interval; nearest: eval.open_loop=[1,4,16,48]")
    for value in listed:
        COUNT.check("eval.open_loop", value)
    if agent is not None and not isinstance(agent.module.make_actor(), PlannerActor):
        raise ValueError(f"eval.open_loop: the checkpoint's agent, {agent.cfg.module._target_}, predicts no latents")
    return list(dict.fromkeys(listed))


def play_open_loop(
    agent: Agent, tasks: Sequence[str], intervals: Sequence[int], *, episodes: int, seed: int
) -> tuple[list[OpenLoopRow], dict[int, Drift]]:
    """The rows, and each interval's drift under the search; all have the initial states and noise of ``ezm eval``."""
    env = agent.evaluation_env(tasks, episodes)
    learned = getattr(agent.module, "reward_scale", None)
    scale = None if learned is None else pad(learned.scale, (0, len(agent.tasks) - len(learned.scale)), value=torch.nan)
    device, actor = agent.module.device, cast(PlannerActor, agent.module.make_actor())

    def blind(interval: int, way: str, drift: Drift | None = None) -> Tensor:
        act = OpenLoopActor(actor, interval=interval, way=way, drift=drift)
        hooks = {"on_reward": drift.paid} if drift else {}
        return play(env, AmongTasks(act, agent.cfg, tasks), seed=seed, device=device, **hooks).honoured

    try:
        drifts = {n: Drift(len(agent.tasks), n, scale) for n in intervals if n > 1}
        scores = {n: {w: blind(n, w, drifts.get(n) if w == "search" else None) for w in WAYS} for n in intervals}
        closed = scores[1]["search"] if 1 in scores else blind(1, "search")
        floor = play(env, floor_actors(env.action_dims, env.action_dim)["random"], seed=seed).honoured
        rows = [
            _row(spec, env.slot_task == i, n, scores[n], closed, floor)
            for i, spec in enumerate(env.task_specs)
            for n in intervals
        ]
        return rows, drifts
    finally:
        env.close()


def _row(
    spec: TaskSpec, slots: Tensor, interval: int, scores: Mapping[str, Tensor], closed: Tensor, floor: Tensor
) -> OpenLoopRow:
    means = {way: float(value[slots].mean()) for way, value in scores.items()}
    retained = retention(means["search"], float(closed[slots].mean()), float(floor[slots].mean()), spec)
    return OpenLoopRow(spec.label, interval, means, retained)


def retention(value: float, closed: float, floor: float, spec: TaskSpec) -> float | None:
    """(value − floor) / (closed − floor); None if closed − floor is at most 5 % of the task's range.

    The range is that of the rewards of an episode if they are known, else the larger of the two returns.
    """
    if spec.reward_range is None:
        span = max(abs(closed), abs(floor))
    else:
        span = (spec.reward_range[1] - spec.reward_range[0]) * spec.max_episode_steps
    return None if closed - floor <= LEAST_SHARE * span else (value - floor) / (closed - floor)


def print_open_loop(rows: Sequence[OpenLoopRow]) -> None:
    """Prints a line per task and interval: the return for each choice of actions, and the retention of the search."""
    lines = [
        (row.task, row.interval, *row.returns.values(), "–" if row.retention is None else f"{row.retention:.3f}")
        for row in rows
    ]
    table(("task", "looks every", *WAYS, "retained"), lines, "open loop: who chooses between looks")


def write_drift(path: Path, agent: Agent, tasks: Sequence[str], drifts: Mapping[int, Drift]) -> None:
    """Writes the drift of every task and interval as CSV, completely or not at all."""
    rows = []
    for interval, drift in drifts.items():
        latent, reward = drift.means()
        for task in map(agent.tasks.index, tasks):
            for since in range(interval):
                if drift.count[task, since]:
                    numbers = float(latent[task, since]), float(reward[task, since]), int(drift.count[task, since])
                    row = (agent.tasks[task], interval, since, *numbers)
                    rows.append(dict(zip(DRIFT_COLUMNS, row, strict=True)))
    replace_text(path, csv_text(DRIFT_COLUMNS, rows))
