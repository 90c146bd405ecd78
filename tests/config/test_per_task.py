"""Settings of one task: which number a task takes, automatic discounts, and what is refused."""

from __future__ import annotations

import pytest

from ezm_lightning import build
from ezm_lightning.config.compose import compose_checked
from ezm_lightning.config.folder import config_dir
from ezm_lightning.config.per_task import auto_discount, for_each, merged
from tests.config.test_experiments import composed

PENDULUM, CARTPOLE = "gym/Pendulum-v1", "dmc/cartpole-balance"
TASKS = ["experiment=debug", "tasks=custom", f"tasks.names=[{PENDULUM},{CARTPOLE}]", "trainer=cpu"]


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        (2, [2, 2]),
        ({PENDULUM: 1, "others": 4}, [1, 4]),
        ({"gym": 3, "dmc": 5}, [3, 5]),
        ({"gym": 3, PENDULUM: 1, "others": 7}, [1, 7]),
        ({"gym": 3}, [3, None]),
    ],
)
def test_a_task_takes_the_number_nearest_to_its_name(setting, expected):
    assert for_each(setting, [PENDULUM, CARTPOLE]) == expected


def test_equal_numbers_are_one():
    assert merged([0.9, 0.9]) == 0.9 and merged([0.9, 0.8]) == [0.9, 0.8]


@pytest.mark.parametrize(
    ("decisions", "gamma"),
    [(25, 0.95), (50, 0.95), (100, 0.95), (200, 0.975), (250, 0.98), (500, 0.99), (1000, 0.995), (2000, 0.995)],
)
def test_automatic_discounts_by_hand(decisions, gamma):
    assert auto_discount(decisions) == pytest.approx(gamma)


def test_a_number_of_all_tasks_stays_that_number():
    cfg = composed(*TASKS)
    assert cfg.planner.discount == cfg.module.value_gradient.discount == 0.99
    assert cfg.module.reward_scale.action_repeat == 2


def test_every_part_gets_each_tasks_number():
    cfg = composed(*TASKS, "discount=auto", "tasks.action_repeat={gym: 1, others: 4}")
    gammas = [0.975, 0.98]  # 200 decisions and 250
    for node in (cfg.planner, cfg.module.value_gradient, cfg.module.reward_scale, cfg.module.reanalyzer.planner):
        assert list(node.discount) == pytest.approx(gammas)
    assert list(cfg.module.reward_scale.action_repeat) == [1, 4]
    env = build.make_env(cfg)
    assert env.action_repeats == [1, 4] and env.vector_step == 2 * (1 + 4)
    env.close()
    module = build.make_module(cfg)
    assert module.reanalyzer.planner.discount_of(module.model.obs_mask.new_tensor([1, 0]).long()).tolist() == (
        pytest.approx([0.98, 0.975])
    )


def test_a_source_says_its_scale_and_the_user_says_it_better():
    def scales(*overrides):
        return list(composed(*TASKS, *overrides).module.reward_scale.scale)

    assert scales() == [None, 1.0]
    assert scales("tasks.reward_scale={gym: 0.1}") == [0.1, 1.0]
    assert scales(f"tasks.reward_scale={{{CARTPOLE}: 0.5}}") == [None, 0.5]
    assert scales("tasks.reward_scale=2") == [2, 2]
    assert list(composed(*TASKS).module.reward_scale.step_ranges[1]) == [0, 1]


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("discount={gym/Pendulum-v1: 1.5, others: 0.9}", "discount.gym/Pendulum-v1=1.5 must be a number in (0, 1]"),
        ("discount={gym/Pendulm-v1: 0.9, others: 0.9}", "none of the run's tasks; nearest: gym/Pendulum-v1"),
        ("discount={gym/Pendulum-v1: 0.9}", "discount has no number for dmc/cartpole-balance: add others: NUMBER"),
        ("discount=aut", "discount=aut must be a number in (0, 1] or auto; nearest: auto"),
        ("discount=[0.9,0.8]", "discount=[0.9, 0.8] must be a number in (0, 1]"),
        ("planner.discount=[0.9,1.2]", "planner.discount.1=1.2 must be a number in (0, 1]; nearest: 1"),
        ("planner.discount=null", "planner.discount=null must be a number in (0, 1]"),
        ("tasks.action_repeat={gym: 0, others: 2}", "tasks.action_repeat.gym=0 must be a whole number of at least 1"),
        ("tasks.action_repeat={gym: 1}", "tasks.action_repeat has no number for dmc/cartpole-balance"),
        ("tasks.action_repeat={gym: 1.5, others: 2}", "tasks.action_repeat.gym=1.5 must be a whole number"),
        ("tasks.action_repeat=auto", "tasks.action_repeat=auto must be a whole number"),
        ("tasks.action_repeat={gym: 1, others: 600}", "action_repeat={'gym': 1, 'others': 600}; nearest: 2_400"),
        ("tasks.reward_scale={gym/Pendulum-v1: 0}", "tasks.reward_scale.gym/Pendulum-v1=0 must be a number above 0"),
        ("tasks.reward_scale=-1", "tasks.reward_scale=-1 must be a number above 0"),
        ("tasks.reward_scale=big", "tasks.reward_scale=big must be a number above 0 or auto; nearest: auto"),
        ("tasks.reward_scale={gym/Pendulum-v2: 1}", "names gym/Pendulum-v2, which is none of the run's tasks"),
        ("tasks.reward_scale=[1,2]", "tasks.reward_scale=[1, 2] must be a number above 0"),
    ],
)
def test_what_is_impossible_is_refused_in_one_line(override, line):
    with pytest.raises(ValueError) as refused:
        compose_checked("train", [*TASKS, override, "run_dir=nowhere"], config_dir())
    assert line in str(refused.value) and "\n" not in str(refused.value)


def test_an_agent_without_this_scale_refuses_it():
    with pytest.raises(ValueError, match=r"tasks\.reward_scale=0\.1: ezm_lightning\.brc\.BRC has no use for it"):
        compose_checked("train", ["experiment=brc_cpu", "tasks.reward_scale=0.1", "run_dir=nowhere"], config_dir())
