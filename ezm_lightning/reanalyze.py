"""Batch -> Targets: new plans at every position of a window with the target model (EZ-M sections 4.3, 4.4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ezm_lightning.model import Inference
from ezm_lightning.ops import squashed_gaussian
from ezm_lightning.ops.per_task import as_column
from ezm_lightning.ops.returns import bootstrap_index, corrected_return, mixed_value, n_step_return
from ezm_lightning.planner import Planner
from ezm_lightning.policy_target import BestAction, ImprovedPolicy
from ezm_lightning.ranges import SHARE, Count, Share
from ezm_lightning.types import Batch, SearchOutput, Targets


class Reanalyzer:
    """Makes all targets of a batch under the target model.

    The TD value bootstraps n steps ahead, through truncation and not through termination. The search value and the
    policy target come from a new search at each of the K+1 positions. ``ratio`` in [0, 1] is the share of windows that
    are searched. The other windows use the search value stored when acting and have no policy target, since an older
    policy acted. ``policy_target`` makes the policy's target. A bootstrap value is the minimum of ``bootstrap_heads``
    random heads (2, as in search), or the mean of all with ``bootstrap_from_mean``. With ``trace_decay`` λ in [0, 1]
    n-step returns are corrected to those of the current policy (:func:`corrected_return`); None: no correction.
    """

    def __init__(
        self,
        planner: Planner,
        *,
        policy_target: BestAction | ImprovedPolicy,
        unroll_steps: Count,
        td_steps: Count,
        ratio: Share = 1.0,
        bootstrap_from_mean: bool = False,
        bootstrap_heads: Count = 2,
        trace_decay: Share | None = None,
    ) -> None:
        SHARE.check("reanalyzer.ratio", ratio)
        self.planner, self.policy_target = planner, policy_target
        self.unroll_steps, self.td_steps, self.ratio = unroll_steps, td_steps, ratio
        if trace_decay is not None and not 0 <= trace_decay <= 1:
            raise ValueError(f"reanalyzer.trace_decay={trace_decay} must lie in [0, 1], or null for plain returns")
        if bootstrap_heads < 1:
            raise ValueError(f"reanalyzer.bootstrap_heads={bootstrap_heads} must be at least 1")
        self.bootstrap_from_mean, self.bootstrap_heads = bootstrap_from_mean, bootstrap_heads
        self.trace_decay = trace_decay

    @torch.no_grad()
    def __call__(
        self, batch: Batch, model: Inference, value_mix: nn.Module, step: int, generator: torch.Generator
    ) -> tuple[Targets, SearchOutput | None]:
        """The targets, and the new searches [B', K+1] (for the log), None if there are none."""
        k1 = self.unroll_steps + 1
        valid, final = batch.valid[:, :k1], batch.final[:, :k1]
        rows = self._fresh_rows(batch, generator)
        search = self.search(batch[rows], model, generator) if self.ratio > 0 else None
        searched = torch.zeros_like(valid)
        searched[rows] = True
        action, weights = self._policy_target(batch, rows, search)
        value_search, has_value, variance = self._merge(batch, rows, search, model, bool(value_mix.needs_variance))
        make_value = self._td_value if self.trace_decay is None else self._corrected_value
        value_td = make_value(batch, model, generator)
        share = value_mix(batch, variance, valid, step)
        targets = Targets(
            reward=batch.reward[:, : self.unroll_steps],
            value=torch.where(final, 0.0, mixed_value(value_td, value_search, torch.where(has_value, share, 1.0))),
            value_td=value_td,
            value_search=torch.where(has_value, value_search, torch.nan),
            value_variance=variance,
            action=action,
            action_weights=weights,
            reward_valid=batch.valid[:, 1:k1],
            value_valid=valid,
            policy_valid=valid & ~final & searched,
            terminal=final,
            batch_size=batch.batch_size,
        )
        return targets, search

    def _fresh_rows(self, batch: Batch, generator: torch.Generator) -> Tensor | slice:
        """The windows to search: all, a random share, or none."""
        if self.ratio == 1:
            return slice(None)
        order = torch.randperm(len(batch), generator=generator, device=generator.device)
        return order[: max(1, round(self.ratio * len(batch))) if self.ratio > 0 else 0]

    def search(self, batch: Batch, model: Inference, generator: torch.Generator) -> SearchOutput:
        """New searches at the K+1 positions of every window; batch_size [B, K+1]."""
        k1 = self.unroll_steps + 1
        obs = batch.obs[:, :k1].flatten(0, 1)
        task = batch.task.repeat_interleave(k1)
        noise = self.planner.sample_noise(model, len(obs), generator, explore=True)
        return self.planner(model, obs, task, noise).reshape(len(batch), k1)

    def _policy_target(self, batch: Batch, rows: Tensor | slice, search: SearchOutput | None) -> tuple[Tensor, Tensor]:
        """Actions [B, K+1, c, A] and their weights [B, K+1, c]; 0 without a search."""
        valid = batch.valid[:, : self.unroll_steps + 1]
        if search is None:
            weights = batch.reward.new_zeros(*valid.shape, 1)
            return weights[..., None].expand(*weights.shape, batch.action.shape[-1]), weights
        action, weights = (_placed(x, rows, valid) for x in self.policy_target(search))
        return action, weights

    def _merge(
        self, batch: Batch, rows: Tensor | slice, search: SearchOutput | None, model: Inference, needs_variance: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Search value (new, else stored), whether it exists, and the variance of the value heads, each [B, K+1]."""
        if search is not None and self.ratio == 1:
            has_value = torch.ones_like(search.search_value, dtype=torch.bool)
            return search.search_value, has_value, search.root_value_variance
        k1 = self.unroll_steps + 1
        stored = batch.extras["search_value"][:, :k1]
        value, has_value = stored.nan_to_num(), stored.isfinite() & batch.valid[:, 1 : k1 + 1]
        if search is not None:
            value[rows], has_value[rows] = search.search_value, True
        variance = torch.zeros_like(value)
        if needs_variance:
            variance = _head_values(model, batch.obs[:, :k1], batch.task).var(-1, unbiased=False)
        return value, has_value, variance

    def _td_value(self, batch: Batch, model: Inference, generator: torch.Generator) -> Tensor:
        """n-step returns [B, K+1] bootstrapped from the target model's value; 0 at a terminal state."""
        index = bootstrap_index(batch.valid, self.unroll_steps, self.td_steps)  # [B, K+1]
        obs = batch.obs.gather(1, index[..., None].expand(-1, -1, batch.obs.shape[-1]))
        value = self._bootstrap(_head_values(model, obs, batch.task), generator)
        value = torch.where(batch.final.gather(1, index), 0.0, value)
        discount = self.planner.discount_of(batch.task)
        target = n_step_return(batch.reward, batch.valid, value, td_steps=self.td_steps, discount=discount)
        return torch.where(batch.final[:, : self.unroll_steps + 1], 0.0, target)

    def _bootstrap(self, head_values: Tensor, generator: torch.Generator) -> Tensor:
        """One value [...] of head_values [..., V]."""
        if self.bootstrap_from_mean:
            return self.planner.floor(head_values.mean(-1))
        order = torch.rand(head_values.shape[-1], generator=generator, device=generator.device).argsort()
        return self.planner.min_of_heads(head_values, order[: self.bootstrap_heads])

    def _corrected_value(self, batch: Batch, model: Inference, generator: torch.Generator) -> Tensor:
        """Q^π(λ) [B, K+1] of the current policy, estimated with one of its actions; 0 at a terminal state."""
        width = batch.valid.shape[1]
        latent, policy_input = model.represent_policy(batch.obs.flatten(0, 1), batch.task.repeat_interleave(width))
        mean, log_std = (x.unflatten(0, (-1, width)) for x in model.policy(policy_input))
        noise = torch.randn(mean.shape, generator=generator, device=generator.device)
        drawn = squashed_gaussian.sample(mean, log_std, noise, model.action_mask[batch.task][:, None])
        action = torch.cat([drawn, batch.action[:, :-1]], 1)  # the last stored action leads out of the window
        latent = latent.unflatten(0, (-1, width))
        latent = torch.cat([latent, latent[:, :-1]], 1)
        heads = torch.arange(model.num_value_heads, device=latent.device).expand(latent.shape[1], -1)
        step = model.recurrent_inference(latent, action, model.embed(batch.task), heads)
        q = step.reward + as_column(self.planner.discount_of(batch.task)) * self._bootstrap(step.head_values, generator)
        return corrected_return(
            batch.reward,
            batch.valid,
            torch.where(batch.final, 0.0, q[:, :width]),
            q[:, width:],
            num_positions=self.unroll_steps + 1,
            td_steps=self.td_steps,
            discount=self.planner.discount_of(batch.task),
            trace_decay=self.trace_decay or 0.0,
        )


def _placed(x: Tensor, rows: Tensor | slice, valid: Tensor) -> Tensor:
    """x [B', K+1, ...] at ``rows`` of a batch shaped like valid [B, K+1]; 0 in the other rows."""
    placed = x.new_zeros(*valid.shape, *x.shape[2:])
    placed[rows] = x
    return placed


def _head_values(model: Inference, obs: Tensor, task: Tensor) -> Tensor:
    """Every value head [B, K+1, V] at the observations [B, K+1, D] of windows of tasks [B]."""
    k1 = obs.shape[1]
    return model.initial_inference(obs.flatten(0, 1), task.repeat_interleave(k1)).head_values.unflatten(0, (-1, k1))
