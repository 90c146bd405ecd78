"""The phase-parallel search: against the sequential one, on a bandit, and its invariances."""

from dataclasses import fields

import pytest
import torch

from ezm_lightning.search import (
    RecurrentOutput,
    RootOutput,
    gumbel_search,
    halving_rounds,
    improved_policy_score,
    mctx_score,
    mean_mixed_value,
    normalise_by_node,
    normalise_by_tree,
    prior_score,
    raw_mixed_value,
)
from tests.search.sequential import sequential_search

from .tabular import make_gumbel, make_tabular

OURS = {"inner_score": improved_policy_score, "mixed_value": mean_mixed_value, "normalise": normalise_by_tree}
RULES = {
    "ours": OURS,
    "the paper's inner rule": OURS | {"inner_score": prior_score},
    "mctx's formulas": {"inner_score": mctx_score, "mixed_value": raw_mixed_value, "normalise": normalise_by_node},
}
# num_simulations, max_num_considered_actions, candidates, leaf candidates
BUDGETS = [
    (1, 1, 1, 1),
    (1, 4, 4, 2),
    (7, 1, 3, 2),
    (8, 8, 8, 2),
    (9, 2, 5, 3),
    (13, 4, 4, 4),
    (16, 8, 8, 2),
    (20, 16, 16, 2),
    (32, 8, 16, 3),
    (32, 16, 16, 2),
    (40, 3, 6, 2),
    (50, 64, 10, 5),
]


def assert_equal(a, b):
    for field in fields(a):
        torch.testing.assert_close(getattr(a, field.name), getattr(b, field.name), rtol=0, atol=1e-9, msg=field.name)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("with_gumbel", [False, True], ids=["no noise", "gumbel"])
@pytest.mark.parametrize("budget", BUDGETS, ids=str)
def test_it_finds_what_the_sequential_search_finds(budget, with_gumbel, rule):
    simulations, considered, candidates, leaf_candidates = budget
    model = make_tabular(sum(budget), candidates=candidates, leaf_candidates=leaf_candidates, noise=0.5)
    gumbel = with_gumbel * make_gumbel(1, (16, candidates))
    arguments = {
        "num_simulations": simulations,
        "max_num_considered_actions": considered,
        "discount": 0.9,
        "gumbel": gumbel,
        **RULES[rule],
    }
    result = gumbel_search(model.root(), model.recurrent_fn, **arguments)
    assert_equal(result, sequential_search(model.root(), model.recurrent_fn, **arguments))
    assert (result.visit_counts.sum(-1) == simulations).all()


def search(model, *, simulations=32, considered=16, gumbel=None, discount=0.99, **functions):
    shape = model.root_logits.shape
    return gumbel_search(
        model.root(),
        model.recurrent_fn,
        num_simulations=simulations,
        max_num_considered_actions=considered,
        discount=discount,
        gumbel=torch.zeros(shape, dtype=torch.float64) if gumbel is None else gumbel,
        **functions,
    )


def test_a_round_is_one_call_of_the_model():
    model = make_tabular(0, candidates=16)
    calls = []
    step = model.recurrent_fn
    model.recurrent_fn = lambda embedding, candidate, simulations: (
        calls.append((candidate.shape[1], simulations, embedding["state"].shape[1])),
        step(embedding, candidate, simulations),
    )[1]
    search(model)
    assert [rows for rows, _, _ in calls] == list(halving_rounds(32, 16)) == [16, 8, 4, 4]
    assert [simulations for _, simulations, _ in calls] == [range(16), range(16, 24), range(24, 28), range(28, 32)]
    assert all(rows == len(simulations) == states for rows, simulations, states in calls)


def test_visits_are_those_of_the_schedule():
    visits = search(make_tabular(3, candidates=16)).visit_counts.sort(-1, descending=True).values
    assert (visits == torch.tensor([4] * 4 + [2] * 4 + [1] * 8)).all()


def test_one_visit_by_hand():
    root = RootOutput(torch.zeros(1, 2), torch.tensor([1.0]), {"x": torch.zeros(1)})

    def recurrent_fn(embedding, candidate, simulations):
        reward = torch.where(candidate == 0, 1.0, 3.0)
        return RecurrentOutput(reward, reward, torch.zeros(*candidate.shape, 2), {"x": embedding["x"]})

    result = gumbel_search(
        root, recurrent_fn, num_simulations=2, max_num_considered_actions=2, discount=0.5, gumbel=torch.zeros(1, 2)
    )
    torch.testing.assert_close(result.qvalues, torch.tensor([[1.5, 4.5]]))
    torch.testing.assert_close(result.search_value, torch.tensor([(1.0 + 1.5 + 4.5) / 3]))
    # bounds: 1.5, 4.5 and half of each -> [0.75, 4.5]; sigma = (50 + 1) * 0.1
    torch.testing.assert_close(result.scores, 5.1 * torch.tensor([[0.75 / 3.75, 1.0]]))
    assert result.best_candidate.tolist() == [1]


