"""Collection, the side edge of the river: owns the environment and the TorchRL collector, which acts by planning."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import lightning as L
import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torchrl.collectors import Collector

from ezm_lightning.acting import Actor, RandomActor
from ezm_lightning.envs.multitask import MultiTaskEnv
from ezm_lightning.ops.seeds import later_seed, rank_generator, rank_seed
from ezm_lightning.ranges import Count, Positive, Share


class _Policy(nn.Module):
    """The module that the collector calls: obs [n, D], task [n] -> action [n, A] and the actor's extras [n]."""

    actor: Actor

    def __init__(self, actor: Actor, generator: torch.Generator) -> None:
        super().__init__()
        self.actor, self.generator = actor, generator

    def forward(self, obs: Tensor, task: Tensor) -> tuple[Tensor, ...]:
        output = self.actor.act(obs, task, self.generator, explore=True)
        return tuple(output[name] for name in ("action", *self.actor.extras))


class Collect(L.Callback):
    """Keeps the ratio of environment steps to optimiser steps exact, whatever the speed of either.

    ``env_steps_per_update`` counts simulator steps summed over tasks. ``warmup_env_steps`` is the number of simulator
    steps per task with uniform random actions before the first update, outside that ratio. Each rank takes its share of
    both. A vector step is taken as soon as all of it is due.

    With ``overlap`` the vector steps due after an update are taken in a thread while the next update runs, and are
    stored when that has ended. They act with a copy of the weights, so nothing depends on which of the two is faster.

    ``policy_share`` are two shares of the updates: up to the first one the policy acts without a search, from the
    second on it always searches, and in between the share of decisions without a search falls evenly. None: it always
    searches.
    """

    def __init__(
        self,
        env: MultiTaskEnv,
        *,
        env_steps_per_update: Positive,
        warmup_env_steps: Count,
        overlap: bool = False,
        policy_share: Sequence[Share] | None = None,
        seed: int = 0,
    ) -> None:
        if env_steps_per_update <= 0:
            raise ValueError(f"env_steps_per_update={env_steps_per_update} must be positive")
        if policy_share is not None and not (len(policy_share) == 2 and policy_share[0] < policy_share[1]):
            shown = ",".join(map(str, policy_share))
            raise ValueError(
                f"collect.policy_share=[{shown}] must be two shares of the run, the first below the second"
            )
        self.policy_share = policy_share
        self.env, self.seed = env, seed
        self.env_steps_per_update, self.warmup_env_steps = env_steps_per_update, warmup_env_steps
        self.overlap = overlap
        self.running_return = torch.zeros(env.num_slots, dtype=torch.float64)
        self.last_return = torch.full((len(env.task_specs),), torch.nan, dtype=torch.float64)
        self.num_episodes = torch.zeros(len(env.task_specs), dtype=torch.int64)
        self.warmup_taken: int | None = None  # simulator steps of this rank
        self._restored: dict | None = None
        self._thread = ThreadPoolExecutor(1, "collection") if overlap else None
        self._under_way = _done([])  # vector steps that are not stored yet
        self._env_steps = env.env_steps.clone()  # [T], without those
        self._lost = torch.zeros(env.num_slots, dtype=torch.bool)  # slots whose episode did not survive a resumption

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        generator = rank_generator(self.seed + 1, trainer.global_rank, pl_module.device)
        self.actor = pl_module.make_actor(own_weights=self.overlap)
        self.explorer = self._explorer()
        self.policy = _Policy(self.explorer, generator)
        self.collector = Collector(
            self.env,
            TensorDictModule(self.policy, ["obs", "task"], ["action", *self.actor.extras]),
            frames_per_batch=self.env.num_slots,
            total_frames=-1,
            auto_register_policy_transforms=False,
        )
        self._stream = iter(self.collector)
        seed = rank_seed(self.seed, trainer.global_rank)
        if self._restored is None:
            self.env.set_seed(seed)
        else:
            self.env.set_seed(later_seed(seed, int(self._restored["env_steps"].sum())))  # of what cannot be restored
            self._apply(self._restored)
        self.env.get_state()  # raises now for a state that could not be read back
        self.collector.reset()  # making a collector has already reset the environment and drawn the policy's noise
        if self.warmup_taken is None:
            self._warm_up(trainer)

    def _warm_up(self, trainer: L.Trainer) -> None:
        self.policy.actor = RandomActor(self.env.action_dims, self.actor.extras, least_dim=self.env.action_dim)
        while self.env.env_steps.min() < self.warmup_env_steps / trainer.world_size:
            self.collect(trainer)
        self.policy.actor = self.explorer
        self.warmup_taken = int(self.env.env_steps.sum())

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        self._store(trainer, self._under_way.result())
        self._drop_lost(pl_module)
        self.actor.refresh_()
        if self.policy_share is not None:
            self.explorer.share = self.share_of_policy(trainer.global_step / trainer.max_steps)
        due = self.warmup_taken + trainer.global_step * self.env_steps_per_update / trainer.world_size
        if self._thread is None:
            self._store(trainer, self._take(due))
        if trainer.global_step % trainer.log_every_n_steps == 0:
            self.log_env(pl_module)
            self._log_axis(trainer, pl_module)
        self._env_steps = self.env.env_steps.clone()
        if self._thread is not None:
            self._under_way = self._thread.submit(self._take, due)

    def _explorer(self) -> Any:
        """The actor of training, which acts without a search at first if ``policy_share`` says so."""
        if self.policy_share is None:
            return self.actor
        if not hasattr(self.actor, "policy_first"):
            raise ValueError(
                f"collect.policy_share: the agent's {type(self.actor).__name__} makes no plans; leave it null"
            )
        return self.actor.policy_first()

    def share_of_policy(self, progress: float) -> float:
        """The share of decisions without a search, at a ``progress`` of the run in [0, 1]."""
        if self.policy_share is None:
            return 0.0
        first, last = self.policy_share
        return min(max((last - progress) / (last - first), 0.0), 1.0)

    def _take(self, due: float) -> list[TensorDictBase]:
        """Takes every vector step that is due in full, up to ``due`` simulator steps of this rank in all."""
        steps: list[TensorDictBase] = []
        while due - int(self.env.env_steps.sum()) >= self.env.vector_step:
            steps.append(self._vector_step())
        return steps

    def _vector_step(self) -> TensorDictBase:
        """One action in every slot; [slots]. The collector returns copies."""
        return next(self._stream).squeeze(-1).exclude("collector")

    def collect(self, trainer: L.Trainer) -> None:
        """One vector step, stored at once."""
        self._store(trainer, [self._vector_step()])

    def _store(self, trainer: L.Trainer, steps: Sequence[TensorDictBase]) -> None:
        """Puts vector steps into replay."""
        for step in steps:
            trainer.datamodule.replay.extend(step)
            if hasattr(trainer.lightning_module, "on_vector_step"):
                trainer.lightning_module.on_vector_step(step)
            self._score(step)

    def env_steps_due(self, trainer: L.Trainer) -> int:
        """Simulator steps per task, of all ranks, that are due after the updates so far; the same on every rank."""
        return int(self.env_steps_after(trainer.global_step))

    def env_steps_after(self, updates: int) -> float:
        """Simulator steps per task, of all ranks, that are due after ``updates`` of them."""
        return self.warmup_env_steps + updates * self.env_steps_per_update / len(self.env.task_specs)

    def _drop_lost(self, pl_module: L.LightningModule) -> None:
        """Forgets the rewards of episodes that do not go on, once their last steps are stored."""
        if not self._lost.any():
            return
        self.running_return[self._lost] = 0
        if hasattr(pl_module, "on_lost_episodes"):
            pl_module.on_lost_episodes(self._lost.clone())
        self._lost[:] = False

    def _score(self, step: TensorDictBase) -> None:
        """Adds up each slot's undiscounted return; keeps the last return of each task."""
        self.running_return += step["next", "reward"].squeeze(-1).double()
        for slot in step["next", "done"].squeeze(-1).nonzero().flatten().tolist():
            task = int(self.env.slot_task[slot])
            self.last_return[task] = self.running_return[slot]
            self.num_episodes[task] += 1
            self.running_return[slot] = 0

    def log_env(self, pl_module: L.LightningModule) -> None:
        """Logs the number of episodes, each task's last training return (with several ranks the mean of theirs), and
        faults if there are any."""
        episodes, faults, returns = self.num_episodes, self.env.faults, self.last_return
        if pl_module.trainer.world_size > 1:
            episodes, faults, returns = (
                pl_module.all_gather(own.to(pl_module.device)).cpu() for own in (episodes, faults, returns)
            )
            episodes, faults, returns = episodes.sum(0), faults.sum(0), returns.nanmean(0)
        metrics = {"run/episodes": episodes.sum().float()}
        for spec, value in zip(self.env.task_specs, returns.tolist(), strict=True):
            if value == value:
                metrics[f"explore/return/{spec.label}"] = torch.tensor(value)
        if (mean := _mean_return(returns)) is not None:
            metrics["explore/mean"] = torch.tensor(mean)
        metrics |= {f"faults/{name}": torch.tensor(count) for name, count in self.env.fault_counts(faults).items()}
        pl_module.log_dict(metrics, batch_size=1)

    def mean_return(self) -> float | None:
        """The mean of the last training returns of tasks that have one; None if no task has."""
        return _mean_return(self.last_return)

    def _log_axis(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Makes simulator steps per task the x axis of all metrics of this update (Lightning's key ``step``)."""
        steps = torch.tensor(self.env_steps_due(trainer), dtype=torch.float64)
        updates = torch.tensor(trainer.global_step, dtype=torch.float64)
        pl_module.log_dict({"step": steps, "run/env_steps": steps, "run/updates": updates}, batch_size=1)

    def run_state(self) -> dict:
        """Everything needed to resume collection; tensors and plain values."""
        return {
            "under_way": [step.to_dict() for step in self._under_way.result()],
            "env": self.env.get_state(),
            "env_steps": self._env_steps,
            "generator": self.policy.generator.get_state(),
            "running_return": self.running_return,
            "last_return": self.last_return,
            "num_episodes": self.num_episodes,
            "warmup_taken": self.warmup_taken,
        }

    def load_run_state(self, state: dict) -> None:
        """Stores a :meth:`run_state`, which is restored when training starts."""
        self._restored = state

    def share_run_state(self, states: Sequence[dict], *, rank: int, world_size: int) -> None:
        """Restores this rank's share of the counts from the run states of any number of ranks.

        Environments start new episodes. Vector steps that were not in replay yet are taken again.
        """
        steps = torch.stack([state["env_steps"] for state in states]).sum(0)
        self.env.env_steps.copy_(steps // world_size + (rank < steps % world_size))
        warmup = sum(state["warmup_taken"] for state in states)
        self.warmup_taken = warmup // world_size + int(rank < warmup % world_size)
        self.seed = later_seed(self.seed, int(steps.sum()))  # other initial states and noise than before

    def _apply(self, state: dict) -> None:
        self._lost = torch.from_numpy(self.env.set_state(state["env"]))
        self.policy.generator.set_state(state["generator"])
        for name in ("running_return", "last_return", "num_episodes"):
            getattr(self, name).copy_(state[name])
        self.warmup_taken = state["warmup_taken"]
        self._env_steps = state["env_steps"]
        self._under_way = _done([TensorDict(step, [self.env.num_slots]) for step in state["under_way"]])

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if self._thread is not None:
            self._thread.shutdown()
        if hasattr(self, "collector"):
            self.collector.shutdown()


def _mean_return(returns: Tensor) -> float | None:
    """The mean over tasks that have a return, which the others have as NaN; None if no task has."""
    known = returns[~returns.isnan()]
    return float(known.mean()) if len(known) else None


def _done(steps: list[TensorDictBase]) -> Future[list[TensorDictBase]]:
    future: Future[list[TensorDictBase]] = Future()
    future.set_result(steps)
    return future
