"""Agents to export: the presets' sizes on three tasks of different widths, with weights that are nowhere zero."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from hydra.utils import instantiate

from ezm_lightning.config.compose import compose_checked
from ezm_lightning.config.folder import config_dir
from ezm_lightning.export.check import sample_roots
from ezm_lightning.export.folder import write_agent
from ezm_lightning.export.graph import GraphModule
from ezm_lightning.export.runtime import ExportedAgent
from ezm_lightning.model import PackedModel, WorldModel
from ezm_lightning.planner import Planner, PlannerNoise

TASKS = ["short/point", "short/walker", "short/pair"]
OBS_DIMS, ACTION_DIMS = [4, 6, 3], [2, 3, 1]
SIMULATIONS = {"tiny": 16, "small": 32, "paper": 32}


def model_of(size: str, seed: int = 0, **changes) -> WorldModel:
    """A world model of a preset in eval mode, as if it had learnt something."""
    cfg = compose_checked("train", [f"model={size}"], config_dir())
    torch.manual_seed(seed)
    return awake(instantiate(cfg.model, obs_dims=OBS_DIMS, action_dims=ACTION_DIMS, **changes))


def awake(model: WorldModel) -> WorldModel:
    """``model`` in eval mode with noise in its zero layers, its norms and its statistics."""
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if not value.is_floating_point() or "mask" in name:
            continue
        if value.ndim == 1 or not value.any() or (value == 1).all():
            value.data += 0.1 * torch.randn_like(value)
    model.obs_norm.mean.normal_()
    model.obs_norm.var.uniform_(0.5, 2.0)
    return model.requires_grad_(False).eval()


def planner_of(size: str, **changes) -> Planner:
    """A planner with the budget that the preset is used with."""
    return Planner(**{"num_simulations": SIMULATIONS[size], **changes})


def exported(folder: Path, graph: str, module: GraphModule, **options) -> ExportedAgent:
    """The agent of one graph, written to ``folder``."""
    write_agent(folder, {graph: module}, tasks=TASKS, about={"action_repeat": 2}, roots=8)
    return ExportedAgent(folder, graph=graph, **options)


def eager_plan(planner: Planner, packed: PackedModel, obs, task, noise) -> dict[str, np.ndarray]:
    """What the planner gives in torch, as it acts in training."""
    random = PlannerNoise(**{name: torch.as_tensor(value) for name, value in noise.items()})
    plan = planner(packed, torch.as_tensor(obs), torch.as_tensor(task), random)
    return {name: value.numpy() for name, value in plan.to_dict().items()}


def compare(planner: Planner, packed: PackedModel, agent: ExportedAgent, roots: int) -> list[tuple[dict, dict]]:
    """(in ONNX Runtime, in torch) of one call after the other, until ``roots`` roots are planned."""
    generator = np.random.default_rng(1)
    pairs = []
    for _ in range(roots // agent.batch):
        obs, task = sample_roots(packed, agent.batch, generator)
        noise = agent.draw_noise(agent.batch)
        pairs.append((agent.run(obs, task, noise), eager_plan(planner, packed, obs, task, noise)))
    return pairs
