"""What a plan must be: a function of its noise, one of its candidates, the best one of a world that is known."""

import dataclasses
import pickle

import pytest
import torch
from torch import Tensor, nn

from ezm_lightning.model import WorldModel
from ezm_lightning.ops.support import Support, decode, two_hot
from ezm_lightning.planner import Planner, PlannerNoise

SUPPORT = Support(-300.0, 300.0, 601)


class BanditModel(nn.Module):
    """A world model's interface over a known world: the reward is −|a − a*|², every latent is the observation (a*, v).

    Value head h says v + h at a root, ``gap``·h after a step. The policy is N(0, 0.5²). Records actions asked about.
    """

    def __init__(self, action_dim: int = 2, num_value_heads: int = 3, gap: float = 0.0) -> None:
        super().__init__()
        self.gap = gap
        self.reward_support = self.value_support = SUPPORT
        self.num_value_heads, self.action_dim = num_value_heads, action_dim
        self.action_mask = torch.ones(2, action_dim)
        self.action_mask[1, 1:] = 0
        self.asked: list[Tensor] = []

    def embed(self, task: Tensor) -> Tensor:
        return torch.zeros(*task.shape, 1)

    initial_inference, latent_inference = WorldModel.initial_inference, WorldModel.latent_inference
    recurrent_inference = WorldModel.recurrent_inference

    def represent(self, obs: Tensor, task: Tensor) -> Tensor:
        return obs

    def next_latent(self, latent: Tensor, action: Tensor, embedding: Tensor) -> Tensor:
        return torch.full_like(latent, torch.nan)  # whatever comes later is paid nothing

    def reward_logits(self, latent: Tensor, action: Tensor, embedding: Tensor) -> Tensor:
        self.asked.append(action)
        reward = -(action - latent[..., : self.action_dim]).square().sum(-1)
        return two_hot(reward.nan_to_num(0.0), SUPPORT).log()

    def value_policy(self, latent: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor]:
        heads = torch.arange(self.num_value_heads)
        value = torch.where(latent[..., -1:].isnan(), self.gap * heads, latent[..., -1:] + heads)
        raw = torch.zeros(*latent.shape[:-1], 2 * self.action_dim)
        return two_hot(value, SUPPORT).log(), raw

    def policy(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = raw.chunk(2, -1)
        return mean, log_std + torch.tensor(0.5).log()


def noise_for(
    planner: Planner, model: nn.Module, batch_size: int, *, explore: bool = True, seed: int = 0
) -> PlannerNoise:
    return planner.sample_noise(model, batch_size, torch.Generator().manual_seed(seed), explore=explore)


def rows(noise: PlannerNoise, index) -> PlannerNoise:
    """The noise of these roots; the value heads are shared by all."""
    return dataclasses.replace(noise, root=noise.root[index], node=noise.node[index], gumbel=noise.gumbel[index])


@pytest.fixture
def model(make_model):
    return make_model(wake=True).eval()


@pytest.fixture
def roots(make_batch):
    batch = make_batch()
    return batch.obs[:, 0], batch.task


def test_the_same_noise_makes_the_same_plan(model, roots):
    planner = Planner(gumbel_scale=1.0)
    plans = [planner(model, *roots, noise_for(planner, model, 6)) for _ in range(2)]
    other = planner(model, *roots, noise_for(planner, model, 6, seed=1))
    for name, value in plans[0].items():
        assert torch.equal(value, getattr(plans[1], name)), name
    assert not torch.equal(plans[0].best_action, other.best_action)


def test_roots_do_not_feel_each_other(model, roots):
    """A permutation of the batch permutes the plan; a part of it is planned alike."""
    planner, (obs, task) = Planner(gumbel_scale=1.0), roots
    noise = noise_for(planner, model, 6)
    whole = planner(model, obs, task, noise)
    for index in (torch.tensor([3, 0, 5, 1, 4, 2]), torch.tensor([4]), torch.tensor([1, 2])):
        part = planner(model, obs[index], task[index], rows(noise, index))
        for name, value in part.items():
            expected = getattr(whole, name)[index]
            torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5, msg=f"{name} of {index}")


