"""A simulator that fails: its episode ends truncated at the last good observation, counted; too many faults stop."""

import warnings

import numpy as np
import pytest
import torch

from ezm_lightning.acting import ZeroActor
from ezm_lightning.envs import MultiTaskEnv, Simulator, Transition, register_source, sources
from ezm_lightning.evaluation.episodes import chooser, run_episodes
from ezm_lightning.replay import Replay


class Fails(Simulator):
    """Observes (episode, step); reward 1 a step, at most 8 steps. Fails at step 4 of every third episode: ``how``."""

    obs_dim, action_dim, max_episode_steps, how, bad = 2, 1, 8, "raise", 4

    def __init__(self):
        self.episode = -1

    def seed(self, seed):
        pass

    def reset(self):
        self.episode, self.t = self.episode + 1, 0
        return [self.episode, 0]

    def step(self, action):
        self.t += 1
        obs, reward = [self.episode, self.t], 1.0
        fails = self.t == self.bad and self.episode % 3 == 1
        if fails:
            if self.how == "raise":
                raise RuntimeError("no convergence")
            if self.how == "narrow":
                return Transition(obs[:1], reward, False)
            obs[1] = {"nan": np.nan, "inf": np.inf, "huge": 1e300}.get(self.how, self.t)
            reward = {"nan reward": np.nan, "inf reward": -np.inf}.get(self.how, 1.0)
        return Transition(obs, reward, terminated=fails and self.how == "nan")


class Healthy(Fails):
    def step(self, action):
        self.t += 1
        return Transition([self.episode, self.t], 1.0, False)


class BadReset(Healthy):
    """Fails ``times`` times before each episode."""

    times, failed = 2, 0

    def reset(self):
        if self.failed < self.times:
            self.failed += 1
            if self.failed % 2:
                raise OSError("no assets")
            return [np.nan, 0]
        self.failed = 0
        return super().reset()


class FailsAfterItsEnd(Fails):
    """Falls at step 2 of every episode; whoever lets it go on meets the fault of step 4."""

    def step(self, action):
        return super().step(action)._replace(terminated=self.t == 2)


class FailsRightAfterItsEnd(Fails):
    """Every episode reaches its goal and ends in step 1, and fails in step 2."""

    bad, reports_success = 2, True

    def reset(self):
        self.episode = 0
        return super().reset()

    def step(self, action):
        return super().step(action)._replace(terminated=self.t == 1, success=self.t == 1)


class FailsEarlyAfterAnEnd(Fails):
    """Every episode would end in step 2, and every third fails in step 1."""

    bad = 1

    def step(self, action):
        return super().step(action)._replace(terminated=self.t == 2)


class Broken(Healthy):
    def step(self, action):
        raise RuntimeError("always")


class Hopeless(BadReset):
    times = 10**9


@pytest.fixture(autouse=True)
def failing(monkeypatch):
    monkeypatch.setattr(sources, "SOURCES", dict(sources.SOURCES))
    after = [FailsAfterItsEnd, FailsRightAfterItsEnd, FailsEarlyAfterAnEnd]
    simulators = [Fails, *after, Healthy, BadReset, Broken, Hopeless]
    register_source("fault", {simulator.__name__.lower(): simulator for simulator in simulators})


def rollout(env, steps):
    """[T, slots] transitions with auto-reset; its warnings are silenced."""
    td, out = env.reset(), []
    for _ in range(steps):
        transition, td = env.step_and_maybe_reset(td.set("action", torch.zeros(env.action_spec.shape)))
        out.append(transition)
    return torch.stack(out)


