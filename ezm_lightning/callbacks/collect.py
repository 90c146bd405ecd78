"""Collection, the side edge of the river: owns the environment and the TorchRL collector, which acts by planning."""

from __future__ import annotations

from collections.abc import Sequence

import lightning as L
import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torchrl.collectors import Collector

from ezm_lightning.envs.multitask import MultiTaskEnv
from ezm_lightning.model import PackedModel
from ezm_lightning.module import EZM
from ezm_lightning.planner import Planner


class Actor(nn.Module):
    """obs [n, D], task [n] -> action [n, A], search value [n]; uniform actions (value NaN) while ``random`` is set."""

    def __init__(self, planner: Planner, model: PackedModel, generator: torch.Generator) -> None:
        super().__init__()
        self.planner, self.model, self.generator, self.random = planner, model, generator, False

    def forward(self, obs: Tensor, task: Tensor) -> tuple[Tensor, Tensor]:
        device = self.generator.device
        if self.random:
            mask = self.model.action_mask[task.to(device)]
            action = (torch.rand(mask.shape, generator=self.generator, device=device) * 2 - 1) * mask
            return action.to(obs.device), torch.full_like(obs[:, 0], torch.nan)
        noise = self.planner.sample_noise(self.model, len(obs), self.generator, explore=True)
        plan = self.planner(self.model, obs.to(device), task.to(device), noise)
        return plan.best_action.to(obs.device), plan.search_value.to(obs.device)


