"""Targets by hand, from a model whose values and a planner whose searches are known."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ezm_lightning.model.inference import InitialInference, RecurrentInference
from ezm_lightning.ops.losses import path_consistency_loss
from ezm_lightning.ops.support import Support, decode, two_hot
from ezm_lightning.planner import Planner, PlannerNoise
from ezm_lightning.policy_target import BestAction
from ezm_lightning.reanalyze import Reanalyzer
from ezm_lightning.types import Batch, Prediction, SearchOutput, Targets
from ezm_lightning.value_mix import AgeShare, SearchShare, TDShare, VarianceShare
from tests.windows import GAMMA, N_STEPS, K, windows


class KnownModel(nn.Module):
    """The latent is the observation; its two value heads say obs[0] and obs[0] + 1."""

    value_support = Support(-300.0, 300.0, 601)
    num_value_heads = 2

    def initial_inference(self, obs: Tensor, task: Tensor) -> InitialInference:
        logits = two_hot(obs[..., :1] + torch.arange(2.0), self.value_support).log()
        return InitialInference(obs, decode(logits, self.value_support), torch.zeros(*task.shape, 1))


DISCOUNTS = [0.5, 0.9, 0.99]  # of three tasks
MIXED = [(5, None), (4, 3), (2, None), (5, None), (3, 2), (2, None)]  # length of a window, and its terminal row


class TaskModel(KnownModel):
    """Its three value heads say obs[0] + 20 task, and 1 and 2 more."""

    num_value_heads = 3

    def initial_inference(self, obs: Tensor, task: Tensor) -> InitialInference:
        return InitialInference(obs, obs[..., :1] + 20 * task[:, None] + torch.arange(3.0), torch.zeros(len(obs), 1))


class KnownPlanner(Planner):
    """Its search finds 1000 + obs[0] and the action (obs[1], task); the heads' variance is 0.5."""

    def sample_noise(self, *_, **__) -> None:
        return None

    def __call__(self, model: nn.Module, obs: Tensor, task: Tensor, noise: PlannerNoise) -> SearchOutput:
        n = len(obs)
        return SearchOutput(
            best_action=torch.stack([obs[:, 1], task.float()], 1),
            search_value=1000 + obs[:, 0],
            action_weights=torch.zeros(n, 1),
            candidates=torch.zeros(n, 1, 2),
            qvalues=torch.zeros(n, 1),
            visit_counts=torch.zeros(n, 1, dtype=torch.int64),
            root_value=obs[:, 0],
            root_value_variance=torch.full((n,), 0.5),
            batch_size=[n],
        )


def analyze(
    batch: Batch, share: nn.Module | None = None, *, ratio: float = 1.0, seed: int = 0, step: int = 0, **kwargs
):
    value_floor, model = kwargs.pop("value_floor", None), kwargs.pop("model", None) or KnownModel()
    planner = KnownPlanner(discount=kwargs.pop("discount", GAMMA), value_floor=value_floor)
    options = {"policy_target": BestAction(), "ratio": ratio, **kwargs}
    reanalyzer = Reanalyzer(planner, unroll_steps=K, td_steps=N_STEPS, **options)
    return reanalyzer(batch, model, share or TDShare(), step, torch.Generator().manual_seed(seed))[0]


def assert_rows(ours: Tensor, expected: list[list[float]]) -> None:
    """Equal where a number is expected; None is not looked at."""
    for b, row in enumerate(expected):
        for k, x in enumerate(row):
            if x is not None:
                assert ours[b, k].item() == pytest.approx(x, rel=1e-4), (b, k)


def test_td_value_inside_an_episode():
    targets = analyze(windows([5], [False]))
    assert_rows(targets.value_td, [[1 + 1.8 + 0.81 * 30, 2 + 2.7 + 0.81 * 40, 3 + 3.6 + 0.81 * 50]])
    assert targets.reward.tolist() == [[1, 2]]
    assert targets.value_valid.all() and targets.policy_valid.all() and targets.reward_valid.all()


def test_td_value_is_not_bootstrapped_after_termination():
    """Four rows: the last reward is 3; two rows: 1."""
    targets = analyze(windows([4, 2], [True, True]))
    assert_rows(targets.value_td, [[1 + 1.8 + 0.81 * 30, 2 + 0.9 * 3, 3], [1, 0, None]])
    assert targets.value_valid.tolist() == [[True] * 3, [True, True, False]]
    assert targets.policy_valid.tolist() == [[True] * 3, [True, False, False]]
    assert targets.reward_valid.tolist() == [[True, True], [True, False]]


