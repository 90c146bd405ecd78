"""Bootstrapped returns: a three-state chain by hand, and a plain loop on random windows."""

import pytest
import torch

from ezm_lightning.ops.returns import bootstrap_index, corrected_return, mixed_value, n_step_return

GAMMA = 0.9


def returns(reward, valid, row_value, *, unroll_steps, td_steps, discount=GAMMA) -> torch.Tensor:
    """n-step returns [B, K+1] where ``row_value`` [B, W] holds the value of every row, 0 where terminal."""
    index = bootstrap_index(valid, unroll_steps, td_steps)
    return n_step_return(reward, valid, row_value.gather(1, index), td_steps=td_steps, discount=discount)


def chain(final_value: float) -> torch.Tensor:
    """Three states s0 → s1 → s2 with rewards 1, 2; K = 2, n = 3; v(s) = 10, 20 and ``final_value``; garbage behind."""
    reward = torch.tensor([[1.0, 2.0, 99.0, 99.0, 99.0, 99.0]])
    valid = torch.tensor([[True, True, True, False, False, False]])
    value = torch.tensor([[10.0, 20.0, final_value, 77.0, 77.0, 77.0]])
    return returns(reward, valid, value, unroll_steps=2, td_steps=3)


def test_chain_that_terminates():
    torch.testing.assert_close(chain(final_value=0.0), torch.tensor([[1 + 0.9 * 2, 2.0, 0.0]]))


def test_chain_that_is_truncated_bootstraps_its_last_state():
    torch.testing.assert_close(chain(final_value=30.0), torch.tensor([[2.8 + 0.81 * 30, 2 + 0.9 * 30, 30.0]]))


def test_window_inside_an_episode_by_hand():
    reward = torch.tensor([[1.0, 2.0, 3.0, 99.0]])
    value = torch.tensor([[10.0, 20.0, 30.0, 40.0]])
    ours = returns(reward, torch.ones(1, 4, dtype=torch.bool), value, unroll_steps=1, td_steps=2)
    torch.testing.assert_close(ours, torch.tensor([[1 + 0.9 * 2 + 0.81 * 30, 2 + 0.9 * 3 + 0.81 * 40]]))


def test_bootstrap_index_is_n_ahead_or_the_last_row():
    length = torch.tensor([7, 4, 1, 0])  # rows of the episode within the window
    valid = torch.arange(7) < length[:, None]
    expected = torch.tensor([[3, 4, 5, 6], [3, 3, 3, 3], [0, 0, 0, 0], [0, 0, 0, 0]])
    assert torch.equal(bootstrap_index(valid, 3, 3), expected)


def plain_return(reward: list, valid: list, value: list, k: int, n: int, discount: float) -> float:
    """What the formula says, step by step."""
    total, factor, row = 0.0, 1.0, k
    for _ in range(n):
        if row + 1 >= len(valid) or not valid[row + 1]:
            break
        total += factor * reward[row]
        factor *= discount
        row += 1
    return total + factor * value[row]


@pytest.mark.parametrize("unroll_steps, td_steps", [(5, 5), (1, 1), (3, 7), (6, 2)])
@pytest.mark.parametrize("discount", [0.99, 1.0])
def test_equals_a_plain_loop_on_random_windows(unroll_steps, td_steps, discount):
    g = torch.Generator().manual_seed(unroll_steps)
    batch, window = 200, unroll_steps + td_steps + 1
    reward, value = (torch.randn(batch, window, generator=g, dtype=torch.float64) for _ in range(2))
    length = torch.randint(1, window + 1, (batch, 1), generator=g)
    valid = torch.arange(window) < length
    reward = torch.where(torch.arange(window) < length - 1, reward, 1e6)  # garbage where nothing was paid
    ours = returns(reward, valid, value, unroll_steps=unroll_steps, td_steps=td_steps, discount=discount)
    assert ours.isfinite().all()
    for b in range(batch):
        for k in range(min(unroll_steps + 1, int(length[b]))):
            row = (reward[b].tolist(), valid[b].tolist(), value[b].tolist())
            assert ours[b, k].item() == pytest.approx(plain_return(*row, k, td_steps, discount)), (b, k)


def test_value_of_a_constant_reward_is_its_own_n_step_return():
    """r/(1 − γ) is a fixed point."""
    valid = torch.ones(1, 11, dtype=torch.bool)
    value = torch.full((1, 11), 2 / (1 - GAMMA))
    torch.testing.assert_close(
        returns(torch.full((1, 11), 2.0), valid, value, unroll_steps=5, td_steps=5), value[:, :6]
    )


