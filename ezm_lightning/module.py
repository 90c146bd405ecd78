"""The algorithm on one screen: ``EZM.training_step`` is targets → unroll → losses → weighted sum → log."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.utilities import GradClipAlgorithmType
from tensordict import TensorDictBase
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from ezm_lightning import diagnostics
from ezm_lightning.acting import PlannerActor, PolicyActor
from ezm_lightning.clipped_targets import ClippedTargets
from ezm_lightning.memory_plan import Part, saved_bytes, training_bytes
from ezm_lightning.model import PackedModel, WorldModel
from ezm_lightning.model.compiling import compiled
from ezm_lightning.model.packed.check import check_packed
from ezm_lightning.model.target import TargetModel
from ezm_lightning.ops import losses as loss
from ezm_lightning.ops import squashed_gaussian
from ezm_lightning.ops.seeds import rank_generator
from ezm_lightning.ops.support import decode
from ezm_lightning.ranges import CountFrom0, NotNegative, Positive, Share
from ezm_lightning.reanalyze import Reanalyzer
from ezm_lightning.reward_scale import TaskRewardScale
from ezm_lightning.temperature import FixedTemperature, TunedTemperature
from ezm_lightning.types import Batch, Prediction, SearchOutput, Targets
from ezm_lightning.value_gradient import ValueGradient

PRIORITY_FLOOR = 1e-6
LOSSES = (
    "reward", "value", "policy", "consistency", "path_consistency", "value_gradient", "entropy", "temperature", "bc",
)  # fmt: skip


class EZM(L.LightningModule):
    """EfficientZero-Multitask: trains a world model on replayed windows; the targets come from its own slow copy.

    ``loss_coefs`` has one coefficient per loss, by name; the entropy's is multiplied by ``temperature``.
    ``ema_half_life`` is the target model's half-life in optimiser steps. The learning rate is multiplied by
    ``lr_final_factor`` for the last ``lr_final_share`` of training. Rewards are learned in the units of
    ``reward_scale``; None: unscaled. ``search_model`` makes the form of the target model that searches read. The actor
    uses the target model if ``act_with_target``, else the learner. ``compile`` has arguments of ``torch.compile`` for
    :meth:`unroll_and_compare` (``mode: reduce-overhead``: CUDA graphs); None: not compiled. ``trained`` names the
    networks of the model that learn, the others are frozen; None: all learn. ``logged_windows`` are searched for the
    log if targets need no search; with 0 the log has no numbers of a search.
    """

    def __init__(
        self,
        *,
        model: WorldModel,
        reanalyzer: Reanalyzer,
        value_mix: nn.Module,
        value_gradient: ValueGradient,
        temperature: FixedTemperature | TunedTemperature,
        loss_coefs: dict[str, NotNegative],
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
        ema_half_life: Positive,
        lr_final_factor: Share = 0.1,
        lr_final_share: Share = 0.1,
        reward_scale: TaskRewardScale | None = None,
        search_model: Callable[[WorldModel], PackedModel] = PackedModel,
        act_with_target: bool = True,
        compile: dict[str, Any] | None = None,
        trained: Sequence[str] | None = None,
        logged_windows: CountFrom0 = 4,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.model, self.logged_windows = model, logged_windows
        if trained is not None:
            model.train_only_(trained)
        self.target = TargetModel(model, half_life=ema_half_life, make_search_form=search_model)
        check_packed(model, search_model)
        self.reanalyzer, self.value_mix, self.act_with_target = reanalyzer, value_mix, act_with_target
        self.value_gradient, self.temperature = value_gradient, temperature
        self.reward_scale = reward_scale
        names = reward_scale.names if reward_scale else [f"task {index}" for index in range(len(model.obs_mask))]
        self.clipped = ClippedTargets(names, reward_support=model.reward_support, value_support=model.value_support)
        if type(self).losses is EZM.losses and loss_coefs.keys() != set(LOSSES):
            differ = ", ".join(sorted(loss_coefs.keys() ^ set(LOSSES)))
            raise ValueError(f"module.loss_coefs must name the losses {', '.join(LOSSES)}; these differ: {differ}")
        if loss_coefs.get("policy", 0) > 0 and reanalyzer.ratio == 0:
            raise ValueError(
                f"module.loss_coefs.policy={loss_coefs['policy']} fits the policy to searches, of which"
                " reanalyzer.ratio=0 makes none; try reanalyzer.ratio=0.125"
            )
        if compile is not None and loss_coefs.get("value_gradient", 0) > 0:  # AOTAutograd (2.13) mixes up its outputs
            raise ValueError("module.compile needs module.loss_coefs.value_gradient=0; or leave module.compile=null")
        if value_mix.needs_variance and model.num_value_heads < 2:
            raise ValueError("value_mix=variance compares value heads, model.num_value_heads=1; nearest: 2")
        self.loss_coefs = dict(loss_coefs)
        self.make_optimizer = optimizer
        self.lr_final_factor, self.lr_final_share = lr_final_factor, lr_final_share
        self.seed = seed
        self.generator = torch.Generator()  # replaced on the right device when training starts
        self.last_losses: dict[str, Tensor] = {}
        self.window_loss: Tensor | None = None  # [B], between the loss and its backward pass
        self.losses_by_task: dict[str, Tensor] = {}  # each [T], of the last update that was logged
        self.distributions: dict[str, Tensor] = {}  # of that update, for histograms
        self._policy_before: tuple[Tensor, Tensor] | None = None  # before an update that is logged
        self._targets: Targets | None = None  # of that update
        self.learn = compiled(self.unroll_and_compare, compile)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Returns the loss, and each window's new priority with its index in replay."""
        batch = self.reward_scale(batch) if self.reward_scale is not None else batch
        with torch.autocast(self.device.type, enabled=False):  # a search in bf16 picks other actions
            targets, search = self.reanalyzer(
                batch, self.target.search_form, self.value_mix, self.global_step, self.generator
            )
        self.update_obs_norm_(batch)
        k1, action_dim = targets.value.shape[1], batch.action.shape[-1]
        noise = torch.randn(len(batch), k1, action_dim, generator=self.generator, device=self.device)
        prediction, losses, priority = self.learn(batch, targets, noise, *self.draw_keep(batch))
        if losses.keys() != self.loss_coefs.keys():
            raise ValueError(f"loss_coefs has keys {sorted(self.loss_coefs)}, the losses are {sorted(losses)}")
        self.last_losses = {name: value.detach().mean() for name, value in losses.items()}
        if (self.global_step + 1) % self.trainer.log_every_n_steps == 0:  # the loggers write after this update
            with torch.autocast(self.device.type, enabled=False):
                self.log_step(batch, targets, search, prediction, losses)
        self.window_loss = self.weighted_loss(batch, losses)
        return {"loss": self.window_loss.mean(), "priority": priority, "index": batch.index}

    def draw_keep(self, batch: Batch) -> tuple[Tensor, ...]:
        """Which windows [B] keep their task's residual, drawn once per update; empty if all keep it."""
        drop = getattr(self.model.task_embedding, "drop_residual", 0.0)
        if drop == 0:
            return ()
        return (torch.rand(len(batch), generator=self.generator, device=self.device) >= drop,)

    def unroll_and_compare(
        self, batch: Batch, targets: Targets, noise: Tensor, keep: Tensor | None = None
    ) -> tuple[Prediction, dict[str, Tensor], Tensor]:
        """The unroll over a batch, its losses, each window's new priority [B]; noise [B, K+1, A] draws actions.

        Root, unroll and observed latents of a window get the same embedding, with the residual if its ``keep`` [B].
        """
        action = batch.action[:, : targets.reward.shape[1]]
        embedding = None if keep is None else self.model.task_embedding(batch.task, keep)
        prediction = self.model.unroll(batch.obs[:, 0], action, batch.task, embedding)
        replaced = {} if embedding is None else {"embedding": embedding}
        losses = self.losses(batch, targets, prediction, noise, **replaced)
        return prediction.detach(), losses, self.priority(prediction, targets)

    def losses(
        self, batch: Batch, targets: Targets, prediction: Prediction, noise: Tensor, embedding: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Every loss by name, each [B]; ``embedding`` [B, E] replaces the tasks'."""
        model, k = self.model, targets.reward.shape[1]
        mask = model.action_mask[batch.task]
        along = None if embedding is None else embedding[:, None].expand(-1, k, -1)
        with torch.no_grad():
            next_latent = model.represent(batch.obs[:, 1 : k + 1], batch.task[:, None].expand(-1, k), along)
            observed = model.project(next_latent)
        predicted = model.predict_projection(prediction.latent[:, 1:])
        acts = targets.value_valid & ~targets.terminal
        entropy = loss.policy_entropy(prediction, acts, mask, noise)
        return {
            "reward": loss.reward_loss(prediction, targets, model.reward_support),
            "value": loss.value_loss(prediction, targets, model.value_support),
            "policy": loss.policy_loss(prediction, targets, mask),
            "consistency": loss.consistency_loss(predicted, observed, targets.reward_valid),
            "path_consistency": loss.path_consistency_loss(
                prediction,
                targets,
                reward_support=model.reward_support,
                value_support=model.value_support,
                discount=self.reanalyzer.planner.discount_of(batch.task),
            ),
            "value_gradient": self.value_gradient_loss(batch, prediction, noise, acts),
            "entropy": -self.temperature(batch.task) * entropy,
            "temperature": self.temperature.loss(batch.task, entropy, mask.sum(-1) * acts.sum(-1) / k),
            "bc": self.cloning_loss(batch, prediction, mask),
        }

    def value_gradient_loss(self, batch: Batch, prediction: Prediction, noise: Tensor, acts: Tensor) -> Tensor:
        """−(r̂ + γ v̂) over its range [B], under the target model; 0, not computed, if its coefficient is 0."""
        if self.loss_coefs["value_gradient"] == 0:
            return noise.new_zeros(len(batch))
        q = self.value_gradient(self.target.model, prediction, batch.task, noise, acts)
        return loss.masked_mean_over_unroll(-q, acts, acts.shape[1] - 1)

    def cloning_loss(self, batch: Batch, prediction: Prediction, mask: Tensor) -> Tensor:
        """−log π(demonstrated action) [B], 0 for other windows; not computed where its coefficient is 0."""
        if self.loss_coefs["bc"] == 0:
            return batch.weight.new_zeros(len(batch))
        return loss.cloning_loss(prediction, batch, mask)

    def weighted_loss(self, batch: Batch, losses: dict[str, Tensor]) -> Tensor:
        """Each window's weighted losses times its importance weight [B]; the loss is their mean."""
        return batch.weight * sum(self.loss_coefs[name] * value for name, value in losses.items())

    def gradient_parts(self) -> dict[str, list[nn.Parameter]]:
        """The parts of the model whose gradients are compared between tasks (figure 3), by name.

        Raises ValueError if unroll and losses are compiled: only one backward pass goes through a compiled graph.
        """
        if self.learn != self.unroll_and_compare:
            raise ValueError("the gradients of tasks are compared without torch.compile: module.compile=null")
        model = self.model
        parts = {
            "dynamics": (model.dynamics,),
            "reward": (model.action_embedding, model.reward, model.reward_head),
            "value_policy": (model.trunk, model.value_heads, model.policy_head),
        }
        return {name: [p for part in networks for p in part.parameters()] for name, networks in parts.items()}

    def on_after_backward(self) -> None:
        self.window_loss = None

    @torch.no_grad()
    def priority(self, prediction: Prediction, targets: Targets) -> Tensor:
        """|mean of the value heads − value target| at k = 0, plus 1e-6; [B]."""
        value = decode(prediction.value_logits[:, 0], self.model.value_support).mean(-1)
        return (value - targets.value[:, 0]).abs() + PRIORITY_FLOOR

    def update_obs_norm_(self, batch: Batch) -> None:
        """Merges the root observations of all ranks into the model's statistics."""
        obs, task = batch.obs[:, 0], batch.task
        if self.trainer.world_size > 1:
            obs, task = (self.all_gather(x).flatten(0, 1) for x in (obs, task))
        if self.model.obs_norm.moves:
            self.model.obs_norm.update_(obs, self.model.obs_mask[task], task)

    @torch.no_grad()
    def merge_batch_norms_(self) -> None:
        """Sets the batch norms' running statistics to the mean of all ranks; every rank then saves the same model."""
        if self.trainer.world_size == 1:
            return
        norms = [module for module in self.model.modules() if isinstance(module, nn.BatchNorm1d)]
        statistics = [x for norm in norms for x in (norm.running_mean, norm.running_var) if x is not None]
        if statistics:
            merged = self.all_gather(torch.cat(statistics)).mean(0)
            torch._foreach_copy_(statistics, list(merged.split([len(x) for x in statistics])))

    def update_target_(self) -> None:
        """Moves the target model one update towards the learner, once the ranks' batch norms agree."""
        self.merge_batch_norms_()
        self.target.ema_update_(self.model)
        self.target.refresh_()

    def make_actor(self, *, own_weights: bool = False) -> PlannerActor:
        """Plans with the target model, or with the learner if ``act_with_target`` is false."""
        shared = self.act_with_target and not own_weights
        model = self.target.model if self.act_with_target else self.model
        packed = self.target.search_form if shared else self.target.make_search_form(model)
        return PlannerActor(self.reanalyzer.planner, packed, own_weights=not shared)

    def other_actors(self) -> dict[str, PolicyActor]:
        """The policy without a search, to measure what the search adds."""
        packed = self.make_actor().model
        return {"policy mean": PolicyActor(packed), "policy sample": PolicyActor(packed, sample=True)}

    def memory_parts(self, batch_size: int, *, device: str, own_weights: bool) -> list[Part]:
        """The memory of a rank that draws ``batch_size`` windows on ``device``; ``self`` is on 'meta'.

        The backward pass is measured in float32, of two windows of two and of three steps: each step adds as much.
        """
        weights, k = list(self.model.parameters()), self.reanalyzer.unroll_steps
        target = [*weights, *self.model.buffers(), *self.model.buffers()]
        packed = sum(x.nbytes for x in self.target.make_search_form(self.target.model).weights.tensors())
        packed *= 2 if own_weights or not self.act_with_target else 1
        model = training_bytes(weights, self.make_optimizer) + sum(x.nbytes for x in target) + packed
        (_, obs_dim), (_, action_dim) = self.model.obs_mask.shape, self.model.action_mask.shape

        def unroll(steps: int) -> None:
            action, task = torch.empty(2, steps, action_dim), torch.zeros(2, dtype=torch.int64)
            latent = self.model.unroll(torch.empty(2, obs_dim), action, task).latent
            self.model.predict_projection(latent[:, 1:])

        two, three = (saved_bytes(partial(unroll, steps), [*weights, *self.model.buffers()]) for steps in (2, 3))
        learning = batch_size * (two + (k - 2) * (three - two)) // 2
        roots = max(round(self.reanalyzer.ratio * batch_size) * (k + 1), 1)  # one root: the search that acts
        search = self.reanalyzer.planner.search_bytes(self.model, num_roots=roots)
        return [
            Part("model", model, device),
            Part("search", search, device, about=True),
            Part("learning", learning, device, about=True),
        ]

    def on_vector_step(self, step: TensorDictBase) -> None:
        """Passes the rewards of the warm-up to the reward scale."""
        if self.reward_scale is not None:
            self.reward_scale.watch_(step)

    def rank_state(self) -> dict[str, Any]:
        return {"generator": self.generator.get_state()}

    def load_rank_state(self, state: dict[str, Any]) -> None:
        self.generator.set_state(state["generator"])

    def log_step(
        self,
        batch: Batch,
        targets: Targets,
        search: SearchOutput | None,
        prediction: Prediction,
        losses: dict[str, Tensor],
    ) -> None:
        """Logs the losses and the numbers worth watching, and keeps the losses by task and the histograms."""
        search = self._shown(search, batch)
        temperature = self.temperature(batch.task)
        metrics = diagnostics.metrics(self.model, batch, targets, search, prediction, self.last_losses, temperature)
        self._policy_before, self._targets = diagnostics.root_policy(self.model, batch), targets
        self.log_dict(metrics, batch_size=len(batch))
        self.losses_by_task = loss.mean_by_task(losses, batch.task, len(self.model.action_mask))
        self.distributions = diagnostics.distributions(targets, search)

    def _shown(self, search: SearchOutput | None, batch: Batch) -> SearchOutput | None:
        """The searches to log: those of the targets if there are any, else a few more from a generator of their own."""
        if search is not None or self.logged_windows == 0:
            return search
        generator = torch.Generator(self.device).manual_seed(self.global_step)
        return self.reanalyzer.search(batch[: self.logged_windows], self.target.search_form, generator)

    def task_embeddings(self) -> Tensor:
        """One row per task [T, E]. It reads a copy, since a look-up with a bounded norm changes the weight."""
        embedding = copy.deepcopy(self.model.task_embedding)
        return embedding(torch.arange(self.model.num_tasks, device=self.device)).detach()

    @torch.no_grad()
    def on_train_batch_end(self, outputs: dict[str, Tensor], batch: Batch, batch_idx: int) -> None:
        """Logs how far a logged update has moved the policy, and warns if its targets were clipped."""
        if self._policy_before is not None:
            mask = self.model.action_mask[batch.task]
            after = diagnostics.root_policy(self.model, batch)
            kl = squashed_gaussian.kl_divergence(*self._policy_before, *after, mask)
            self.log("policy/kl_of_update", kl.mean(), batch_size=len(batch))
            self._warn_of_clipped(batch)
            self._policy_before = self._targets = None

    def _warn_of_clipped(self, batch: Batch) -> None:
        scale = self.reward_scale.scale.tolist() if self.reward_scale else [1.0] * len(self.model.obs_mask)
        if self.global_rank == 0 and self._targets is not None:
            self.clipped.check(self._targets, batch.task, scale, update=self.global_step - 1)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Lightning's clipping, also for a fused optimiser in bf16. Lightning refuses this case because a fused
        optimiser unscales gradients itself, but in bf16 no scaler has scaled them."""
        precision = self.trainer.precision_plugin
        if gradient_clip_val and getattr(precision, "scaler", None) is None:
            algorithm = GradClipAlgorithmType(gradient_clip_algorithm or "norm")
            Precision.clip_gradients(precision, optimizer, gradient_clip_val, algorithm)
        else:
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def configure_optimizers(self) -> dict:
        """The optimiser, and a learning rate that drops once, counted in updates."""
        optimizer = self.make_optimizer(self.parameter_groups())
        drop_at = (1 - self.lr_final_share) * self.trainer.max_steps
        schedule = LambdaLR(optimizer, lambda step: 1.0 if step < drop_at else self.lr_final_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def parameter_groups(self) -> Any:
        """The optimiser's parameters; the tasks' residual has its own weight decay and is a separate group."""
        learned = [*self.model.parameters(), *self.temperature.parameters()]
        residual = getattr(self.model.task_embedding, "residual", None)
        if residual is None:
            return learned
        residual_group = {"params": [residual], "weight_decay": self.model.task_embedding.residual_decay}
        return [{"params": [x for x in learned if x is not residual]}, residual_group]

    def on_fit_start(self) -> None:
        """Fixes the reward scale, since the warm-up has ended."""
        if self.reward_scale is not None:
            self.reward_scale.fix_(self.all_gather if self.trainer.world_size > 1 else None)
        self.generator = rank_generator(self.seed, self.global_rank, self.device)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        if device.type == "cuda" and not batch.obs.is_cuda:
            batch = batch.pin_memory(num_threads=0)  # a copy from memory that is not pinned would block the host
        return batch.to(device, non_blocking=True)
