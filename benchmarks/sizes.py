"""The sizes that are measured, from the presets of ``conf/``; weights are untrained: no gradient is denormal."""

from __future__ import annotations

from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from tensordict import TensorDict

from ezm_lightning.build import make_module
from ezm_lightning.config.compose import compose_checked
from ezm_lightning.config.folder import config_dir
from ezm_lightning.config.overrides import rewrite
from ezm_lightning.envs.sources import resolve_tasks
from ezm_lightning.module import EZM
from ezm_lightning.types import Batch, Targets

SIZES = {
    "hard": ("experiment=humanoidbench_hard",),
    "medium": ("experiment=humanoidbench_medium",),
    "small": ("model=small", "tasks=humanoidbench_medium"),
    "demo": ("experiment=demo",),
    "dmc_cpu": ("experiment=dmc_cpu",),
}

TRAINERS = {"cpu": "trainer=cpu", "cuda": "trainer=gpu"}


def config(size: str, *overrides: str, device: str = "cpu") -> DictConfig:
    """The config of a size on a device. Raises ValueError where an override does not fit."""
    given = [*SIZES[size], TRAINERS[device], "run_dir=none", *overrides]
    return compose_checked("train", rewrite(given, config_dir()), config_dir())


def autocast(cfg: DictConfig, device: str) -> torch.autocast:
    """The context that the trainer's precision makes for an update."""
    return torch.autocast(device, torch.bfloat16, enabled=cfg.trainer.precision == "bf16-mixed")


def compile_override(what: str, mode: str | None) -> list[str]:
    """The override that compiles the ``planner`` or ``module`` in a mode of ``torch.compile``; none without a mode."""
    return [f"{what}.compile={{mode: {mode}, dynamic: false}}"] if mode else []


def make_learner(cfg: DictConfig, device: str) -> EZM:
    """The learner of a config on a device, seeded."""
    torch.manual_seed(0)
    module = make_module(cfg).to(device)
    assert isinstance(module, EZM)
    module.generator = torch.Generator(device=device).manual_seed(0)
    return module


def roots(cfg: DictConfig, batch_size: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Random observations [B, D] of every task in turn, and the tasks [B]."""
    specs = resolve_tasks(list(cfg.tasks.names))
    obs = torch.randn(batch_size, max(spec.obs_dim for spec in specs), generator=torch.Generator().manual_seed(1))
    return obs.to(device), (torch.arange(batch_size) % len(specs)).to(device)


def windows(cfg: DictConfig, batch_size: int, device: str) -> Batch:
    """Random windows of full length."""
    obs, task = roots(cfg, batch_size, "cpu")
    length = cfg.unroll_steps + cfg.td_steps + 1
    action_dim = max(spec.action_dim for spec in resolve_tasks(list(cfg.tasks.names)))
    shape = (batch_size, length)
    return Batch(
        obs=obs[:, None] + 0.1 * torch.randn(*shape, obs.shape[-1]),
        action=torch.rand(*shape, action_dim) * 2 - 1,
        reward=torch.rand(shape),
        valid=torch.ones(shape, dtype=torch.bool),
        final=torch.zeros(shape, dtype=torch.bool),
        extras=TensorDict({"search_value": torch.rand(shape)}, batch_size=list(shape)),
        task=task,
        age=torch.zeros(batch_size, dtype=torch.int64),
        weight=torch.ones(batch_size),
        index=torch.arange(batch_size),
        demo=torch.zeros(batch_size, dtype=torch.bool),
        batch_size=[batch_size],
    ).to(device)


def given_targets(batch: Batch, unroll_steps: int) -> Targets:
    """Targets for a batch that cost nothing: what was done and paid, and values in the supports."""
    k1 = unroll_steps + 1
    values: Any = batch.reward[:, :k1]
    yes = torch.ones_like(values, dtype=torch.bool)
    return Targets(
        reward=values[:, 1:],
        value=values,
        value_td=values,
        value_search=values,
        value_variance=values,
        action=batch.action[:, :k1, None],
        action_weights=values.new_ones(*values.shape, 1),
        reward_valid=yes[:, 1:],
        value_valid=yes,
        policy_valid=yes,
        terminal=~yes,
        batch_size=batch.batch_size,
    )


def planner_of(cfg: DictConfig) -> Any:
    """The planner of a config."""
    return instantiate(cfg.planner)