def test_td_value_is_bootstrapped_after_truncation_and_in_an_open_episode():
    """Both end in an ordinary row: o_3 of value 40, o_1 of value 20."""
    targets = analyze(windows([4, 2], [False, False]))
    expected = [[1 + 1.8 + 0.81 * 30, 2 + 2.7 + 0.81 * 40, 3 + 0.9 * 40], [1 + 0.9 * 20, 20, None]]
    assert_rows(targets.value_td, expected)
    assert targets.policy_valid.tolist() == [[True] * 3, [True, True, False]]


def test_bootstrap_value_is_the_minimum_of_two_heads_or_the_mean_of_all():
    batch = windows([2], [False])
    assert_rows(analyze(batch).value_td, [[1 + 0.9 * 20, 20]])
    assert_rows(analyze(batch, bootstrap_from_mean=True).value_td, [[1 + 0.9 * 20.5, 20.5]])


@pytest.mark.parametrize("heads", [1, 2, 3])
def test_td_values_are_those_of_the_windows_task(heads):
    """Bootstrapped and discounted by task, from the smallest of some random heads, or the mean of all."""
    batch = windows([length for length, _ in MIXED], [final is not None for _, final in MIXED])
    options = {"model": TaskModel(), "discount": DISCOUNTS}
    found = {analyze(batch, seed=seed, bootstrap_heads=heads, **options).value_td[0, 0].item() for seed in range(12)}
    assert sorted(found) == pytest.approx([1 + 0.5 * 2 + 0.25 * (30 + offset) for offset in range(4 - heads)])
    targets = analyze(batch, bootstrap_from_mean=True, **options)
    for b, (length, final) in enumerate(MIXED):
        gamma = DISCOUNTS[b % 3]
        for k in range(min(K + 1, length)):
            last = min(k + N_STEPS, length - 1)
            value = 0.0 if last == final else 10 * (last + 1) + 20 * (b % 3) + 1
            wanted = sum(gamma ** (j - k) * (j + 1) for j in range(k, last)) + gamma ** (last - k) * value
            assert targets.value_td[b, k].item() == pytest.approx(wanted, rel=1e-4), (b, k)


def test_bootstrap_value_is_floored_but_not_that_of_a_terminal_state():
    for mean in (False, True):
        targets = analyze(windows([2, 2], [False, True]), value_floor=25.0, bootstrap_from_mean=mean)
        assert_rows(targets.value_td, [[1 + 0.9 * 25, 25], [1, 0]])


def test_search_value_and_policy_target_belong_to_their_row():
    batch = windows([5, 5, 5, 5], [False] * 4)
    targets = analyze(batch, SearchShare())
    torch.testing.assert_close(targets.value_search, 1000 + batch.obs[:, : K + 1, 0])
    torch.testing.assert_close(targets.value, targets.value_search)
    torch.testing.assert_close(targets.action[..., 0, 0], batch.obs[:, : K + 1, 1])
    assert targets.action[..., 0, 1].tolist() == [[0] * 3, [1] * 3, [2] * 3, [0] * 3]
    assert (targets.value_variance == 0.5).all()


def test_a_terminal_state_is_worth_nothing_whatever_a_search_says():
    targets = analyze(windows([2], [True]), SearchShare())
    assert targets.value[0].tolist()[:2] == [1010, 0]
    assert targets.policy_valid[0].tolist() == [True, False, False]


def test_mixed_value_follows_the_share():
    class Quarter(nn.Module):
        needs_variance = False

        def forward(self, batch, variance, valid, step):
            return torch.full_like(variance, 0.25)

    targets = analyze(windows([5, 4], [False, True]), Quarter())
    torch.testing.assert_close(targets.value, 0.25 * targets.value_td + 0.75 * targets.value_search)


def test_targets_outside_the_episode_are_finite():
    targets = analyze(windows([1, 2, 3], [False, True, False]))
    for name in ("reward", "value", "value_td", "value_search", "action", "action_weights"):
        assert getattr(targets, name).isfinite().all(), name


def test_the_batch_is_left_as_it_was():
    batch = windows([5, 4, 2], [False, True, False])
    before = batch.clone()
    analyze(batch, ratio=0.5)
    assert (batch == before).all()


