"""Planning with the world model: draws continuous candidates, searches them, returns the best.

The search (``ezm_lightning.search``) is discrete and knows no actions. Here each node's embedding carries its
candidate actions; ``recurrent_fn`` gathers the chosen one, steps the model and draws the next candidates. All noise is
an input, so a plan is a deterministic function. The same planner acts and reanalyzes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, cast

import torch
from torch import Tensor

from ezm_lightning.model import Inference, WorldModel
from ezm_lightning.model.compiling import compiled
from ezm_lightning.model.inference import InitialInference
from ezm_lightning.ops import squashed_gaussian
from ezm_lightning.ops.per_task import PerTask
from ezm_lightning.ranges import Count, CountFrom0, NotNegative, PerTaskShareAbove0, Positive, Range, check_discounts
from ezm_lightning.search import RecurrentOutput, RootOutput, gumbel_search

if TYPE_CHECKING:
    from ezm_lightning.types import SearchOutput


@dataclass(frozen=True)
class PlannerNoise:
    """All random numbers of one call: standard normals for candidates, Gumbels, and the value heads to read."""

    root: Tensor  # [B, C, A]
    node: Tensor  # [B, N, c, A], for the candidates of the node that each simulation creates
    gumbel: Tensor  # [B, C]
    heads: Tensor  # [N+1, 2] int64: two value heads for the root (row 0) and each simulation; [N+1, 1] of one head


class Planner:
    """Batched Gumbel search over actions sampled from the policy (EZ-M section 4, EfficientZero-V2 section 4.2).

    At the root the first ``num_policy_candidates`` of ``num_candidates`` come from N(μ, σ), the rest from
    N(μ, ``std_multiplier``·σ). With ``mean_candidate`` the first is μ. At inner nodes the first half of
    ``num_leaf_candidates`` comes from N(μ, σ). Prior logits are uniform. A value is the minimum of two value heads
    drawn per simulation, at least ``value_floor``. Without Gumbels, as in every evaluation, the candidates considered
    are the first ``max_num_considered_actions``. ``discount`` is one number, or one per task. ``gumbel_scale`` 0
    means no noise at the root (the authors' runs), 1 is Danihelka et al. 2022. ``compile`` has arguments of
    ``torch.compile`` for plans (on a GPU ``mode: reduce-overhead`` makes CUDA graphs); None: not compiled.

    A plan steps the model ``num_simulations`` times: sequential halving begins with ``max_num_considered_actions``
    candidates and later keeps the better half. A score is (``c_visit`` + the most visits of a candidate) ·
    ``c_scale`` · q, with q scaled to [0, 1] by the returns of the tree (Danihelka et al. 2022, eq. 8).
    """

    def __init__(
        self,
        *,
        num_simulations: Count = 32,
        max_num_considered_actions: Count = 16,
        num_candidates: Count = 16,
        num_policy_candidates: CountFrom0 = 4,
        num_leaf_candidates: Count = 2,
        std_multiplier: Positive = 3.0,
        mean_candidate: bool = False,
        discount: PerTaskShareAbove0 = 0.99,
        c_visit: NotNegative = 50.0,
        c_scale: NotNegative = 0.1,
        gumbel_scale: NotNegative = 0.0,
        value_floor: Annotated[float, Range()] | None = None,
        compile: dict[str, Any] | None = None,
    ) -> None:
        if not 0 <= num_policy_candidates <= num_candidates:
            raise ValueError(f"num_policy_candidates={num_policy_candidates} must lie in [0, {num_candidates}]")
        self.num_simulations = num_simulations
        self.max_num_considered_actions = max_num_considered_actions
        self.num_candidates = num_candidates
        self.num_leaf_candidates = num_leaf_candidates
        check_discounts(discount)
        self.discount, self.discount_of = discount, PerTask(discount).of
        self.c_visit, self.c_scale, self.gumbel_scale = c_visit, c_scale, gumbel_scale
        self.value_floor = value_floor
        self._run = compiled(type(self).entries, compile)  # unbound: a copy of the planner uses its own settings
        self._run_latent = compiled(type(self).latent_entries, compile)
        self.num_policy_candidates, self.std_multiplier = num_policy_candidates, std_multiplier
        self.mean_candidate = mean_candidate

    def sample_noise(
        self, model: Inference, batch_size: int, generator: torch.Generator, *, explore: bool
    ) -> PlannerNoise:
        """New noise for ``batch_size`` roots on the generator's device; the Gumbels are 0 without ``explore``."""
        b, c, n, a = batch_size, self.num_candidates, self.num_simulations, model.action_mask.shape[-1]
        on: Any = {"generator": generator, "device": generator.device}
        gumbel = torch.zeros(b, c, device=generator.device)
        if explore and self.gumbel_scale > 0:
            gumbel = -torch.log(torch.empty(b, c, device=generator.device).exponential_(generator=generator))
        root = torch.randn(b, c, a, **on)
        if self.mean_candidate:
            root[:, 0] = 0
        return PlannerNoise(
            root=root,
            node=torch.randn(b, n, self.num_leaf_candidates, a, **on),
            gumbel=gumbel * self.gumbel_scale,
            heads=torch.rand(n + 1, model.num_value_heads, **on).argsort(-1)[:, :2],
        )

    def __call__(self, model: Inference, obs: Tensor, task: Tensor, noise: PlannerNoise) -> SearchOutput:
        """The plan for obs [B, D] of tasks [B] under ``model`` (in eval mode)."""
        from ezm_lightning.types import SearchOutput  # tensordict, which acting does without

        return SearchOutput(**self.plan(model, obs, task, noise), batch_size=[len(obs)])

    def plan(self, model: Inference, obs: Tensor, task: Tensor, noise: PlannerNoise) -> dict[str, Tensor]:
        """The entries of a plan by name."""
        return self._planned(self._run, model, obs, task, noise)

    def from_latent(self, model: Inference, latent: Tensor, task: Tensor, noise: PlannerNoise) -> dict[str, Tensor]:
        """The entries of a plan from latents [B, Z] of tasks [B], for example of predicted states."""
        return self._planned(self._run_latent, model, latent, task, noise)

    def _planned(
        self, run: Callable[..., dict[str, Tensor]], model: Inference, root: Tensor, task: Tensor, noise: PlannerNoise
    ) -> dict[str, Tensor]:
        with torch.inference_mode():  # saves a fifth of the overhead, which dominates a search of few roots
            plan = run(self, model, root, task, *vars(noise).values())
        return {name: x.clone() for name, x in plan.items()}  # ordinary tensors, which autograd accepts as targets

    def entries(self, model: Inference, obs: Tensor, task: Tensor, *random: Tensor) -> dict[str, Tensor]:
        """The entries of a SearchOutput by name: the function that is compiled and exported.

        ``random`` are the tensors of a PlannerNoise in its order.
        """
        return self._search(model, model.initial_inference(obs, task), task, PlannerNoise(*random))

    def latent_entries(self, model: Inference, latent: Tensor, task: Tensor, *random: Tensor) -> dict[str, Tensor]:
        """The entries of a SearchOutput by name, from latents [B, Z]."""
        initial = model.latent_inference(latent, model.embed(task))
        return self._search(model, initial, task, PlannerNoise(*random))

    def _search(
        self, model: Inference, initial: InitialInference, task: Tensor, noise: PlannerNoise
    ) -> dict[str, Tensor]:
        """The entries of a SearchOutput for roots with the inference ``initial``."""
        mask, embedding = model.action_mask[task], model.embed(task)  # [B, A], [B, E]
        value = self.min_of_heads(initial.head_values, noise.heads[0])
        multiplier = self.multipliers(self.num_candidates, self.num_policy_candidates, mask.device)[:, None]
        mean, log_std = model.policy(initial.policy_input[:, None])
        candidates = squashed_gaussian.sample(mean, log_std, noise.root, mask[:, None], multiplier)
        root = RootOutput(
            prior_logits=torch.zeros_like(noise.gumbel),
            value=value,
            embedding={"latent": initial.latent, "candidates": candidates},
        )
        result = gumbel_search(
            root,
            _RecurrentFn(self, model, embedding, mask, noise),
            num_simulations=self.num_simulations,
            max_num_considered_actions=self.max_num_considered_actions,
            discount=self.discount_of(task),
            gumbel=noise.gumbel,
            c_visit=self.c_visit,
            c_scale=self.c_scale,
        )
        chosen = result.best_candidate[:, None, None].expand(-1, 1, candidates.shape[-1])
        return {
            "best_action": candidates.gather(1, chosen).squeeze(1),
            "search_value": result.search_value,
            "action_weights": result.action_weights,
            "candidates": candidates,
            "qvalues": result.qvalues,
            "visit_counts": result.visit_counts,
            "root_value": value,
            "root_value_variance": initial.head_values.var(-1, unbiased=False),
        }

    def search_bytes(self, model: WorldModel, *, num_roots: int) -> int:
        """Bytes of the candidates and nodes of a batch of searches, and of the widest layers of its largest call."""
        latent_dim, trunk = model.dynamics.fc2.out_features, cast(Any, model.trunk)
        width = trunk[1].normalized_shape[0]
        action_dim = model.action_mask.shape[-1]
        root, node = self.num_candidates * 2 * action_dim, latent_dim + width + self.num_leaf_candidates * action_dim
        call = 3 * model.num_value_heads * model.value_heads.hidden_dim + 8 * latent_dim
        widest = min(self.max_num_considered_actions, self.num_candidates, self.num_simulations)
        return 4 * num_roots * (root + self.num_simulations * node + widest * call)

    def multipliers(self, num: int, num_policy: int, device: torch.device) -> Tensor:
        """The factors of σ [num] for ``num`` candidates, 1 for the first ``num_policy``; made on ``device``."""
        return torch.where(torch.arange(num, device=device) < num_policy, 1.0, self.std_multiplier)

    def min_of_heads(self, head_values: Tensor, heads: Tensor) -> Tensor:
        """The value [...] in a search: the minimum over ``heads`` [..., 2] of head_values [..., V], floored."""
        return self.floor(head_values.gather(-1, heads.expand(*head_values.shape[:-1], -1)).amin(-1))

    def floor(self, value: Tensor) -> Tensor:
        """``value``, but at least ``value_floor``."""
        return value if self.value_floor is None else value.clamp(min=self.value_floor)


class _RecurrentFn:
    """One round of the search: gathers each row's chosen candidate and steps the model.

    A node stores its policy input and noise, and only the chosen candidate is drawn from them. The search needs no
    more, since prior logits are uniform. So the policy is not evaluated at nodes without children.
    """

    def __init__(
        self, planner: Planner, model: Inference, embedding: Tensor, mask: Tensor, noise: PlannerNoise
    ) -> None:
        self.planner, self.model, self.embedding, self.mask, self.noise = planner, model, embedding, mask, noise
        leaves = planner.num_leaf_candidates
        self.multiplier = planner.multipliers(leaves, (leaves + 1) // 2, mask.device)
        self.prior_logits = torch.zeros(1, 1, planner.num_leaf_candidates, device=mask.device)

    def __call__(self, embedding: dict[str, Tensor], candidate: Tensor, simulations: range) -> RecurrentOutput:
        sims = slice(simulations.start, simulations.stop)
        action = self._root_action(embedding, candidate) if simulations.start == 0 else self._draw(embedding, candidate)
        step = self.model.recurrent_inference(embedding["latent"], action, self.embedding, self.noise.heads[1:][sims])
        return RecurrentOutput(
            reward=step.reward,
            value=self.planner.floor(step.head_values.amin(-1)),
            prior_logits=self.prior_logits.expand(*candidate.shape, -1),
            embedding={"latent": step.latent, "policy_input": step.policy_input, "noise": self.noise.node[:, sims]},
        )

    def _root_action(self, embedding: dict[str, Tensor], candidate: Tensor) -> Tensor:
        """The chosen of the root's candidates [B, k, A]."""
        return _chosen(embedding["candidates"], candidate)

    def _draw(self, embedding: dict[str, Tensor], candidate: Tensor) -> Tensor:
        """The chosen candidates of inner nodes [B, k, A], drawn from their policies with their own noise."""
        mean, log_std = self.model.policy(embedding["policy_input"])
        noise, multiplier = _chosen(embedding["noise"], candidate), self.multiplier[candidate][..., None]
        return squashed_gaussian.sample(mean, log_std, noise, self.mask[:, None], multiplier)


def _chosen(candidates: Tensor, candidate: Tensor) -> Tensor:
    """candidates[b, j, candidate[b, j]]: [B, k, A] of [B, k, c, A]."""
    index = candidate[..., None, None].expand(-1, -1, 1, candidates.shape[-1])
    return candidates.gather(2, index).squeeze(2)