def test_best_action_is_a_candidate_of_the_tasks_own_dimensions(model, roots):
    planner, (obs, task) = Planner(), roots
    noise = noise_for(planner, model, 6)
    noise.root.mul_(4)
    plan = planner(model, obs, task, noise)
    among = (plan.candidates == plan.best_action[:, None]).all(-1)
    assert among.any(-1).all()
    assert plan.candidates.abs().max() <= 0.999
    mask = model.action_mask[task].bool()
    assert (plan.best_action[~mask] == 0).all() and (plan.best_action[mask] != 0).all()
    assert (plan.candidates.transpose(1, 2)[~mask] == 0).all()
    assert (
        plan.visit_counts.gather(1, among.int().argmax(-1, keepdim=True)) == plan.visit_counts.amax(-1)[:, None]
    ).all()


def test_visits_and_shapes_of_the_default_budget(model, roots):
    planner = Planner()
    plan = planner(model, *roots, noise_for(planner, model, 6))
    expected = torch.tensor([1] * 8 + [2] * 4 + [4] * 4).expand(6, -1)
    assert torch.equal(plan.visit_counts.sort(-1).values, expected)
    assert plan.candidates.shape == (6, 16, 3) and plan.qvalues.shape == (6, 16)
    torch.testing.assert_close(plan.action_weights.sum(-1), torch.ones(6))


def test_padded_observations_do_not_matter(model, roots):
    planner, (obs, task) = Planner(), roots
    noise = noise_for(planner, model, 6)
    dirty = torch.where(model.obs_mask[task] > 0, obs, 1e3)
    torch.testing.assert_close(planner(model, obs, task, noise).qvalues, planner(model, dirty, task, noise).qvalues)


def test_noise_in_masked_dimensions_does_not_matter(model, roots):
    planner, (obs, task) = Planner(), roots
    noise = noise_for(planner, model, 6)
    clean, mask = planner(model, obs, task, noise), model.action_mask[task].bool()
    noise.root[:] = torch.where(mask[:, None], noise.root, 9.0)
    noise.node[:] = torch.where(mask[:, None, None], noise.node, -9.0)
    torch.testing.assert_close(planner(model, obs, task, noise).qvalues, clean.qvalues)


@pytest.mark.parametrize("pair", [(0, 3), (3, 0), (2, 4)])
def test_root_value_is_the_minimum_of_the_drawn_pair(model, roots, pair):
    planner, (obs, task) = Planner(), roots
    noise = noise_for(planner, model, 6)
    noise.heads[0] = torch.tensor(pair)
    heads = decode(model.value_logits(model.represent(obs, task), model.embed(task)), model.value_support)
    plan = planner(model, obs, task, noise)
    torch.testing.assert_close(plan.root_value, torch.minimum(heads[:, pair[0]], heads[:, pair[1]]))
    torch.testing.assert_close(plan.root_value_variance, heads.var(-1, unbiased=False))


def test_each_simulation_reads_its_own_pair(model, roots):
    """Other heads for simulation 20 change some root's q-values, other heads for none change nothing."""
    planner = Planner(num_simulations=16)
    noise = noise_for(planner, model, 6)
    assert noise.heads.shape == (17, 2) and (noise.heads[:, 0] != noise.heads[:, 1]).all()
    clean = planner(model, *roots, noise).qvalues
    noise.heads[5] = (noise.heads[5] + 2) % 5
    changed = planner(model, *roots, noise).qvalues != clean
    assert changed.any(1).all()
    assert (changed.sum(1) == 1).all()  # 16 simulations visit 16 candidates once


def test_value_floor(model, roots):
    model.value_heads.body[-1].bias.data[..., :10] += 20  # values far below 0
    planner, floored = Planner(), Planner(value_floor=-1.5)
    noise = noise_for(planner, model, 6)
    assert (planner(model, *roots, noise).root_value < -10).all()
    plan = floored(model, *roots, noise)
    assert (plan.root_value == -1.5).all()
    assert (plan.qvalues > -1.5 * 0.99 - 4).all()


def test_one_value_head_is_enough(make_model, roots):
    model, planner = make_model(num_value_heads=1).eval(), Planner()
    plan = planner(model, *roots, noise_for(planner, model, 6))
    assert (plan.root_value_variance == 0).all() and plan.search_value.isfinite().all()