@pytest.mark.parametrize("ratio", [-0.5, 1.5, float("nan")])
def test_ratio_must_be_a_share(ratio):
    with pytest.raises(ValueError, match=r"must be a number in \[0, 1\]"):
        Reanalyzer(Planner(), policy_target=BestAction(), unroll_steps=K, td_steps=N_STEPS, ratio=ratio)


# --- ratio < 1: windows that keep their old search


def fresh_rows(targets: Targets) -> Tensor:
    """Stored search values are below −100, fresh ones above 1000."""
    return targets.value_search[:, 0] > 1000


def test_ratio_0_searches_nothing():
    """No target of a policy; values are those of TD, or of the searches that acted."""
    batch = windows([5, 4, 2], [False, True, False])
    reanalyzer = Reanalyzer(None, policy_target=None, unroll_steps=K, td_steps=N_STEPS, ratio=0.0)
    reanalyzer.planner = KnownPlanner(discount=GAMMA)
    reanalyzer.planner.sample_noise = None  # a search would ask for it
    targets, search = reanalyzer(batch, KnownModel(), TDShare(), 0, torch.Generator().manual_seed(0))
    assert search is None and not targets.policy_valid.any() and not targets.action_weights.any()
    torch.testing.assert_close(targets.value, analyze(batch, ratio=0.5).value)
    stored = analyze(batch, SearchShare(), ratio=0.0)
    known = batch.extras["search_value"][:, : K + 1].isfinite() & batch.valid[:, 1 : K + 2]
    expected = torch.where(known, batch.extras["search_value"][:, : K + 1], stored.value_td)
    torch.testing.assert_close(stored.value, torch.where(batch.final[:, : K + 1], 0.0, expected))


@pytest.mark.parametrize("ratio, count", [(0.01, 1), (0.25, 2), (0.5, 4), (0.9, 7)])
def test_ratio_is_the_share_of_fresh_windows(ratio, count):
    batch = windows([5] * 8, [False] * 8)
    share = sum(fresh_rows(analyze(batch, ratio=ratio, seed=seed)).float() for seed in range(60)) / 60
    assert share.sum().item() == pytest.approx(count)
    assert (share > 0).all() or count == 1
    assert share.max() < 1


def test_windows_not_searched_keep_their_value_and_have_no_policy_target():
    batch = windows([5] * 6, [False] * 6)
    targets = analyze(batch, SearchShare(), ratio=0.5)
    fresh = fresh_rows(targets)
    assert fresh.sum() == 3
    assert targets.policy_valid.tolist() == [[bool(f)] * 3 for f in fresh]
    torch.testing.assert_close(targets.value[~fresh], batch.extras["search_value"][~fresh, : K + 1])
    torch.testing.assert_close(targets.value[fresh], 1000 + batch.obs[fresh, : K + 1, 0])
    torch.testing.assert_close(targets.action[fresh, :, 0, 0], batch.obs[fresh, : K + 1, 1])


def test_variance_of_windows_not_searched_is_that_of_the_heads():
    """v and v + 1: 1/4."""
    targets = analyze(windows([5] * 4, [False] * 4), VarianceShare(num_tasks=4), ratio=0.5)
    torch.testing.assert_close(targets.value_variance, torch.full((4, 3), 0.25), rtol=1e-2, atol=0)


def test_steps_without_a_search_lean_on_td():
    """Row 1 was collected without a search."""
    batch = windows([5] * 6, [False] * 6)
    batch.extras["search_value"][:, 1] = torch.nan
    targets = analyze(batch, SearchShare(), ratio=0.5)
    fresh = fresh_rows(targets)
    torch.testing.assert_close(targets.value[~fresh, 1], targets.value_td[~fresh, 1])
    torch.testing.assert_close(targets.value[~fresh, 2], batch.extras["search_value"][~fresh, 2])
    assert targets.value_valid.all() and targets.value.isfinite().all()


def test_the_last_row_of_an_episode_has_no_old_search():
    """Its observation was never acted on: fresh windows search it, the others bootstrap."""
    batch = windows([3] * 6, [False] * 6)
    targets = analyze(batch, SearchShare(), ratio=0.5)
    fresh = fresh_rows(targets)
    assert targets.policy_valid[fresh].all()
    torch.testing.assert_close(targets.value[~fresh, 2], torch.full((3,), 30.0), rtol=1e-4, atol=0)
    torch.testing.assert_close(targets.value[fresh, 2], torch.full((3,), 1030.0))


