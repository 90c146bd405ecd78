"""Returns-to-go and reward scales: by hand, by a loop, and across slots and checkpoints."""

import math

import pytest
import torch

from ezm_lightning.brc.reward_scale import EpisodeRewards, RewardScale, returns_to_go

NO_TEMPERATURE = torch.tensor(0.0)


@pytest.mark.parametrize(
    ("rewards", "terminated", "discount", "expected"),
    [
        ((1, 2, 3), True, 0.99, (5.9203, 4.97, 3)),
        ((1, 2, 3), False, 0.99, (199.9801, 200.99, 201)),
        ((0, 0, 1), False, 0.99, (33.3234, 33.66, 34)),
        ((-1, -1, -4), True, 0.99, (-5.9104, -4.96, -4)),
        ((1, 2, 3), True, 0.5, (2.75, 3.5, 3)),
        ((1, 2, 3), False, 0.5, (3.25, 4.5, 5)),
    ],
)
def test_returns_to_go_by_hand(rewards, terminated, discount, expected):
    last = 0.0 if terminated else sum(rewards) / len(rewards) / (1 - discount)
    reward, by_hand = torch.tensor(rewards, dtype=torch.float64), torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(returns_to_go(reward, last, discount), by_hand, rtol=0, atol=1e-4)
    scale = RewardScale([1], discount=discount)
    scale.update_(0, reward, terminated=terminated)
    torch.testing.assert_close(scale.low, by_hand.min()[None].float())
    torch.testing.assert_close(scale.high, by_hand.max()[None].float())


def test_returns_to_go_are_their_sums():
    reward = torch.randn(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for i, ours in enumerate(returns_to_go(reward, 7.0, 0.9).tolist()):
        ahead = range(i, 40)
        assert ours == pytest.approx(sum(0.9 ** (j - i) * reward[j].item() for j in ahead) + 0.9 ** (40 - i) * 7.0)


def test_a_constant_reward_cut_off_is_worth_the_same_at_every_step():
    ours = returns_to_go(torch.full((1000,), 0.7, dtype=torch.float64), 70.0, 0.99)
    torch.testing.assert_close(ours, torch.full_like(ours, 70.0))


def test_scale_by_hand():
    scale = RewardScale([1], discount=0.99)
    scale.update_(0, torch.tensor([1.0, 2.0, 3.0]), terminated=True)
    s = scale(torch.tensor(0.1))
    torch.testing.assert_close(s, torch.tensor([0.84203]))
    torch.testing.assert_close(1 / s, torch.tensor([1.18761]), rtol=1e-5, atol=1e-5)


def test_each_task_has_the_correction_of_its_own_action_width():
    scale = RewardScale([1, 6, 19, 38, 61], discount=0.99)
    for task in range(5):
        scale.update_(task, torch.tensor([100.0]), terminated=True)
    torch.testing.assert_close(scale(torch.tensor(0.1)), torch.tensor([10.25, 11.5, 14.75, 19.5, 25.25]))


def test_returns_below_zero_count_by_their_size():
    scale = RewardScale([1], discount=0.99)
    scale.update_(0, torch.tensor([-1.0, -1.0, -4.0]), terminated=True)
    torch.testing.assert_close(scale(NO_TEMPERATURE), torch.tensor([0.59104]))


@pytest.mark.parametrize("extreme", [50.0, -50.0])
def test_scales_never_shrink(extreme):
    scale = RewardScale([1], discount=0.99)
    scale.update_(0, torch.tensor([extreme]), terminated=True)
    scale.update_(0, torch.tensor([1.0, -2.0]), terminated=True)
    torch.testing.assert_close(scale(NO_TEMPERATURE), torch.tensor([5.0]))


def test_a_task_without_a_finished_episode_is_unknown_and_infinite():
    scale = RewardScale([1, 1], discount=0.99)
    scale.update_(1, torch.zeros(3), terminated=True)
    assert scale.unknown_tasks() == [0]
    s = scale(torch.tensor(0.1))
    assert math.isinf(s[0]) and s[1].item() == pytest.approx(0.25)


# --- from vector steps


def step(episodes: EpisodeRewards, scale: RewardScale, reward, terminated=(0, 0, 0), done=(0, 0, 0)) -> None:
    episodes.step_(scale, torch.tensor(reward), torch.tensor(terminated).bool(), torch.tensor(done).bool())


def test_only_finished_episodes_count_and_slots_of_a_task_share_its_scale():
    """Slots 0 and 1 play task 0, slot 2 plays task 1."""
    scale, episodes = RewardScale([1, 1], discount=0.99), EpisodeRewards([0, 0, 1])
    step(episodes, scale, [1.0, 50.0, 7.0])
    step(episodes, scale, [2.0, 60.0, 8.0])
    assert scale.unknown_tasks() == [0, 1]
    step(episodes, scale, [3.0, 70.0, 9.0], terminated=(1, 0, 0), done=(1, 0, 0))
    torch.testing.assert_close(scale.high, torch.tensor([5.9203, -torch.inf]))
    step(episodes, scale, [9.0, 0.0, 0.0], terminated=(0, 1, 0), done=(0, 1, 0))
    torch.testing.assert_close(scale.high[0].item(), 50 + 0.99 * 60 + 0.99**2 * 70)
    assert scale.low[0] == 0
    assert episodes.running == [[9.0], [], [7.0, 8.0, 9.0, 0.0]]


def test_a_truncated_episode_goes_on_with_its_mean_reward():
    scale, episodes = RewardScale([1], discount=0.99), EpisodeRewards([0])
    for reward, done in [(0.0, False), (0.0, False), (1.0, True)]:
        episodes.step_(scale, torch.tensor([reward]), torch.tensor([False]), torch.tensor([done]))
    torch.testing.assert_close(torch.cat([scale.low, scale.high]), torch.tensor([33.3234, 34.0]))


def test_state_goes_on_where_it_was_saved():
    scale, episodes = RewardScale([1, 1], discount=0.99), EpisodeRewards([0, 0, 1])
    step(episodes, scale, [1.0, 50.0, 7.0], terminated=(0, 0, 1), done=(0, 0, 1))
    other_scale, other_episodes = RewardScale([1, 1], discount=0.99), EpisodeRewards([0, 0, 1])
    other_scale.load_state_dict(scale.state_dict())
    other_episodes.load_state_dict(episodes.state_dict())
    for pair in ((episodes, scale), (other_episodes, other_scale)):
        step(*pair, [2.0, 60.0, 8.0], terminated=(1, 0, 0), done=(1, 1, 0))
    assert torch.equal(scale.low, other_scale.low) and torch.equal(scale.high, other_scale.high)
    assert episodes.running == other_episodes.running == [[], [], [8.0]]
    assert scale.unknown_tasks() == []
