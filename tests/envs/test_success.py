"""``success``: from a simulator's steps to the batched environment's key, and its absence where no task has it."""

import numpy as np
import pytest
import torch
from torchrl.envs.utils import check_env_specs

from ezm_lightning.envs import MultiTaskEnv, Simulator, Transition, register_source, sources, task_spec


class Walk(Simulator):
    """Observes the step of the episode, which ends after 12."""

    obs_dim, action_dim, max_episode_steps = 1, 1, 12

    def seed(self, seed):
        pass

    def reset(self):
        self.t = 0
        return [self.t]

    def step(self, action):
        self.t += 1
        return Transition([self.t], 1.0, terminated=False)


class Goal(Walk):
    """The goal holds after step 3 alone, and after step 7, which raises."""

    reports_success = True

    def step(self, action):
        result = super().step(action)
        if self.t == 8:
            raise ArithmeticError("broken")
        return result._replace(success=self.t in (3, 7))


class Unseen(Goal):
    """Its observation cannot be used while the goal holds."""

    def step(self, action):
        result = super().step(action)
        return result._replace(obs=[np.nan]) if result.success else result


class Late(Goal):
    """Ends in step 2, before the goal."""

    def step(self, action):
        return super().step(action)._replace(terminated=self.t == 2)


class Silent(Goal):
    reports_success = False


@pytest.fixture(autouse=True)
def goals(monkeypatch):
    monkeypatch.setattr(sources, "SOURCES", dict(sources.SOURCES))
    register_source("goal", {"walk": Walk, "goal": Goal, "unseen": Unseen, "late": Late, "silent": Silent})


def rollout(env, count):
    td, steps = env.reset(), []
    for _ in range(count):
        transition, td = env.step_and_maybe_reset(td.set("action", torch.zeros(env.num_slots, 1)))
        steps.append(transition)
    return torch.stack(steps)


@pytest.mark.parametrize(
    ("repeat", "held"), [(1, [0, 0, 1, 0, 0, 0, 1]), (2, [0, 1, 0]), (3, [1, 0]), (4, [1])], ids=str
)
@pytest.mark.parametrize("num_threads", [0, 2])
def test_a_decision_succeeds_if_any_of_its_steps_does(repeat, held, num_threads):
    env = MultiTaskEnv(["goal/walk", "goal/goal"], action_repeat=repeat, num_threads=num_threads)
    success = rollout(env, len(held))["next", "success"]
    assert success.dtype == torch.bool and success.shape == (len(held), 2, 1)
    assert success[:, 1, 0].tolist() == [bool(each) for each in held]
    assert not success[:, 0].any()  # a task without success beside one that has it


def test_the_key_is_in_the_specs_and_false_after_a_reset():
    env = MultiTaskEnv(["goal/walk", "goal/goal"], envs_per_task=2)
    check_env_specs(env)
    assert env.reset()["success"].tolist() == [[False]] * 4
    assert [spec.reports_success for spec in env.task_specs] == [False, True]


def test_without_such_a_task_the_key_is_absent():
    env = MultiTaskEnv(["goal/walk"])
    check_env_specs(env)
    td = rollout(env, 2)
    assert "success" not in td and "success" not in td["next"]


def test_a_step_with_a_fault_is_no_success():
    env = MultiTaskEnv(["goal/goal"], action_repeat=8, max_fault_share=1.0)
    with pytest.warns(UserWarning, match="broken"):
        step = rollout(env, 1)
    assert not step["next", "success"].any() and step["next", "truncated"].all()
    env = MultiTaskEnv(["goal/unseen"], max_fault_share=1.0)
    with pytest.warns(UserWarning, match="not finite"):
        steps = rollout(env, 3)
    assert not steps["next", "success"].any() and env.faults.tolist() == [1]


@pytest.mark.parametrize("repeat", [3, 4])
def test_a_goal_that_holds_after_the_end_within_a_decision_is_no_success(repeat):
    step = rollout(MultiTaskEnv(["goal/late"], action_repeat=repeat, ignore_termination=True), 1)
    assert step["next", "termination"].all() and not step["next", "success"].any()


def test_a_success_that_was_not_announced_is_refused():
    with pytest.raises(ValueError, match="goal/silent returns a success, but its reports_success"):
        rollout(MultiTaskEnv(["goal/silent"]), 1)


def test_what_a_simulator_without_success_returns():
    walk = Walk()
    walk.reset()
    assert walk.advance(np.zeros(1), 3, True).success is None
    assert not task_spec("goal/walk").reports_success
