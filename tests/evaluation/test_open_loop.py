"""Open loops: in a world whose model is exact nothing is lost; the control holds one action; N = 1 looks always."""

import numpy as np
import pytest
import torch

from ezm_lightning.acting import PlannerActor
from ezm_lightning.commands.open_loop import check_open_loop, retention
from ezm_lightning.envs import MultiTaskEnv, Simulator, TaskSpec, Transition, sources
from ezm_lightning.evaluation.episodes import chooser, run_episodes
from ezm_lightning.evaluation.open_loop import Drift, OpenLoopActor
from ezm_lightning.model import WorldModel
from ezm_lightning.ops.support import Support, decode, two_hot
from ezm_lightning.planner import Planner
from ezm_lightning.types import SearchOutput

SUPPORT = Support(-8.0, 8.0, 801)
STEP = np.float32(0.25)


class PointMass(Simulator):
    """A point on a line, in float32, paid for lying near the origin; a push moves it."""

    obs_dim, action_dim, max_episode_steps = 1, 1, 12

    def seed(self, seed):
        self.random = np.random.default_rng(seed)

    def reset(self):
        self.place = self.random.uniform(-1, 1, 1).astype(np.float32)
        return self.place

    def step(self, action):
        self.place = self.place + STEP * action.astype(np.float32)
        return Transition(self.place, -float(np.square(self.place).sum()), False)


class ExactModel:
    """A world model that is the simulator: the latent is the observation, and the dynamics are the point's."""

    embeds, num_value_heads, action_mask = (False,) * 4, 2, torch.ones(1, 1)
    reward_support = value_support = SUPPORT
    initial_inference, latent_inference = WorldModel.initial_inference, WorldModel.latent_inference
    recurrent_inference = WorldModel.recurrent_inference

    @property
    def model(self):
        return self

    def embed(self, task):
        return torch.zeros(*task.shape, 1)

    def represent(self, obs, task):
        return obs

    def project(self, latent):
        return torch.cat([latent, torch.ones_like(latent)], -1)

    def next_latent(self, latent, action, embedding):
        return latent + float(STEP) * action

    def reward_logits(self, latent, action, embedding):
        return two_hot(-(latent + float(STEP) * action).square().sum(-1), SUPPORT).log()

    def value_policy(self, latent, embedding):
        value = two_hot(-latent.square().expand(*latent.shape[:-1], 2), SUPPORT).log()
        return value, torch.cat([torch.zeros_like(latent), torch.zeros_like(latent)], -1)

    def policy(self, raw):
        mean, log_std = raw.chunk(2, -1)
        return mean, log_std


@pytest.fixture
def env():
    sources.register_source("points", {"mass": PointMass})
    try:
        env = MultiTaskEnv(["points/mass"], envs_per_task=4, seed=0, ignore_termination=True)
        yield env
        env.close()
    finally:
        del sources.SOURCES["points"]


def returns(env, actor, **hooks):
    env.set_seed(3)
    return run_episodes(env, chooser(actor, torch.Generator().manual_seed(5)), **hooks).honoured


def actor(planner=None):
    return PlannerActor(planner or Planner(num_simulations=8, num_candidates=8), ExactModel())


def test_an_exact_model_loses_nothing_without_looking(env) -> None:
    closed = returns(env, actor())
    for interval in (1, 2, 4, 5, 12, 100):
        drift = Drift(1, interval)
        hooks = {"on_reward": drift.paid} if interval > 1 else {}
        blind = OpenLoopActor(actor(), interval=interval, way="search", drift=drift if interval > 1 else None)
        assert torch.equal(returns(env, blind, **hooks), closed), interval
        if interval > 1:
            latent, reward = drift.means()
            played = min(interval, 12)
            assert latent[0, :played].abs().max() < 1e-6
            assert reward[0, :played].max() < 0.01  # a support of 801 atoms
            assert drift.count.sum() == 4 * 12 and latent[0, played:].isnan().all()


def test_the_reward_error_is_in_the_units_of_the_task(env) -> None:
    """A model that predicts a quarter of each reward is exact if that is its scale."""
    scaled = actor()
    reward_logits = scaled.model.reward_logits

    def quarter(latent, action, embedding):
        return two_hot(decode(reward_logits(latent, action, embedding), SUPPORT) / 4, SUPPORT).log()

    scaled.model.reward_logits = quarter
    errors = []
    for scale in (torch.tensor([0.25]), None):
        drift = Drift(1, 12, scale)
        returns(env, OpenLoopActor(scaled, interval=12, way="search", drift=drift), on_reward=drift.paid)
        errors.append(float(drift.means()[1].max()))
    assert errors[0] < 0.05 < errors[1]