def test_path_consistency_does_not_ask_who_was_searched():
    """A row without a policy target is not a terminal one: the value after it counts."""
    batch = windows([5, 5, 3, 3, 2, 4], [False, False, False, True, True, False])
    batch.extras["search_value"][:, 1:3] = torch.nan
    g = torch.Generator().manual_seed(0)
    prediction = Prediction(
        latent=torch.zeros(6, K + 1, 1),
        reward_logits=torch.randn(6, K, 11, generator=g),
        value_logits=torch.randn(6, K + 1, 2, 11, generator=g),
        policy_mean=torch.zeros(6, K + 1, 2),
        policy_log_std=torch.zeros(6, K + 1, 2),
        batch_size=[6],
    )
    supports = {"reward_support": Support(-5.0, 5.0, 11), "value_support": Support(-30.0, 90.0, 11)}
    losses = [path_consistency_loss(prediction, analyze(batch, ratio=r), **supports, discount=0.9) for r in (1.0, 0.5)]
    torch.testing.assert_close(losses[0], losses[1])


def test_the_optimiser_step_reaches_the_value_mix():
    """AgeShare believes TD before its start, and search for old transitions after it."""
    batch = windows([5], [False], age=torch.tensor([9]))
    mix = AgeShare(start_step=100, newest=3)
    before, after = (analyze(batch, mix, step=step) for step in (99, 100))
    torch.testing.assert_close(before.value, before.value_td)
    torch.testing.assert_close(after.value, after.value_search)


# --- returns corrected for today's policy


class SteeredModel(KnownModel):
    """Its policy is tanh(0.5 + noise / e); an action a pays 10 a and leads to a latent of value obs[0] + 100 a."""

    action_mask = torch.ones(3, 2)

    def embed(self, task: Tensor) -> Tensor:
        return torch.zeros(*task.shape, 1)

    def represent_policy(self, obs: Tensor, task: Tensor) -> tuple[Tensor, Tensor]:
        return self.initial_inference(obs, task).latent, torch.zeros(len(obs), 1)

    def policy(self, policy_input: Tensor) -> tuple[Tensor, Tensor]:
        shape = (*policy_input.shape[:-1], 2)
        return torch.full(shape, 0.5), torch.full(shape, -1.0)

    def recurrent_inference(self, latent: Tensor, action: Tensor, embedding: Tensor, heads: Tensor):
        assert heads.tolist() == [[0, 1]] * action.shape[1]
        value = latent[..., :1] + 100 * action[..., :1] + torch.arange(2.0)
        return RecurrentInference(10 * action[..., 0], latent, value, latent)


class TaskSteeredModel(SteeredModel):
    """Policy, latent and its three heads depend on the task; two dimensions are paid, of which task 1 lacks one."""

    num_value_heads, action_mask = 3, torch.tensor([[1.0, 1.0], [1.0, 0.0], [1.0, 1.0]])

    def embed(self, task: Tensor) -> Tensor:
        return task[:, None].float()

    def represent_policy(self, obs: Tensor, task: Tensor) -> tuple[Tensor, Tensor]:
        return obs[:, :1] + 20 * task[:, None], task[:, None].float()

    def policy(self, policy_input: Tensor) -> tuple[Tensor, Tensor]:
        return (0.5 + 0.1 * policy_input).expand(-1, 2), torch.full((len(policy_input), 2), -30.0)

    def recurrent_inference(self, latent: Tensor, action: Tensor, embedding: Tensor, heads: Tensor):
        assert heads.tolist() == [[0, 1, 2]] * action.shape[1]
        value = latent + 100 * action[..., :1] + 7 * embedding[:, None] + torch.arange(3.0)
        return RecurrentInference(10 * action.sum(-1), latent, value, latent)


def steered(batch: Batch, model: nn.Module | None = None, discount=GAMMA, **options) -> Targets:
    planner = KnownPlanner(discount=discount)
    reanalyzer = Reanalyzer(planner, policy_target=BestAction(), unroll_steps=K, td_steps=N_STEPS, **options)
    return reanalyzer(batch, model or SteeredModel(), TDShare(), 0, torch.Generator().manual_seed(0))[0]


