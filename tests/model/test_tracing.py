"""Traced plans: the same to the bit for any inputs and weights; a trace for each model and batch size."""

from __future__ import annotations

import copy
import gc

import pytest
import torch

from benchmarks.search import make_model
from benchmarks.sizes import config, planner_of, roots
from ezm_lightning.model import PackedModel

CFG = config("small")


@pytest.fixture
def model():
    model = make_model(CFG)
    generator = torch.Generator().manual_seed(1)
    for weight in model.parameters():
        weight.add_(0.05 * torch.randn(weight.shape, generator=generator))  # heads that say something
    return model


def plan(planner, model: PackedModel, batch_size: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    obs, task = roots(CFG, batch_size, "cpu")
    noise = planner.sample_noise(model, batch_size, generator, explore=True)
    return planner(model, obs + torch.randn(obs.shape, generator=generator), task, noise)


def planners():
    traced = planner_of(CFG)
    plain = copy.copy(traced)
    plain.traces = None
    return traced, plain


def num_traces(planner) -> list[int]:
    return [len(each) for each in planner.traces._of_model.values()]


def test_plans_are_the_same_to_the_bit(model):
    traced, plain = planners()
    packed = PackedModel(model)
    for batch_size in (1, 5):
        for seed in range(6):  # the interpreter settles on its final form within the first calls
            ours, expected = plan(traced, packed, batch_size, seed), plan(plain, packed, batch_size, seed)
            for name, value in expected.items():
                assert torch.equal(getattr(ours, name), value), (name, batch_size, seed)
    assert num_traces(traced) == [2]


@pytest.mark.parametrize("trained", [False, True])
def test_new_weights_are_read(model, trained):
    """Also those that were equal to others when the plan was traced, as before training."""
    traced, plain = planners()
    model = model if trained else make_model(CFG)
    packed = PackedModel(model)
    before = plan(traced, packed, 2, seed=0)
    for weight in model.parameters():
        weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    packed.refresh_()
    after = plan(traced, packed, 2, seed=0)
    assert not torch.equal(before.search_value, after.search_value)
    assert torch.equal(after.search_value, plan(plain, packed, 2, seed=0).search_value)


def test_each_model_has_traces_of_its_own_and_they_end_with_it(model):
    traced, _ = planners()
    one, other = PackedModel(model), PackedModel(make_model(CFG))
    assert not torch.equal(plan(traced, one, 2, seed=0).search_value, plan(traced, other, 2, seed=0).search_value)
    assert num_traces(traced) == [1, 1]
    del one
    gc.collect()
    assert num_traces(traced) == [1]


def test_the_plain_model_and_large_batches_stay_plain(model):
    traced, _ = planners()
    plan(traced, model, 1, seed=0)
    assert not PackedModel(model).traceable(10_000)
    plan(traced, PackedModel(model), 200, seed=0)
    assert num_traces(traced) == []
