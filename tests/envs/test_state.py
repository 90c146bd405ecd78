"""Saved environments continue bit for bit."""

import pytest
import torch

from ezm_lightning.envs import MultiTaskEnv
from ezm_lightning.envs.dmc.suite import MODEL_FIELDS, SuiteTask


def play(env, td, actions):
    """Transitions [T, n] from td on, and the td after them."""
    out = []
    for action in actions:
        transition, td = env.step_and_maybe_reset(td.select("obs").set("action", action))
        out.append(transition)
    return torch.stack(out), td


def age(env, left):
    """Let episodes look older than they are: they end within ``left`` simulator steps."""
    for group in env._groups:
        oldest = max(0, group.spec.max_episode_steps - left)
        group.slots.elapsed[:] = [max(oldest, elapsed) for elapsed in group.slots.elapsed]


@pytest.mark.parametrize(
    "names",
    [
        ["dmc/cartpole-swingup", "dmc/walker-walk", "dmc/ball_in_cup-catch"],
        ["dmc/humanoid-run", "dmc/reacher-hard", "dmc/finger-turn_hard", "dmc/swimmer-swimmer6"],
        ["dmc/acrobot-swingup", "dmc/quadruped-escape", "dmc/manipulator-insert_peg", "dmc/point_mass-hard"],
        ["gym/HalfCheetah-v5", "gym/Hopper-v5", "gym/Pendulum-v1"],
        ["gym/Ant-v5", "gym/Humanoid-v5", "gym/Reacher-v5", "dmc/lqr-lqr_2_1"],
    ],
)
def test_continues_bit_for_bit(names, tmp_path):
    make = {"envs_per_task": 1, "action_repeat": 2}
    env, fresh = MultiTaskEnv(names, seed=4, **make), MultiTaskEnv(names, seed=5, num_threads=2, **make)
    actions = torch.rand(87, *env.action_spec.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    td = env.reset()
    _, td = play(env, td, actions[:37])
    age(env, 51)
    torch.save(env.get_state(), tmp_path / "envs.pt")
    expected, _ = play(env, td, actions[37:])
    assert expected["next", "done"].any(0).all()  # an end and the next episode

    fresh.set_state(torch.load(tmp_path / "envs.pt", weights_only=True))
    restored = fresh.reset()
    assert torch.equal(restored["obs"], td["obs"])
    got, _ = play(fresh, restored, actions[37:])
    for key in expected.keys(True, True):
        assert torch.equal(got[key], expected[key]), key
    assert torch.equal(fresh.env_steps, env.env_steps)
    fresh.close()


def test_saved_between_an_end_and_its_reset():
    env, fresh = MultiTaskEnv(["dmc/cartpole-balance"]), MultiTaskEnv(["dmc/cartpole-balance"], seed=1)
    td = env.reset()
    age(env, 1)
    assert env.step(td.set("action", torch.zeros(1, 1)))["next", "done"].all()
    fresh.set_state(env.get_state())
    assert torch.equal(fresh.reset()["obs"], env.reset()["obs"])


def test_only_the_first_full_reset_continues():
    env = MultiTaskEnv(["dmc/cartpole-balance"])
    first = env.reset()["obs"]
    env.set_state(env.get_state())
    assert torch.equal(env.reset()["obs"], first)
    assert not torch.equal(env.reset()["obs"], first)


@pytest.mark.parametrize(
    "task",
    [
        "cheetah-run",
        "dog-fetch",
        "finger-turn_easy",
        "fish-swim",
        "hopper-hop",
        "humanoid_CMU-run",
        "lqr-lqr_2_1",
        "manipulator-bring_ball",
        "point_mass-hard",
        "quadruped-escape",
        "stacker-stack_2",
        "swimmer-swimmer6",
    ],
)
def test_what_an_episode_changes_in_the_model_is_saved(task):
    simulator = SuiteTask(task)
    model = simulator.physics.model.ptr
    simulator.reset()
    names = [name for name in dir(model) if hasattr(getattr(model, name), "dtype")]
    before = {name: getattr(model, name).copy() for name in names}
    simulator.reset()
    changed = {name for name in names if (getattr(model, name) != before[name]).any()}
    assert changed <= set(MODEL_FIELDS)
