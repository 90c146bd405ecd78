"""Acting by the policy first: how much of the run, and that the planner's own actions stay what they were."""

from __future__ import annotations

import pytest
import torch

from ezm_lightning.acting import PlannerActor, PolicyActor, PolicyFirst
from ezm_lightning.callbacks.collect import Collect
from ezm_lightning.envs.multitask import MultiTaskEnv
from ezm_lightning.model import PackedModel
from ezm_lightning.planner import Planner

ROWS = 64


@pytest.fixture
def planner(make_model) -> PlannerActor:
    plan = Planner(num_simulations=4, max_num_considered_actions=4, num_candidates=4, num_policy_candidates=2)
    return PlannerActor(plan, PackedModel(make_model(wake=True).eval(), dtype=torch.float32))


def acted(actor) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    obs, task = torch.randn(ROWS, 6, generator=torch.Generator().manual_seed(0)), torch.arange(ROWS) % 3
    return actor.act(obs, task, generator, explore=True)


def test_without_a_share_it_is_the_planner_to_the_bit(planner) -> None:
    first, alone = acted(PolicyFirst(planner)), acted(planner)
    assert first.keys() == alone.keys() and all(torch.equal(first[key], alone[key]) for key in alone)


def test_with_all_of_it_nothing_is_planned(planner) -> None:
    actor = PolicyFirst(planner)
    actor.share, actor.planner = 1.0, None
    found = acted(actor)
    assert torch.equal(found["action"], acted(PolicyActor(planner.model, sample=True))["action"])
    assert found["search_value"].isnan().all()


def test_what_was_not_planned_has_no_search_value(planner) -> None:
    actor = PolicyFirst(planner)
    actor.share = 0.5
    found = acted(actor)
    without = found["search_value"].isnan()
    drawn = acted(PolicyActor(planner.model, sample=True))["action"]
    assert ROWS / 4 < without.sum() < 3 * ROWS / 4
    assert torch.equal(found["action"][without], drawn[without])
    assert not torch.equal(found["action"][~without], drawn[~without])


def test_the_share_falls_evenly_between_its_two_ends() -> None:
    """Test 10 of the specification: 1 up to 2 %, a half at 7 %, 0 from 12 % on."""
    env = MultiTaskEnv(["tests.runs.short/point"])
    collect = Collect(env, env_steps_per_update=1, warmup_env_steps=2, policy_share=[0.02, 0.12])
    shares = [collect.share_of_policy(progress) for progress in (0.0, 0.02, 0.07, 0.12, 0.5)]
    assert shares == pytest.approx([1, 1, 0.5, 0, 0])
    assert Collect(env, env_steps_per_update=1, warmup_env_steps=2).share_of_policy(0.0) == 0
    with pytest.raises(ValueError, match=r"collect.policy_share=\[0.5,0.1\] must be two shares"):
        Collect(env, env_steps_per_update=1, warmup_env_steps=2, policy_share=[0.5, 0.1])


def test_an_agent_that_does_not_plan_is_refused() -> None:
    env = MultiTaskEnv(["tests.runs.short/point"])
    collect = Collect(env, env_steps_per_update=1, warmup_env_steps=2, policy_share=[0.1, 0.5])
    collect.actor = PolicyActor(None)
    with pytest.raises(ValueError, match="the agent's PolicyActor makes no plans"):
        collect._explorer()