def test_mixed_value_is_the_share_of_each():
    td, search = torch.full((2, 3), 10.0), torch.full((2, 3), 20.0)
    ours = mixed_value(td, search, torch.tensor([[0.0], [0.25]]))
    torch.testing.assert_close(ours, torch.tensor([[20.0] * 3, [17.5] * 3]))
    torch.testing.assert_close(mixed_value(td, search, torch.ones(2, 3)), td)


# --- returns corrected for today's policy


def plain_corrected(reward, valid, drawn, taken, k: int, n: int, discount: float, trace_decay: float) -> float:
    """What the formula says, step by step."""
    total, factor = drawn[k], 1.0
    for row in range(k, min(k + n, len(valid) - 1)):
        if not valid[row + 1]:
            break
        total += factor * (reward[row] + discount * drawn[row + 1] - taken[row])
        factor *= discount * trace_decay
    return total


def random_windows(seed: int, rows: int = 9) -> tuple[torch.Tensor, ...]:
    """Reward, valid, two q, each [6, rows]; windows of every length from 1."""
    g = torch.Generator().manual_seed(seed)
    valid = torch.arange(rows) < torch.tensor([1, 2, 4, 7, 8, 9])[:, None]
    reward, drawn, taken = torch.randn(3, 6, rows, generator=g).unbind()
    return reward, valid, drawn, taken


@pytest.mark.parametrize("unroll_steps, td_steps", [(3, 5), (1, 1), (5, 3)])
@pytest.mark.parametrize("trace_decay", [0.0, 0.8, 1.0])
def test_corrected_returns_are_their_loop(unroll_steps, td_steps, trace_decay):
    reward, valid, drawn, taken = random_windows(0)
    sizes = {"td_steps": td_steps, "discount": GAMMA, "trace_decay": trace_decay}
    ours = corrected_return(reward, valid, drawn, taken[:, :-1], num_positions=unroll_steps + 1, **sizes)
    for b in range(6):
        for k in range(unroll_steps + 1):
            if valid[b, k]:
                rows = [x[b].tolist() for x in (reward, valid, drawn, taken)]
                wanted = plain_corrected(*rows, k, td_steps, GAMMA, trace_decay)
                assert ours[b, k].item() == pytest.approx(wanted, abs=1e-5)
    assert ours.isfinite().all()


def test_without_correction_they_are_n_step_returns():
    """Where the policy would do what was done and λ = 1, the look-aheads between cancel."""
    reward, valid, q, _ = random_windows(1)
    ours = corrected_return(reward, valid, q, q[:, :-1], num_positions=4, td_steps=5, discount=GAMMA, trace_decay=1.0)
    plain = returns(reward, valid, q, unroll_steps=3, td_steps=5)
    torch.testing.assert_close(ours[valid[:, :4]], plain[valid[:, :4]])


def test_a_worse_action_taken_does_not_lower_the_return():
    """A state whose value is 10 under the policy; the action taken was worth 4, and paid so."""
    valid = torch.ones(1, 2, dtype=torch.bool)
    reward, drawn, taken = torch.tensor([[4.0, 0.0]]), torch.tensor([[10.0, 0.0]]), torch.tensor([[4.0]])
    sizes = {"num_positions": 1, "td_steps": 1, "discount": GAMMA, "trace_decay": 1.0}
    assert corrected_return(reward, valid, drawn, taken, **sizes).item() == 10
    assert corrected_return(reward + 1, valid, drawn, taken, **sizes).item() == 11  # it paid more than the model knew


def test_each_window_may_have_its_own_discount():
    reward, valid, drawn, taken = random_windows(0)
    gammas = torch.tensor([0.9, 0.99, 0.5, 1.0, 0.9, 0.2])
    sizes = {"num_positions": 4, "td_steps": 5, "trace_decay": 0.7}
    plain = returns(reward, valid, drawn, unroll_steps=3, td_steps=5, discount=gammas)
    corrected = corrected_return(reward, valid, drawn, taken[:, :-1], discount=gammas, **sizes)
    for row, gamma in enumerate(gammas.tolist()):
        own = slice(row, row + 1)
        alone = returns(reward[own], valid[own], drawn[own], unroll_steps=3, td_steps=5, discount=gamma)
        torch.testing.assert_close(plain[own], alone)
        alone = corrected_return(reward[own], valid[own], drawn[own], taken[own, :-1], discount=gamma, **sizes)
        torch.testing.assert_close(corrected[own], alone)