def test_the_best_arm_of_a_bandit_is_found():
    arms, batch = 16, 64
    payoff = torch.stack([torch.randperm(arms, generator=torch.Generator().manual_seed(i)) for i in range(batch)])
    root = RootOutput(
        torch.zeros(batch, arms), torch.zeros(batch), {"payoff": payoff.float(), "done": torch.zeros(batch)}
    )

    def recurrent_fn(embedding, candidate, simulations):
        pull = embedding["payoff"].gather(-1, candidate.unsqueeze(-1)).squeeze(-1) * (embedding["done"] == 0)
        after = {"payoff": embedding["payoff"], "done": torch.ones_like(embedding["done"])}
        return RecurrentOutput(pull, torch.zeros_like(pull), torch.zeros(*pull.shape, 2), after)

    for gumbel in (torch.zeros(batch, arms), make_gumbel(0, (batch, arms)).float() * 0.01):
        result = gumbel_search(
            root, recurrent_fn, num_simulations=32, max_num_considered_actions=16, discount=1.0, gumbel=gumbel
        )
        assert (result.best_candidate == payoff.argmax(-1)).all()
        torch.testing.assert_close(result.qvalues, payoff.float())


def test_roots_do_not_see_each_other():
    model, gumbel = make_tabular(5, candidates=8, noise=0.3), make_gumbel(2, (16, 8))
    together = search(model, simulations=16, considered=8, gumbel=gumbel)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    model.root_logits, model.root_state = model.root_logits[order], model.root_state[order]
    permuted = search(model, simulations=16, considered=8, gumbel=gumbel[order])
    for field in fields(together):
        torch.testing.assert_close(getattr(permuted, field.name), getattr(together, field.name)[order])


def test_permuting_the_candidates_permutes_the_result():
    model, gumbel = make_tabular(6, candidates=8), make_gumbel(3, (16, 8))
    straight = search(model, simulations=16, considered=8, gumbel=gumbel)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    model.root_logits, step = model.root_logits[:, order], model.recurrent_fn

    def recurrent_fn(embedding, candidate, simulations):
        return step(embedding, order[candidate] if simulations.start == 0 else candidate, simulations)

    model.recurrent_fn = recurrent_fn
    permuted = search(model, simulations=16, considered=8, gumbel=gumbel[:, order])
    assert (order[permuted.best_candidate] == straight.best_candidate).all()
    torch.testing.assert_close(permuted.qvalues, straight.qvalues[:, order])
    torch.testing.assert_close(permuted.search_value, straight.search_value)
    assert (permuted.visit_counts == straight.visit_counts[:, order]).all()


def test_of_identical_candidates_the_first_is_taken():
    model = make_tabular(7, candidates=16, prior_scale=0.0)
    model.next_state[:], model.reward[:] = model.next_state[:, :1], model.reward[:, :1]
    model.prior_logits[:], model.value[:] = 0, 0
    result = search(model)
    assert (result.best_candidate == 0).all()
    assert (result.visit_counts == torch.tensor([4] * 4 + [2] * 4 + [1] * 8)).all()


def test_a_masked_candidate_is_neither_visited_nor_chosen():
    model = make_tabular(8, candidates=8)
    model.root_logits[:, 2:4] = -torch.inf
    for function in (gumbel_search, sequential_search):
        result = function(
            model.root(),
            model.recurrent_fn,
            num_simulations=12,
            max_num_considered_actions=4,
            discount=0.99,
            gumbel=make_gumbel(4, (16, 8)),
        )
        assert (result.visit_counts[:, 2:4] == 0).all()
        assert not torch.isin(result.best_candidate, torch.tensor([2, 3])).any()
        assert (result.action_weights[:, 2:4] == 0).all()
        assert all(getattr(result, name).isfinite().all() for name in ("search_value", "qvalues", "action_weights"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_statistics_are_float32_at_least(dtype):
    model = make_tabular(9, candidates=8)
    for name in ("reward", "value", "prior_logits", "root_logits", "noise"):
        setattr(model, name, getattr(model, name).to(dtype))
    result = search(model, simulations=16, considered=8, gumbel=torch.zeros(16, 8))
    assert result.search_value.dtype == result.qvalues.dtype == result.scores.dtype == torch.float32


@pytest.mark.parametrize("discount", [0.0, -0.5, 1.5])
def test_a_discount_out_of_range_is_refused(discount):
    with pytest.raises(ValueError, match="discount"):
        search(make_tabular(0, candidates=16), discount=discount)


@pytest.mark.parametrize("budget", BUDGETS, ids=str)
def test_each_root_may_have_its_own_discount(budget):
    simulations, considered, candidates, leaf_candidates = budget
    model = make_tabular(7, candidates=candidates, leaf_candidates=leaf_candidates)
    gammas = torch.tensor([0.5, 0.99, 1.0, 0.9], dtype=torch.float64).repeat(4)
    mixed = search(model, simulations=simulations, considered=considered, discount=gammas)
    for gamma in (0.5, 0.99, 1.0, 0.9):
        alone = search(model, simulations=simulations, considered=considered, discount=gamma)
        own = gammas == gamma
        for name, value in vars(alone).items():
            torch.testing.assert_close(getattr(mixed, name)[own], value[own])


def test_equal_discounts_of_the_roots_are_one_number():
    model = make_tabular(8, candidates=16)
    one, each = search(model, discount=0.9), search(model, discount=torch.full((16,), 0.9, dtype=torch.float64))
    assert all(torch.equal(getattr(one, name), value) for name, value in vars(each).items())