@pytest.mark.parametrize("gumbel_scale", [0.0, 0.1])
def test_finds_the_best_candidate_of_a_known_world(gumbel_scale):
    """The reward is −|a − a*|² and nothing follows: the plan is the candidate next to a*, whatever the root's value."""
    model, planner = BanditModel(), Planner(gumbel_scale=gumbel_scale, std_multiplier=2.0)
    g = torch.Generator().manual_seed(0)
    obs = torch.cat([torch.rand(64, 2, generator=g) * 1.6 - 0.8, torch.zeros(64, 1)], -1)
    task = torch.zeros(64, dtype=torch.int64)
    plan = planner(model, obs, task, noise_for(planner, model, 64, explore=False))
    distance = (plan.candidates - obs[:, None, :2]).square().sum(-1)
    torch.testing.assert_close((plan.best_action - obs[:, :2]).square().sum(-1), distance.amin(-1))
    assert (plan.visit_counts.gather(1, distance.argmin(-1, keepdim=True)) == 4).all()
    assert torch.equal(plan.action_weights.argmax(-1), distance.argmin(-1))
    torch.testing.assert_close(plan.qvalues, -distance, rtol=1e-2, atol=1e-3)


def test_search_value_of_a_known_world_is_the_mean_of_its_returns():
    """32 returns −|a − a*|² by visits, and the root's own value 7."""
    model, planner = BanditModel(), Planner()
    obs, task = torch.tensor([[0.3, -0.2, 7.0]]), torch.zeros(1, dtype=torch.int64)
    noise = noise_for(planner, model, 1)
    noise.heads[:] = torch.tensor([0, 1])
    plan = planner(model, obs, task, noise)
    distance = (plan.candidates - obs[:, None, :2]).square().sum(-1)
    expected = (7.0 - (distance * plan.visit_counts).sum(-1)) / 33
    torch.testing.assert_close(plan.search_value, expected, rtol=1e-3, atol=1e-3)


def test_the_model_is_asked_in_four_rounds_and_only_about_candidates():
    model, planner = BanditModel(), Planner()
    obs, task = torch.rand(5, 3), torch.tensor([0, 1, 0, 1, 1])
    plan = planner(model, obs, task, noise_for(planner, model, 5))
    assert [a.shape[1] for a in model.asked] == [16, 8, 4, 4]
    assert torch.equal(model.asked[0].sort(1).values, plan.candidates.sort(1).values)
    for action in model.asked:
        assert (action[task == 1][..., 1] == 0).all() and action.abs().max() <= 0.999


def test_inner_candidates_are_one_of_the_policy_and_one_wide():
    """σ = 0.5; in the second round every node tries its first candidate, in the following ones either."""
    model, planner = BanditModel(), Planner(std_multiplier=3.0)
    noise = noise_for(planner, model, 4)
    noise.node[:] = 1.0
    planner(model, torch.rand(4, 3), torch.zeros(4, dtype=torch.int64), noise)
    narrow, wide = torch.tensor([0.5, 1.5]).tanh()
    torch.testing.assert_close(model.asked[1], narrow.expand(4, 8, 2))
    later = torch.cat([a.flatten() for a in model.asked[2:]])
    assert (
        torch.isclose(later, narrow).logical_or(torch.isclose(later, wide)).all() and torch.isclose(later, wide).any()
    )


def test_every_simulation_has_its_own_heads_and_noise():
    """24 simulations: 16 nodes one step below the root, 8 two steps, whose values are the lower head of their pair."""
    model, planner = BanditModel(num_value_heads=6, gap=10.0), Planner(num_simulations=24)
    noise = noise_for(planner, model, 3)
    obs = torch.rand(3, 3)
    plan = planner(model, obs, torch.zeros(3, dtype=torch.int64), noise)
    lower = 10 * noise.heads.amin(-1)[1:].double()
    worth = 0.99 * lower[:16].sum() + 0.99**2 * lower[16:].sum()
    paid = -((plan.candidates - obs[:, None, :2]).square().sum(-1) * plan.visit_counts).sum(-1)
    expected = (obs[:, 2] + noise.heads[0].min() + paid + worth) / 25
    torch.testing.assert_close(plan.search_value, expected.float(), rtol=1e-3, atol=1e-3)


def test_nodes_two_steps_below_the_root_have_their_own_noise():
    """The second round makes simulations 16 to 23; the last one steps below them."""
    model, planner = BanditModel(), Planner()
    noise = noise_for(planner, model, 3)
    noise.node[:, :16], noise.node[:, 16:24], noise.node[:, 24:] = 1.0, 2.0, 0.0
    planner(model, torch.rand(3, 3), torch.zeros(3, dtype=torch.int64), noise)
    torch.testing.assert_close(model.asked[3], torch.tensor(0.5 * 2.0).tanh().expand(3, 4, 2))


