"""The policy climbs r + γ v: value and gradient against a model whose look-ahead is known, and who learns from it."""

import pytest
import torch
from torch import nn

from ezm_lightning.types import Prediction
from ezm_lightning.value_gradient import ValueGradient

B, K1, A, GAMMA = 5, 3, 2, 0.9
TASK = torch.tensor([0, 0, 1, 1, 1])
VALID = torch.ones(B, K1, dtype=torch.bool)


class Valley(nn.Module):
    """The reward falls with the action's distance from the latent's first entries; the value is the action's sum."""

    num_value_heads = 2

    def __init__(self) -> None:
        super().__init__()
        self.action_mask = torch.tensor([[1.0, 1.0], [1.0, 0.0]])

    def embed(self, task):
        return torch.zeros(*task.shape, 1)

    def look_ahead(self, latent, action, embedding):
        value = action.sum(-1)[..., None] + torch.tensor([0.5, 0.0])  # the lower of them is the sum
        return -(action - latent[..., :A]).square().sum(-1), value


@pytest.fixture
def prediction() -> Prediction:
    g = torch.Generator().manual_seed(0)
    field = lambda *shape: torch.randn(B, K1, *shape, generator=g, requires_grad=True)  # noqa: E731
    mean, latent = field(A), field(4)
    return Prediction(
        latent=latent,
        reward_logits=torch.zeros(B, K1 - 1, 3),
        value_logits=torch.zeros(B, K1, 2, 3),
        policy_mean=mean,
        policy_log_std=(0.1 * field(A)).detach().requires_grad_(),
        batch_size=[B],
    )


NOISE = torch.randn(B, K1, A, generator=torch.Generator().manual_seed(3))


def by_hand(p: Prediction, b: int, k: int) -> torch.Tensor:
    """r + γ v of task b's action: tanh(mean + σ noise), 0 in the dimension that task 1 lacks."""
    q = torch.zeros(())
    for a in range(A):
        has = a == 0 or TASK[b] == 0
        action = torch.tanh(p.policy_mean[b, k, a] + p.policy_log_std[b, k, a].exp() * NOISE[b, k, a]) * has
        action = action.clamp(-0.999, 0.999)
        q = q - (action - p.latent[b, k, a].detach()) ** 2 + GAMMA * action
    return q


def test_it_is_the_look_ahead_over_the_running_range_of_its_task(prediction):
    climb = ValueGradient(num_tasks=2, discount=GAMMA, least_range=1e-3)
    ours = climb(Valley(), prediction, TASK, NOISE, VALID)
    plain = torch.stack([torch.stack([by_hand(prediction, b, k) for k in range(K1)]) for b in range(B)])
    for task in (0, 1):
        rows = task == TASK
        low, high = torch.quantile(plain[rows].detach(), torch.tensor([0.05, 0.95]))
        torch.testing.assert_close(ours[rows], plain[rows] / (high - low))


def test_it_moves_the_policy_alone(prediction):
    climb = ValueGradient(num_tasks=2, discount=GAMMA)
    climb(Valley(), prediction, TASK, NOISE, VALID).sum().backward()
    assert prediction.latent.grad is None
    gradient = prediction.policy_mean.grad
    assert (gradient[TASK == 0] != 0).all() and (gradient[TASK == 1][..., 0] != 0).all()
    assert (gradient[TASK == 1][..., 1] == 0).all()  # a dimension that the task lacks
    assert (prediction.policy_log_std.grad[TASK == 0] != 0).all()


def test_climbing_finds_the_best_action(prediction):
    """Of −(a − z)² + γ a it is z + γ / 2, here inside [-1, 1]."""
    z = torch.linspace(-0.9, 0.3, B * K1).view(B, K1, 1).expand(-1, -1, 4)
    p = Prediction(**{**prediction.to_dict(), "latent": z}, batch_size=[B])
    mean = torch.zeros(B, K1, A, requires_grad=True)
    p.policy_log_std = torch.full_like(mean, -6.0)
    climb, optimizer = ValueGradient(num_tasks=2, discount=GAMMA), torch.optim.Adam([mean], lr=0.05)
    for _ in range(400):
        p.policy_mean = mean
        optimizer.zero_grad()
        (-climb(Valley(), p, TASK, NOISE, VALID)).sum().backward()
        optimizer.step()
    torch.testing.assert_close(mean.tanh()[TASK == 0], (z[..., :A] + GAMMA / 2)[TASK == 0], atol=0.02, rtol=0)


def test_a_small_range_is_not_blown_up_and_padding_does_not_count(prediction):
    climb = ValueGradient(num_tasks=2, discount=GAMMA, least_range=100.0)
    valid = VALID.clone()
    valid[TASK == 1] = False
    climb(Valley(), prediction, TASK, NOISE, valid)
    assert climb.range.seen.tolist() == [True, False]
    q = climb(Valley(), prediction, TASK, NOISE, valid)
    torch.testing.assert_close(q[0, 0], by_hand(prediction, 0, 0) / 100)


@pytest.mark.parametrize("discount", [0.0, 1.1])
def test_a_discount_outside_its_range_is_refused(discount):
    with pytest.raises(ValueError, match=rf"discount={discount} must lie in"):
        ValueGradient(num_tasks=1, discount=discount)
