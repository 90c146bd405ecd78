"""mctx itself as an oracle: its normalisation, mixed value and inner score make our searches equal to it."""

import numpy as np
import pytest
import torch

from ezm_lightning.search import gumbel_search, mctx_score, normalise_by_node, raw_mixed_value
from tests.search.sequential import each_simulation, sequential_search

from .tabular import make_tabular

REASON = "mctx is not installed (extra `oracle`)"
mctx = pytest.importorskip("mctx", reason=REASON)
jax = pytest.importorskip("jax", reason=REASON)

BATCH, DISCOUNT = 128, 0.97
FORMULAS = {"inner_score": mctx_score, "mixed_value": raw_mixed_value, "normalise": normalise_by_node}
# num_simulations, max_num_considered_actions, actions
BUDGETS = [(16, 8, 8), (13, 4, 6)]


@pytest.fixture(autouse=True)
def float64():
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


def mctx_search(model, simulations, considered):
    """gumbel_scale -> mctx's result on this model, and the Gumbel noise that it drew."""
    tables = {name: jax.numpy.asarray(getattr(model, name).numpy()) for name in vars(model)}

    def recurrent_fn(params, rng_key, action, state):
        after = tables["next_state"][state, action]
        reward = tables["reward"][state, action]
        logits, value = tables["prior_logits"][after], tables["value"][after]
        discount = jax.numpy.full_like(reward, DISCOUNT)
        return mctx.RecurrentFnOutput(reward=reward, discount=discount, prior_logits=logits, value=value), after

    @jax.jit
    def search(gumbel_scale):
        state = tables["root_state"]
        root = mctx.RootFnOutput(prior_logits=tables["root_logits"], value=tables["value"][state], embedding=state)
        output = mctx.gumbel_muzero_policy(
            None,
            jax.random.PRNGKey(0),
            root,
            recurrent_fn,
            simulations,
            max_num_considered_actions=considered,
            gumbel_scale=gumbel_scale,
        )
        summary = output.search_tree.summary()
        return {
            "best": output.action,
            "visits": summary.visit_counts,
            "qvalues": summary.qvalues,
            "value": summary.value,
            "weights": output.action_weights,
            "gumbel": output.search_tree.extra_data.root_gumbel,
        }

    return lambda gumbel_scale: {name: np.array(x) for name, x in search(gumbel_scale).items()}


def agreement(expected, result):
    """[B] bool: where a search found what mctx found."""
    qvalues = np.where(expected["visits"] > 0, result.qvalues, expected["qvalues"])
    return (
        (expected["best"] == result.best_candidate.numpy())
        & (expected["visits"] == result.visit_counts.numpy()).all(-1)
        & np.isclose(expected["qvalues"], qvalues, rtol=0, atol=1e-9).all(-1)
        & np.isclose(expected["value"], result.search_value, rtol=0, atol=1e-9)
        & np.isclose(expected["weights"], result.action_weights, rtol=0, atol=1e-9).all(-1)
    )


def arguments(budget, gumbel):
    return {
        "num_simulations": budget[0],
        "max_num_considered_actions": budget[1],
        "discount": DISCOUNT,
        "gumbel": torch.from_numpy(gumbel),
        "min_range": 1e-8,
        **FORMULAS,
    }


@pytest.mark.parametrize("budget", BUDGETS, ids=str)
def test_sequential_searches_equal_those_of_mctx(budget):
    model = make_tabular(sum(budget), batch=BATCH, candidates=budget[2], leaf_candidates=budget[2])
    oracle = mctx_search(model, *budget[:2])
    for gumbel_scale in (0.0, 1.0):
        expected = oracle(gumbel_scale)
        result = sequential_search(
            model.root(),
            model.recurrent_fn,
            look_at_bounds=each_simulation,
            rank_candidates=each_simulation,
            **arguments(budget, expected["gumbel"]),
        )
        assert agreement(expected, result).all()


def test_phase_parallel_searches_equal_those_of_mctx():
    """mctx ranks the root anew before every simulation, on a scale that moves with each visit; ours when a round
    begins. Where scores are q-values alone (no noise, equal priors) the scale cannot change the order."""
    budget = (32, 16, 16)
    model = make_tabular(1, batch=2 * BATCH, candidates=budget[2], leaf_candidates=budget[2])
    model.root_logits = torch.zeros_like(model.root_logits)
    expected = mctx_search(model, *budget[:2])(0.0)
    result = gumbel_search(model.root(), model.recurrent_fn, **arguments(budget, expected["gumbel"]))
    assert agreement(expected, result).all()
