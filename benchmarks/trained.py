"""``python -m benchmarks trained``: gradients of a checkpoint's losses, and its plans, on windows of its own replay."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.arguments import Arguments, given_checkpoint
from benchmarks.measure import Call, Row, Timer, against_products, count_flops, measured
from benchmarks.search import search_flops
from benchmarks.sizes import make_learner, planner_of
from benchmarks.update import Update
from ezm_lightning.agent import Agent, load
from ezm_lightning.commands.distil import replay_folders
from ezm_lightning.distillation import split
from ezm_lightning.module import EZM
from ezm_lightning.ops.denormals import flushed_denormals
from ezm_lightning.types import Batch

BATCHES = 8  # in one call
ROOTS = 5  # of a plan: the episodes of an evaluation


class Gradients(Update):
    """Targets, unroll, losses and the backward pass; the weights stay as they are."""

    def __init__(self, agent: Agent, folders: Sequence[Path]) -> None:
        module = make_learner(agent.cfg, str(agent.module.device))
        module.load_state_dict(agent.module.state_dict())
        replay, _ = split(folders, agent.cfg, module, seed=0)
        self.batches = [replay.sample().to(module.device) for _ in range(BATCHES)]
        super().__init__(agent.cfg, module, self.batches[0])
        self.phases = ("make_targets", "unroll", "backward")

    def all_batches(self) -> None:
        """Every batch in turn."""
        for batch in self.batches:
            self.batch = batch
            self()


class Plans:
    """Plans of the agent that acts, without exploration, at the first observations of the windows."""

    def __init__(self, agent: Agent, batches: Sequence[Batch]) -> None:
        self.actor = agent.actor(agent.tasks)
        self.roots = [(batch.obs[:ROOTS, 0], batch.task[:ROOTS]) for batch in batches]
        self.generator = torch.Generator(agent.module.device).manual_seed(0)

    def all_batches(self) -> None:
        """Every batch in turn."""
        for obs, task in self.roots:
            self.actor.act(obs, task, self.generator, explore=False)


def rows(arguments: Arguments, timer: Timer) -> list[Row]:
    """A row for gradients, one for plans. Raises ValueError for what is no checkpoint, or of another agent, or has no
    replay."""
    path = given_checkpoint(arguments.options["ckpt_path"])
    agent = load(path, device=arguments.device)
    if not isinstance(agent.module, EZM):
        raise ValueError(f"{path}: its agent is {agent.cfg.module._target_}; only EZM's updates are measured")
    gradients = Gradients(agent, replay_folders(path))
    plans = Plans(agent, gradients.batches)

    def row(what: str, call: Call, flops: float, batch: int) -> Row:
        flushed = flushed_denormals()(call)
        ours, floor, (peer,) = against_products(timer, flushed, call, flops=flops * BATCHES)
        return measured(
            arguments,
            size=f"{agent.cfg.name}: {what}",
            batch=batch,
            ms=ours / BATCHES,
            floor=floor / BATCHES,
            parameters=sum(p.numel() for p in agent.module.model.parameters()),
            peer="with denormals",
            peer_ms=peer / BATCHES,
        )

    planned = search_flops(agent.cfg, agent.module.model, planner_of(agent.cfg)) * ROOTS
    return [
        row("gradients", gradients.all_batches, count_flops(gradients), agent.cfg.batch_size),
        row("plan", plans.all_batches, planned, ROOTS),
    ]
