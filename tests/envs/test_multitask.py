"""The batched environment: padding, episodes, counting, seeds, threads."""

import numpy as np
import psutil
import pytest
import torch
from torchrl.envs.utils import check_env_specs

from ezm_lightning.envs import MultiTaskEnv, Simulator, Transition, register_source, sources

MIXED = ["dmc/cartpole-balance", "dmc/walker-walk", "gym/Hopper-v5"]


class Counter(Simulator):
    """Observes (own seed, step of the episode); reward 1 a step; terminates at step 6 of at most 11."""

    obs_dim, action_dim, max_episode_steps = 2, 2, 11

    def seed(self, seed):
        self.own_seed = seed % 1000

    def reset(self):
        self.t = 0
        return [self.own_seed, self.t]

    def step(self, action):
        assert action.shape == (2,) and action.dtype == np.float64
        self.t += 1
        return Transition([self.own_seed, self.t], 1.0, terminated=self.t == 6)


class Wide(Counter):
    obs_dim, action_dim = 4, 3

    def reset(self):
        return [*super().reset(), 7.0, 8.0]

    def step(self, action):
        assert action.shape == (3,)
        result = super().step(action[:2])
        return result._replace(obs=[*result.obs, 7.0, 8.0], terminated=False)


@pytest.fixture(autouse=True)
def counters(monkeypatch):
    monkeypatch.setattr(sources, "SOURCES", dict(sources.SOURCES))
    register_source("count", {"narrow": Counter, "wide": Wide})


def counter_env(**kwargs):
    return MultiTaskEnv(["count/narrow", "count/wide"], **kwargs)


def steps(env, count, seed=0):
    """[T] transitions, auto-reset in between, actions from a generator of their own."""
    generator = torch.Generator().manual_seed(seed)
    td, out = env.reset(), []
    for _ in range(count):
        td["action"] = torch.rand(env.action_spec.shape, generator=generator) * 2 - 1
        transition, td = env.step_and_maybe_reset(td)
        out.append(transition)
    return torch.stack(out)


def same(a, b):
    return all(torch.equal(a[key], b[key]) for key in a.keys(True, True))


def test_specs_of_a_mixed_batch():
    env = MultiTaskEnv(MIXED, envs_per_task=2)
    check_env_specs(env)
    assert env.batch_size == (6,) and env.obs_dims == [5, 24, 11] and env.action_dims == [1, 6, 3]


def test_padding_and_masks():
    env = counter_env(envs_per_task=2)
    td = env.reset()
    assert td["task"].tolist() == env.slot_task.tolist() == [0, 0, 1, 1]
    assert td["action_mask"].tolist() == [[True, True, False]] * 2 + [[True] * 3] * 2
    assert td["obs"][:2, 2:].eq(0).all() and td["obs"][2:, 2:].tolist() == [[7, 8], [7, 8]]


def test_padded_action_dimensions_change_nothing():
    env, other = MultiTaskEnv(MIXED, seed=3), MultiTaskEnv(MIXED, seed=3)
    td, td_other = env.reset(), other.reset()
    for _ in range(5):
        action = torch.rand(3, 6) * 2 - 1
        td = env.step(td.set("action", action))["next"]
        td_other = other.step(td_other.set("action", action * td["action_mask"]))["next"]
        assert same(td, td_other)


@pytest.mark.parametrize(
    ("repeat", "rewards", "counted"), [(1, [1.0] * 6, 6), (2, [2.0] * 3, 6), (4, [4.0, 2.0], 6), (7, [6.0], 6)]
)
def test_termination_ends_an_episode_within_repeats(repeat, rewards, counted):
    env = MultiTaskEnv(["count/narrow"], action_repeat=repeat)
    rollout = steps(env, len(rewards))
    assert rollout["next", "reward"].flatten().tolist() == rewards
    assert rollout["next", "terminated"].flatten().tolist() == [False] * (len(rewards) - 1) + [True]
    assert not rollout["next", "truncated"].any() and env.env_steps.tolist() == [counted]
    assert rollout["next", "obs"][-1, 0, 1] == 6  # the final observation stays in 'next'


@pytest.mark.parametrize(("repeat", "rewards"), [(1, [1.0] * 11), (2, [2.0] * 5 + [1.0]), (4, [4.0, 4.0, 3.0])])
def test_the_time_limit_truncates(repeat, rewards):
    env = MultiTaskEnv(["count/wide"], action_repeat=repeat)
    rollout = steps(env, len(rewards) + 1)
    assert rollout["next", "reward"].flatten().tolist() == [*rewards, float(repeat)]
    assert rollout["next", "truncated"].flatten().tolist() == [False] * (len(rewards) - 1) + [True, False]
    assert not rollout["next", "terminated"].any() and rollout["obs"][-1, 0, 1] == 0
    assert env.env_steps.tolist() == [11 + repeat]