@pytest.mark.parametrize("trace_decay", [0.0, 0.7, 1.0])
def test_corrected_values_by_hand(trace_decay):
    """Windows inside an episode, terminated at o_3 and truncated at o_1."""
    batch = windows([5, 4, 2], [False, True, False])
    batch.action = batch.action / 100
    targets = steered(batch, trace_decay=trace_decay)
    now = np.tanh(0.5 + torch.randn(3, 5, 2, generator=torch.Generator().manual_seed(0)).numpy()[..., 0] / np.e)
    look_ahead = lambda obs, a: 10 * a + GAMMA * (obs + 100 * a)  # noqa: E731
    for b, (length, final) in enumerate([(5, None), (4, 3), (2, None)]):
        drawn = [0.0 if j == final else look_ahead(10 * (j + 1), now[b, j]) for j in range(length)]
        taken = [look_ahead(10 * (j + 1), (j - 50) / 100) for j in range(length)]
        for k in range(min(K + 1, length)):
            wanted, factor = drawn[k], 1.0
            for j in range(k, min(k + N_STEPS, length - 1)):
                wanted += factor * ((j + 1) + GAMMA * drawn[j + 1] - taken[j])
                factor *= GAMMA * trace_decay
            assert targets.value[b, k].item() == pytest.approx(0.0 if k == final else wanted, rel=1e-4)


@pytest.mark.parametrize("trace_decay", [0.0, 0.7])
def test_corrected_values_are_those_of_the_windows_task(trace_decay):
    batch = windows([length for length, _ in MIXED], [final is not None for _, final in MIXED])
    batch.action = batch.action / 100
    targets = steered(batch, TaskSteeredModel(), DISCOUNTS, trace_decay=trace_decay, bootstrap_heads=3)
    for b, (length, final) in enumerate(MIXED):
        task, gamma, now = b % 3, DISCOUNTS[b % 3], np.tanh(0.5 + 0.1 * (b % 3))
        look_ahead = lambda j, a, c: 10 * (a + c) + gamma * (10 * (j + 1) + 27 * task + 100 * a)  # noqa: E731, B023
        drawn = [0.0 if j == final else look_ahead(j, now, 0.0 if task == 1 else now) for j in range(length)]
        taken = [look_ahead(j, (j - 50) / 100, (j - 50) / 100) for j in range(length)]
        for k in range(min(K + 1, length)):
            steps = range(k, min(k + N_STEPS, length - 1))
            errors = ((gamma * trace_decay) ** (j - k) * (j + 1 + gamma * drawn[j + 1] - taken[j]) for j in steps)
            wanted = drawn[k] + sum(errors)
            assert targets.value[b, k].item() == pytest.approx(0.0 if k == final else wanted, rel=1e-4), (b, k)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"trace_decay": 1.5}, "trace_decay=1.5 must lie in"), ({"bootstrap_heads": 0}, "bootstrap_heads=0 must be")],
)
def test_returns_that_cannot_be_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        steered(windows([5], [False]), **options)


# --- with a real model


def test_the_same_generator_makes_the_same_targets(make_model, make_batch):
    model, batch = make_model(wake=True).eval(), make_batch()
    planner = Planner(num_simulations=8, max_num_considered_actions=4, num_candidates=4, num_policy_candidates=2)
    reanalyzer = Reanalyzer(planner, policy_target=BestAction(), unroll_steps=3, td_steps=3)
    first, second, other = (
        reanalyzer(batch, model, SearchShare(), 0, torch.Generator().manual_seed(seed))[0] for seed in (0, 0, 1)
    )
    assert (first == second).all()
    assert not torch.equal(first.value_search, other.value_search)
    assert not first.value.requires_grad
    mask = model.action_mask[batch.task].bool()[:, None].expand(-1, 4, -1)
    assert (first.action.squeeze(2)[~mask] == 0).all()


def test_searches_are_those_of_the_planner_row_by_row(make_model, make_batch):
    model, batch = make_model(wake=True).eval(), make_batch()
    planner = Planner(num_simulations=8, num_candidates=4, num_policy_candidates=2, gumbel_scale=1.0)
    targets, search = Reanalyzer(planner, policy_target=BestAction(), unroll_steps=3, td_steps=3)(
        batch, model, SearchShare(), 0, torch.Generator().manual_seed(0)
    )
    noise = planner.sample_noise(model, 24, torch.Generator().manual_seed(0), explore=True)
    flat = planner(model, batch.obs[:, :4].flatten(0, 1), batch.task.repeat_interleave(4), noise)
    assert search.batch_size == (6, 4)
    torch.testing.assert_close(targets.value_search, flat.search_value.view(6, 4))
    torch.testing.assert_close(targets.action, flat.best_action.view(6, 4, 1, 3))