def test_a_wrong_model_drifts_and_loses(env) -> None:
    wrong = actor()
    wrong.model.next_latent = lambda latent, action, embedding: latent - float(STEP) * action
    drift = Drift(1, 12)
    blind = returns(env, OpenLoopActor(wrong, interval=12, way="search", drift=drift), on_reward=drift.paid)
    assert blind.mean() < returns(env, actor()).mean()
    latent, _ = drift.means()
    assert latent[0, 0].abs() < 1e-6 and latent[0, 11] > 1e-3


def test_a_reward_after_the_end_within_a_decision_is_no_error() -> None:
    class Over(PointMass):
        """Ends in its first step, and pays 100 for each later one."""

        def reset(self):
            self.t = 0
            return super().reset()

        def step(self, action):
            self.t += 1
            return Transition(super().step(action).obs, 1.0 if self.t == 1 else 100.0, self.t == 1)

    sources.register_source("points", {"over": Over})
    try:
        env, told = MultiTaskEnv(["points/over"], action_repeat=4, ignore_termination=True), []
        returns(env, actor(), on_reward=lambda reward, counts: told.append((reward.item(), counts.item())))
        env.close()
    finally:
        del sources.SOURCES["points"]
    assert [reward for reward, counts in told if counts] == [1.0] and len(told) == 3


class Half:
    """A planner that always answers 0.5."""

    def sample_noise(self, model, batch_size, generator, *, explore):
        return None

    def __call__(self, model, obs, task, noise):
        action = torch.full((len(obs), 1), 0.5)
        blank = torch.zeros(len(obs), 1)
        fields = dict.fromkeys(("action_weights", "qvalues", "visit_counts"), blank)
        fields |= dict.fromkeys(("search_value", "root_value", "root_value_variance"), blank[:, 0])
        return SearchOutput(best_action=action, candidates=action[:, None], **fields, batch_size=[len(obs)])


class Looks(Half):
    """Counts its plans and answers another action each time."""

    def __init__(self) -> None:
        self.plans = 0

    def __call__(self, *inputs):
        plan = super().__call__(*inputs)
        self.plans += 1
        plan.best_action = plan.best_action * self.plans / 100
        return plan


def test_the_control_repeats_the_action_of_the_look() -> None:
    blind = OpenLoopActor(actor(Looks()), interval=3, way="hold")
    obs, task = torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64)
    taken = [float(blind.act(obs, task, torch.Generator(), explore=False)["action"][0]) for _ in range(7)]
    assert taken == pytest.approx([0.005] * 3 + [0.01] * 3 + [0.015])


def test_half_held_for_a_whole_episode_of_swingup_has_its_known_return() -> None:
    """154 ± 6, measured apart from this project's actors: a constant beats random actions (40)."""
    env = MultiTaskEnv(
        ["dmc/cartpole-swingup"], envs_per_task=10, action_repeat=2, seed=10_001, ignore_termination=True
    )

    class Wide(ExactModel):
        def represent(self, obs, task):
            return obs[:, :1]

    held = OpenLoopActor(PlannerActor(Half(), Wide()), interval=500, way="hold")
    found = run_episodes(env, chooser(held, torch.Generator())).honoured
    env.close()
    assert abs(float(found.mean()) - 154) <= 6


def test_retention_is_not_defined_at_the_floor() -> None:
    spec = TaskSpec("a/b", 1, 1, 100, reward_range=(0.0, 1.0))
    assert retention(55.0, 80.0, 30.0, spec) == 0.5
    assert retention(30.0, 34.0, 30.0, spec) is None  # 4 of 100
    assert retention(30.0, 20.0, 30.0, spec) is None
    assert retention(5.0, 10.4, 10.0, TaskSpec("a/b", 1, 1, 100)) is None


@pytest.mark.parametrize(
    ("given", "words"),
    [(0, "eval.open_loop=0 must be a whole number of at least 1; nearest: 1"), ("all", "eval.open_loop=all must be")],
)
def test_an_interval_is_a_whole_number_above_0(given, words) -> None:
    with pytest.raises(ValueError, match=words):
        check_open_loop(given)
