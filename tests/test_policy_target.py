"""What the policy is fitted to, against loops over candidates; with a search of known scores."""

import math

import pytest
import torch

from ezm_lightning.policy_target import BestAction, ImprovedPolicy
from ezm_lightning.types import SearchOutput

B, K1, C, A = 2, 3, 4, 2


@pytest.fixture
def search() -> SearchOutput:
    g = torch.Generator().manual_seed(0)
    scores = torch.randn(B, K1, C, generator=g)
    return SearchOutput(
        best_action=torch.rand(B, K1, A, generator=g),
        search_value=torch.zeros(B, K1),
        action_weights=scores.softmax(-1),
        candidates=torch.rand(B, K1, C, A, generator=g),
        qvalues=scores,
        visit_counts=torch.ones(B, K1, C, dtype=torch.int64),
        root_value=torch.zeros(B, K1),
        root_value_variance=torch.zeros(B, K1),
        batch_size=[B, K1],
    )


def test_the_best_action_is_the_only_one(search):
    action, weights = BestAction()(search)
    assert torch.equal(action, search.best_action.unsqueeze(2))
    assert torch.equal(weights, torch.ones(B, K1, 1))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_improved_policy_is_softmax_of_scores_over_temperature(search, temperature):
    action, weights = ImprovedPolicy(temperature=temperature)(search)
    assert torch.equal(action, search.candidates)
    for b in range(B):
        for k in range(K1):
            powers = [math.exp(float(search.qvalues[b, k, c]) / temperature) for c in range(C)]
            for c in range(C):
                assert weights[b, k, c].item() == pytest.approx(powers[c] / sum(powers), rel=1e-5)


def test_a_cold_improved_policy_is_the_best_scored_candidate(search):
    _, weights = ImprovedPolicy(temperature=1e-3)(search)
    assert torch.equal(weights.argmax(-1), search.qvalues.argmax(-1))
    torch.testing.assert_close(weights.amax(-1), torch.ones(B, K1))


def test_a_candidate_without_weight_stays_without(search):
    """A weight can underflow to 0; that is no NaN."""
    search.action_weights[0, 0] = torch.tensor([1.0, 0.0, 0.0, 0.0])
    _, weights = ImprovedPolicy(temperature=2.0)(search)
    assert weights[0, 0].tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_a_temperature_must_be_positive(temperature):
    with pytest.raises(ValueError, match=rf"policy_target.temperature={temperature} must be positive"):
        ImprovedPolicy(temperature=temperature)