KINDS = ["raise", "nan", "inf", "huge", "nan reward", "inf reward"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("num_threads", [0, 2])
@pytest.mark.parametrize("how", KINDS)
def test_a_fault_ends_the_episode_at_the_last_good_observation(monkeypatch, how, num_threads):
    monkeypatch.setattr(Fails, "how", how)
    env = MultiTaskEnv(
        ["fault/fails", "fault/healthy"], envs_per_task=2, num_threads=num_threads,
        ignore_termination=True, max_fault_share=0.1,
    )  # fmt: skip
    steps = rollout(env, 8 + 4 + 3)
    after, sick = steps["next"], steps["next"][:, 0]
    assert after["truncated"][:, 0, 0].nonzero().flatten().tolist() == [7, 11]
    assert not after["terminated"].any() and not sick["termination"][11].any()
    assert sick["obs"][11].tolist() == steps["obs"][11, 0].tolist() == [1, 3]
    assert sick["reward"].flatten().tolist() == [1.0] * 11 + [0.0] + [1.0] * 3
    assert steps["obs"][12, 0].tolist() == [2, 0]  # the next episode
    assert steps["next", "reward"][:, 2:].eq(1).all() and steps["obs"][8, 2].tolist() == [1, 0]  # the others go on
    assert all(x.isfinite().all() for x in (steps["obs"], after["obs"], after["reward"]))
    assert env.faults.tolist() == [2, 0] and env.env_steps.tolist() == [30, 30]
    env.close()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", ["raise", "nan"])
def test_steps_before_the_fault_count_with_action_repeats(monkeypatch, how):
    monkeypatch.setattr(Fails, "how", how)
    env = MultiTaskEnv(["fault/fails"], action_repeat=2, ignore_termination=True, max_fault_share=0.1)
    steps = rollout(env, 4 + 2)
    assert steps["next", "reward"].flatten().tolist() == [2.0] * 5 + [0.0]
    assert steps["next", "obs"][-1, 0].tolist() == [1, 2]
    assert env.env_steps.tolist() == [12 if how == "nan" else 11]  # what raised half-way counts one


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", KINDS)
def test_replay_sees_no_bad_value_and_its_windows_stay_whole(monkeypatch, how):
    monkeypatch.setattr(Fails, "how", how)
    env = MultiTaskEnv(["fault/fails", "fault/healthy"], envs_per_task=2, ignore_termination=True, max_fault_share=0.1)
    replay = Replay(
        slot_task=env.slot_task, obs_dim=2, action_dim=1, capacity=400, unroll_steps=3, td_steps=2, batch_size=32
    )
    for step in rollout(env, 60):
        replay.extend(step.set("search_value", torch.zeros(4)))
    assert env.faults.tolist() == [6, 0] and replay.num_transitions.tolist() == [120, 120]
    for _ in range(20):
        batch = replay.sample()
        assert all(x.isfinite().all() for x in (batch.obs, batch.reward, batch.action))
        both = batch.valid[:, 1:] & batch.valid[:, :-1]
        (here, now), (there, later) = batch.obs[:, :-1].unbind(-1), batch.obs[:, 1:].unbind(-1)
        assert torch.equal(here[both], there[both])  # one episode
        faulty = both & (later == now)
        assert torch.equal((now + 1)[both & ~faulty], later[both & ~faulty])  # contiguous, but for the faulty step,
        assert (here[faulty] % 3 == 1).all() and (now[faulty] == 3).all()
        assert (batch.reward[:, :-1][faulty] == 0).all() and not batch.final.any()  # from which a value is bootstrapped
        assert not (both[:, 1:] & faulty[:, :-1]).any()  # and which is the last


@pytest.mark.parametrize("num_threads", [0, 2])
def test_a_reset_is_tried_again(num_threads):
    env = MultiTaskEnv(["fault/badreset"], num_threads=num_threads, max_fault_share=1.0)
    with pytest.warns(UserWarning, match="fault/badreset: OSError: no assets") as told:
        steps = rollout(env, 9)
    assert any("first observation of an episode is not finite" in str(each.message) for each in told)
    assert steps["obs"][8, 0].tolist() == [1, 0] and env.faults.tolist() == [4] and env.env_steps.tolist() == [9]
    env.close()


@pytest.mark.parametrize("num_threads", [0, 2])
def test_a_reset_that_keeps_failing_stops_with_task_and_error(num_threads):
    env = MultiTaskEnv(["fault/healthy", "fault/hopeless"], num_threads=num_threads)
    with pytest.raises(ValueError, match=r"fault/hopeless cannot be reset, 3 attempts in a row failed: OSError: no as"):
        env.reset()
    env.close()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("share", "survived"), [(0.0, 0), (0.003, 3), (0.01, 10)])
def test_more_than_a_share_of_faults_stops_with_the_task(share, survived):
    env = MultiTaskEnv(["fault/healthy", "fault/broken"], max_fault_share=share)
    with pytest.raises(ValueError, match=f"fault/broken: RuntimeError: always; {survived + 1} faults .*={share}"):
        rollout(env, survived + 1)
    assert env.faults.tolist() == [0, survived + 1] and env.env_steps.tolist() == [survived + 1] * 2


@pytest.mark.filterwarnings("ignore")
def test_rare_faults_go_on_for_ever_and_a_share_more_frequent_stops():
    rollout(MultiTaskEnv(["fault/fails"], max_fault_share=0.06), 2500)  # one in 20
    with pytest.raises(ValueError, match="fault/fails"):
        rollout(MultiTaskEnv(["fault/fails"], max_fault_share=0.04), 2500)


def test_a_share_outside_0_to_1_is_refused():
    with pytest.raises(ValueError, match=r"max_fault_share=1.5 must lie in \[0, 1\]"):
        MultiTaskEnv(["fault/healthy"], max_fault_share=1.5)