class Collect(L.Callback):
    """Keeps the ratio of environment steps to optimiser steps exact, whatever the speed of either.

    ``env_steps_per_update`` counts simulator steps summed over tasks; ``warmup_env_steps`` is the number of simulator
    steps a task taken with uniform random actions before the first update, outside that ratio; of both, each rank takes
    its share. A vector step is taken as soon as it is owed in full. ``act_with_target`` acts with the target model,
    else with the learner.
    """

    def __init__(
        self,
        env: MultiTaskEnv,
        planner: Planner,
        *,
        env_steps_per_update: float,
        warmup_env_steps: int,
        act_with_target: bool = True,
        seed: int = 0,
    ) -> None:
        if env_steps_per_update <= 0:
            raise ValueError(f"env_steps_per_update={env_steps_per_update} must be positive")
        self.env, self.planner, self.seed = env, planner, seed
        self.env_steps_per_update, self.warmup_env_steps = env_steps_per_update, warmup_env_steps
        self.act_with_target = act_with_target
        self.running_return = torch.zeros(env.num_slots, dtype=torch.float64)
        self.last_return = torch.full((len(env.task_specs),), torch.nan, dtype=torch.float64)
        self.num_episodes = torch.zeros(len(env.task_specs), dtype=torch.int64)
        self.warmup_taken: int | None = None  # simulator steps, this rank
        self._restored: dict | None = None

    def on_fit_start(self, trainer: L.Trainer, pl_module: EZM) -> None:
        generator = torch.Generator(device=pl_module.device).manual_seed(self.seed + 1000 * trainer.global_rank + 1)
        learner = None if self.act_with_target else pl_module.make_search_model(pl_module.model)
        self.actor = Actor(self.planner, learner or pl_module.search_model, generator)
        self.collector = Collector(
            self.env,
            TensorDictModule(self.actor, ["obs", "task"], ["action", "search_value"]),
            frames_per_batch=self.env.num_slots,
            total_frames=-1,
            auto_register_policy_transforms=False,
        )
        self._stream = iter(self.collector)
        if self._restored is None:
            self.env.set_seed(self.seed + 1000 * trainer.global_rank)
        else:
            self._apply(self._restored)
        self.collector.reset()  # making a collector has already reset the environment and drawn the policy's noise
        if self.warmup_taken is None:
            self._warm_up(trainer, pl_module)

    def _warm_up(self, trainer: L.Trainer, pl_module: EZM) -> None:
        self.actor.random = True
        while self.env.env_steps.min() < self.warmup_env_steps / trainer.world_size:
            self.collect(trainer, pl_module)
        self.actor.random = False
        self.warmup_taken = int(self.env.env_steps.sum())

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: EZM, *_: object) -> None:
        due = trainer.global_step * self.env_steps_per_update / trainer.world_size
        vector_step = self.env.num_slots * self.env.action_repeat
        while self.warmup_taken + due - int(self.env.env_steps.sum()) >= vector_step:
            self.collect(trainer, pl_module)
        if trainer.global_step % trainer.log_every_n_steps == 0:
            self.log_env(pl_module)

    def env_steps_due(self, trainer: L.Trainer) -> int:
        """Simulator steps a task, of all ranks, that belong to the updates so far; the same on every rank."""
        updates = trainer.global_step * self.env_steps_per_update / len(self.env.task_specs)
        return int(self.warmup_env_steps + updates)

    def collect(self, trainer: L.Trainer, pl_module: EZM) -> None:
        """One vector step: every slot acts once."""
        if self.act_with_target:
            self.actor.model.follow_()
        else:
            self.actor.model.refresh_()
        step = next(self._stream).squeeze(-1)  # [slots]
        trainer.datamodule.replay.extend(step)
        self._score(step)

    def _score(self, step: TensorDictBase) -> None:
        """Follows each slot's undiscounted return; keeps the last one of each task."""
        self.running_return += step["next", "reward"].squeeze(-1).double()
        for slot in step["next", "done"].squeeze(-1).nonzero().flatten().tolist():
            task = int(self.env.slot_task[slot])
            self.last_return[task] = self.running_return[slot]
            self.num_episodes[task] += 1
            self.running_return[slot] = 0

    def log_env(self, pl_module: EZM) -> None:
        """Environment steps and episodes of all tasks; each task's last training return, and faults where there are."""
        metrics = {
            "env/steps_per_task": self.env.env_steps.float().mean(),
            "env/episodes": self.num_episodes.sum().float(),
        }
        for spec, value in zip(self.env.task_specs, self.last_return.tolist(), strict=True):
            if value == value:
                metrics[f"return/{spec.label}"] = torch.tensor(value)
        metrics |= {f"faults/{name}": torch.tensor(count) for name, count in self.env.fault_counts().items()}
        pl_module.log_dict(metrics, batch_size=1)

    def run_state(self) -> dict:
        """Everything needed to go on where collection stands; tensors and plain values."""
        return {
            "env": self.env.get_state(),
            "generator": self.actor.generator.get_state(),
            "running_return": self.running_return,
            "last_return": self.last_return,
            "num_episodes": self.num_episodes,
            "warmup_taken": self.warmup_taken,
        }

    def load_run_state(self, state: dict) -> None:
        """Takes a :meth:`run_state`; it is applied when training starts."""
        self._restored = state

    def share_run_state(self, states: Sequence[dict], *, rank: int, world_size: int) -> None:
        """Takes this rank's share of the counts of any number of ranks' run states; environments begin anew."""
        steps = torch.stack([state["env"]["env_steps"] for state in states]).sum(0)
        self.env.env_steps.copy_(steps // world_size + (rank < steps % world_size))
        warmup = sum(state["warmup_taken"] for state in states)
        self.warmup_taken = warmup // world_size + int(rank < warmup % world_size)
        self.seed += int(steps.sum())  # other initial states and noise than those that have been

    def _apply(self, state: dict) -> None:
        self.env.set_state(state["env"])
        self.actor.generator.set_state(state["generator"])
        for name in ("running_return", "last_return", "num_episodes"):
            getattr(self, name).copy_(state[name])
        self.warmup_taken = state["warmup_taken"]

    def teardown(self, trainer: L.Trainer, pl_module: EZM, stage: str) -> None:
        if hasattr(self, "collector"):
            self.collector.shutdown()