def test_ignored_termination_is_told_but_does_not_end_the_episode():
    env = MultiTaskEnv(["count/narrow"], action_repeat=2, ignore_termination=True)
    rollout = steps(env, 6)
    assert rollout["next", "termination"].flatten().tolist() == [False, False, True, False, False, False]
    assert not rollout["next", "terminated"].any()
    assert rollout["next", "truncated"].flatten().tolist() == [False] * 5 + [True]


def test_only_finished_slots_start_anew():
    env = counter_env()
    rollout = steps(env, 12)
    assert rollout["obs"][:, 0, 1].tolist() == [0, 1, 2, 3, 4, 5] * 2
    assert rollout["obs"][:, 1, 1].tolist() == [*range(11), 0]


@pytest.mark.parametrize("num_threads", [1, 2, 5, 20])
def test_threads_change_nothing(num_threads):
    plain = steps(MultiTaskEnv(MIXED, envs_per_task=3, seed=1), 60)
    env = MultiTaskEnv(MIXED, envs_per_task=3, seed=1, num_threads=num_threads)
    assert same(plain, steps(env, 60))
    env.close()


def test_seeds():
    one, two = MultiTaskEnv(MIXED, envs_per_task=2, seed=1), MultiTaskEnv(MIXED, envs_per_task=2, seed=2)
    a, b = steps(one, 30), steps(two, 30)
    assert not torch.equal(a["obs"][0], b["obs"][0])
    assert all(not torch.equal(a["obs"][0, i], a["obs"][0, i + 1]) for i in (0, 2, 4))  # slots differ
    two.set_seed(1)
    assert same(a, steps(two, 30))


def test_the_global_generators_are_left_alone():
    np.random.seed(0)
    torch.manual_seed(0)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()
    steps(MultiTaskEnv(MIXED), 3)
    assert (np.random.get_state()[1] == before[0]).all() and torch.equal(torch.get_rng_state(), before[1])


def test_returned_tensors_are_clones():
    env = counter_env()
    first = env.reset()
    kept = first["obs"].clone()
    env.step(first.clone().set("action", torch.zeros(2, 3)))
    assert torch.equal(first["obs"], kept)


def test_bad_actions_name_the_task():
    env = counter_env()
    td = env.reset()
    with pytest.raises(ValueError, match=r"count/wide \(slot 1\) is not finite"):
        env.step(td.set("action", torch.tensor([[0.0, 0, 0], [0, torch.nan, 0]])))
    with pytest.raises(ValueError, match=r"must have shape \[2, 3\], got \[2, 4\]"):
        env.step(td.set("action", torch.zeros(2, 4)))


def test_actions_outside_their_range_are_clipped():
    class Told(Counter):
        def step(self, action):
            return super().step(action)._replace(obs=action)

    register_source("told", {"it": Told})
    env = MultiTaskEnv(["told/it"])
    assert env.step(env.reset().set("action", torch.tensor([[1.5, -2.0]])))["next", "obs"].tolist() == [[1, -1]]


@pytest.mark.parametrize("bad", [{"envs_per_task": 0}, {"action_repeat": 0}, {"num_threads": -1}])
def test_bad_numbers_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        counter_env(**bad)


def test_a_simulator_that_cannot_be_saved_starts_anew():
    env, fresh = counter_env(), counter_env(seed=9)
    steps(env, 4)
    with pytest.warns(UserWarning, match="count/narrow, count/wide cannot be saved"):
        assert fresh.set_state(env.get_state()).tolist() == [True, True]
    assert fresh.reset()["obs"][:, 1].tolist() == [0, 0]
    assert fresh.env_steps.tolist() == [4, 4]


def test_a_state_of_other_tasks_is_refused():
    with pytest.raises(ValueError, match="count/narrow"):
        counter_env().set_state(MultiTaskEnv(["count/narrow"]).get_state())


def test_closing_gives_the_simulators_memory_back():
    def resident() -> float:
        return psutil.Process().memory_info().rss / 2**20

    before = resident()
    env = MultiTaskEnv(["dmc/walker-walk"], envs_per_task=20)
    pins = [bytes(100_000) for _ in range(20)]  # what stays above the simulators keeps them from being the heap's top
    full = resident()
    env.close()
    assert full - before > 100 and resident() - before < 0.5 * (full - before), (before, full, resident(), len(pins))


def test_each_task_may_repeat_its_actions_otherwise():
    env = MultiTaskEnv(["count/narrow", "count/wide"], envs_per_task=2, action_repeat=[1, 3])
    rollout = steps(env, 2)
    assert rollout["next", "reward"][0].flatten().tolist() == [1, 1, 3, 3]
    assert env.env_steps.tolist() == [2 * 2 * 1, 2 * 2 * 3] and env.vector_step == 2 * (1 + 3)


@pytest.mark.parametrize(("repeat", "said"), [([1, 0], "at least 1, got 0"), ([1, 2, 3], "3 numbers for 2 tasks")])
def test_repeats_that_do_not_fit_are_refused(repeat, said):
    with pytest.raises(ValueError, match=said):
        MultiTaskEnv(["count/narrow", "count/wide"], action_repeat=repeat)