def test_faults_are_part_of_the_state():
    env, other = MultiTaskEnv(["fault/fails"]), MultiTaskEnv(["fault/fails"])
    with pytest.warns(UserWarning, match="no convergence; its episode ends here"):
        rollout(env, 12)
    with pytest.warns(UserWarning, match="cannot be saved"):
        other.set_state(env.get_state())
    assert other.fault_counts() == env.fault_counts() == {"fault/fails": 1.0}


@pytest.mark.filterwarnings("ignore")
def test_an_evaluated_episode_is_worth_what_it_earned_before_the_fault():
    env = MultiTaskEnv(["fault/fails", "fault/healthy"], envs_per_task=2, ignore_termination=True)
    env.reset()
    returns = run_episodes(env, chooser(ZeroActor(max(env.action_dims)), torch.Generator()))  # their second episodes
    assert returns.honoured.tolist() == returns.ignored.tolist() == [3, 3, 8, 8]
    assert env.fault_counts() == {"fault/fails": 2.0}


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize("how", KINDS)
def test_a_fault_after_the_episodes_own_end_is_none(monkeypatch, how):
    monkeypatch.setattr(Fails, "how", how)
    env = MultiTaskEnv(["fault/failsafteritsend"], envs_per_task=2, ignore_termination=True, max_fault_share=0)
    steps = rollout(env, 12)
    assert steps["next", "truncated"][:, 0, 0].nonzero().flatten().tolist() == [7, 11]
    assert steps["next", "reward"].flatten().tolist() == [1.0] * 22 + [0.0] * 2
    assert env.faults.tolist() == [0]


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize("repeat", [1, 2, 3, 4])
@pytest.mark.parametrize("how", [*KINDS, "narrow"])
def test_a_fault_after_the_end_leaves_what_the_decision_earned_before(monkeypatch, how, repeat):
    monkeypatch.setattr(Fails, "how", how)
    name = "fault/failsrightafteritsend"
    env = MultiTaskEnv([name], action_repeat=repeat, ignore_termination=True, max_fault_share=0)
    steps = rollout(env, 1)
    assert steps["next", "obs"][0, 0].tolist() == [1, 1] and steps["next", "reward_to_end"].item() == 1
    returns = run_episodes(env, chooser(ZeroActor(1), torch.Generator()))
    assert returns.honoured.tolist() == returns.ignored.tolist() == [1] and returns.success.all()
    assert env.faults.tolist() == [0]


@pytest.mark.filterwarnings("ignore")
def test_the_end_of_an_episode_does_not_excuse_a_fault_of_the_next():
    env = MultiTaskEnv(["fault/failsearlyafteranend"], ignore_termination=True, max_fault_share=1.0)
    steps = rollout(env, 9)
    assert steps["next", "termination"].sum() == 1 and steps["obs"][8, 0].tolist() == [1, 0]
    assert env.faults.tolist() == [1]


def poison(slots, row):
    """Makes MuJoCo's state of a row not a number; ``mj_step`` then resets it without a word."""
    if hasattr(slots, "data"):
        slots.data[row].qvel[0] = np.nan
        return
    simulator = slots.simulators[row]
    data = simulator.physics.data if hasattr(simulator, "physics") else simulator.env.unwrapped.data
    data.qvel[0] = np.nan


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("num_threads", [0, 2])
@pytest.mark.parametrize("task", ["dmc/cartpole-swingup", "gym/Hopper-v5", "hb/h1-stand"])
def test_a_mujoco_that_resets_itself_in_mid_episode_is_a_fault(task, num_threads, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HUMANOID_BENCH_ASSETS", "builtin")
    env = MultiTaskEnv([task], envs_per_task=2, num_threads=num_threads, ignore_termination=True, seed=1)
    td = env.reset().set("action", torch.zeros(env.action_spec.shape))
    td = env.step_mdp(env.step(td)).set("action", torch.zeros(env.action_spec.shape))
    poison(env._groups[-1].slots, -1)
    after = env.step(td)["next"]
    assert after["truncated"].flatten().tolist() == [False, True] and after["reward"][1] == 0
    assert torch.equal(after["obs"][1], td["obs"][1]) and not torch.equal(after["obs"][0], td["obs"][0])
    assert env.faults.tolist() == [1]
    td = env.reset(after.clone().set("_reset", after["done"])).set("action", td["action"])
    after = env.step(td)["next"]
    assert not after["done"].any() and after["obs"].isfinite().all() and env.faults.tolist() == [1]
    env.close()
    assert list(tmp_path.iterdir()) == []  # MuJoCo writes no MUJOCO_LOG.TXT


def test_healthy_simulators_are_not_accused():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        env = MultiTaskEnv(["fault/healthy"], max_fault_share=0.0)
        rollout(env, 20)
    assert env.fault_counts() == {}