@pytest.mark.parametrize("num_policy", [0, 4, 16])
def test_share_of_policy_and_wide_candidates(num_policy):
    model, planner = BanditModel(), Planner(num_policy_candidates=num_policy, std_multiplier=3.0)
    noise = noise_for(planner, model, 200)
    plan = planner(model, torch.zeros(200, 3), torch.zeros(200, dtype=torch.int64), noise)
    multiplier = torch.tensor([1.0] * num_policy + [3.0] * (16 - num_policy))[:, None]
    torch.testing.assert_close(plan.candidates, (multiplier * 0.5 * noise.root).tanh().clamp(-0.999, 0.999))


def test_gumbel_noise_only_where_one_explores():
    model = BanditModel()
    assert (noise_for(Planner(gumbel_scale=1.0), model, 50, explore=False).gumbel == 0).all()
    assert (noise_for(Planner(gumbel_scale=0.0), model, 50, explore=True).gumbel == 0).all()
    g = noise_for(Planner(gumbel_scale=2.0), model, 5000).gumbel
    assert g.mean().item() == pytest.approx(2 * 0.5772, abs=0.05)
    assert g.std().item() == pytest.approx(2 * 1.2825, abs=0.05)


def test_gumbel_noise_moves_the_choice():
    """All candidates are worth the same: the greatest Gumbel wins."""
    model, planner = BanditModel(), Planner(gumbel_scale=1.0)
    noise = noise_for(planner, model, 20)
    noise = dataclasses.replace(noise, root=torch.zeros_like(noise.root), node=torch.zeros_like(noise.node))
    plan = planner(model, torch.zeros(20, 3), torch.zeros(20, dtype=torch.int64), noise)
    assert (plan.visit_counts.gather(1, noise.gumbel.argmax(-1, keepdim=True)) == 4).all()


def test_heads_are_drawn_evenly():
    model = BanditModel(num_value_heads=3)
    heads = noise_for(Planner(num_simulations=3000, max_num_considered_actions=16), model, 1).heads
    share = torch.bincount(heads.flatten()) / len(heads)
    torch.testing.assert_close(share, torch.full((3,), 2 / 3), atol=0.04, rtol=0)


def test_a_plan_carries_no_gradient(make_model, roots):
    model, planner = make_model(wake=True).eval(), Planner()
    assert not any(x.requires_grad for x in planner(model, *roots, noise_for(planner, model, 6)).values())


@pytest.mark.parametrize("num_policy", [-1, 17])
def test_refuses_more_policy_candidates_than_candidates(num_policy):
    with pytest.raises(ValueError, match=rf"num_policy_candidates={num_policy} must lie in \[0, 16\]"):
        Planner(num_policy_candidates=num_policy)


def test_a_planner_can_be_sent_to_another_process(make_model, roots):
    """TorchRL's collectors in processes of their own pickle what acts."""
    planner, model = Planner(num_simulations=8), make_model(wake=True).eval()
    noise = planner.sample_noise(model, len(roots[0]), torch.Generator().manual_seed(0), explore=True)
    here, there = planner(model, *roots, noise), pickle.loads(pickle.dumps(planner))(model, *roots, noise)
    assert all(torch.equal(value, getattr(there, name)) for name, value in here.items())


def test_a_task_is_planned_with_its_own_discount(model, roots):
    obs, task = roots
    gammas = [0.5, 0.99, 0.9]
    planner = Planner(discount=gammas)
    noise = noise_for(planner, model, len(obs))
    mixed = planner(model, obs, task, noise)
    for index, gamma in enumerate(gammas):
        alone = Planner(discount=gamma)(model, obs, task, noise)
        for name in ("best_action", "search_value", "qvalues"):
            torch.testing.assert_close(getattr(mixed, name)[task == index], getattr(alone, name)[task == index])


@pytest.mark.parametrize("discount", [0.0, 1.5, [0.9, 1.1]])
def test_a_discount_out_of_range_is_refused(discount):
    with pytest.raises(ValueError, match=r"discount=.* must lie in \(0, 1\]"):
        Planner(discount=discount)
