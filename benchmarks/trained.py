"""``python -m benchmarks trained``: the losses and gradients of a checkpoint's weights on windows of its own replay."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.arguments import Arguments
from benchmarks.measure import Row, Timer, against_products, count_flops, measured
from benchmarks.sizes import make_learner
from benchmarks.update import Update
from ezm_lightning.agent import Agent, load
from ezm_lightning.checkpoints.runs import existing_checkpoint
from ezm_lightning.commands.distil import replay_folders
from ezm_lightning.distillation import split
from ezm_lightning.module import EZM
from ezm_lightning.ops.denormals import flushed_denormals

BATCHES = 8  # in one call


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

    def flushed(self) -> None:
        """Every batch in turn, as training computes it."""
        with flushed_denormals():
            self.all_batches()


def rows(arguments: Arguments, timer: Timer) -> list[Row]:
    """One row. Raises ValueError for a checkpoint that is none, of another agent, or without its replay."""
    if not arguments.options["ckpt_path"]:
        raise ValueError("ckpt_path=RUN says which checkpoint to measure: a run's folder, or one of its step=….ckpt")
    path = existing_checkpoint(arguments.options["ckpt_path"])
    agent = load(path, device=arguments.device)
    if not isinstance(agent.module, EZM):
        raise ValueError(f"{path}: its agent is {agent.cfg.module._target_}; only EZM's updates are measured")
    gradients = Gradients(agent, replay_folders(path))
    flops = count_flops(gradients) * BATCHES
    ours, floor, (peer,) = against_products(timer, gradients.flushed, gradients.all_batches, flops=flops)
    return [
        measured(
            arguments,
            size=agent.cfg.name,
            batch=agent.cfg.batch_size,
            ms=ours / BATCHES,
            floor=floor / BATCHES,
            parameters=sum(p.numel() for p in agent.module.model.parameters()),
            peer="with denormals",
            peer_ms=peer / BATCHES,
        )
    ]
