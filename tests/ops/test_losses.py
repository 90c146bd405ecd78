"""Each loss against plain loops; what masked positions and other networks must not feel."""

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ezm_lightning.ops import squashed_gaussian
from ezm_lightning.ops.gradient import scale_gradient
from ezm_lightning.ops.losses import (
    consistency_loss,
    masked_mean_over_unroll,
    path_consistency_loss,
    policy_entropy,
    policy_loss,
    reward_loss,
    value_loss,
)
from ezm_lightning.ops.support import Support, decode, two_hot
from ezm_lightning.types import Prediction, Targets

B, K, V, S, A, C = 4, 3, 5, 11, 2, 3
SUPPORT, REWARDS = Support(-30.0, 30.0, S), Support(-2.0, 2.0, S)
MASK = torch.tensor([[1.0, 1.0], [1.0, 0.0], [1.0, 1.0], [1.0, 0.0]])
DISCOUNT = 0.9


@pytest.fixture
def prediction() -> Prediction:
    g = torch.Generator().manual_seed(0)
    shapes = {
        "latent": (7,),
        "reward_logits": (S,),
        "value_logits": (V, S),
        "policy_mean": (A,),
        "policy_log_std": (A,),
    }
    fields = {
        name: torch.randn(B, K + (name != "reward_logits"), *shape, generator=g, requires_grad=True)
        for name, shape in shapes.items()
    }
    return Prediction(**fields, batch_size=[B])


@pytest.fixture
def targets() -> Targets:
    """Windows that hold 4 rows, 4 of which the last is terminal, 2 rows, and 1."""
    g = torch.Generator().manual_seed(1)
    value = 20 * torch.randn(B, K + 1, generator=g)
    length = torch.tensor([4, 4, 2, 1])
    valid = torch.arange(K + 1) < length[:, None]
    final = torch.zeros(B, K + 1, dtype=torch.bool)
    final[1, 3] = True
    return Targets(
        reward=torch.randn(B, K, generator=g),
        value=value,
        value_td=value,
        value_search=value,
        value_variance=value.abs(),
        action=torch.rand(B, K + 1, C, A, generator=g) * 1.8 - 0.9,
        action_weights=torch.rand(B, K + 1, C, generator=g).softmax(-1),
        reward_valid=valid[:, 1:],
        value_valid=valid,
        policy_valid=valid & ~final,
        terminal=final,
        batch_size=[B],
    )


def cross_entropy(logits: Tensor, x: Tensor, support: Support) -> Tensor:
    return -(two_hot(x, support) * logits.log_softmax(-1)).sum()


def loop_reward(p: Prediction, t: Targets, b: int) -> Tensor:
    steps = [k for k in range(K) if t.reward_valid[b, k]]
    return sum((cross_entropy(p.reward_logits[b, k], t.reward[b, k], REWARDS) for k in steps), torch.zeros(())) / K


def loop_value(p: Prediction, t: Targets, b: int) -> Tensor:
    total = torch.zeros(())
    for k in range(K + 1):
        for head in range(V):
            if t.value_valid[b, k]:
                total = total + cross_entropy(p.value_logits[b, k, head], t.value[b, k], SUPPORT) / V
    return total / K


def loop_policy(p: Prediction, t: Targets, b: int) -> Tensor:
    total = torch.zeros(())
    for k, c, a in itertools.product(range(K + 1), range(C), range(A)):
        if t.policy_valid[b, k] and MASK[b, a]:
            std, action = p.policy_log_std[b, k, a].exp(), t.action[b, k, c, a]
            z = (torch.atanh(action) - p.policy_mean[b, k, a]) / std
            log_density = -z * z / 2 - (std * math.sqrt(2 * math.pi) * (1 - action * action)).log()
            total = total - t.action_weights[b, k, c] * log_density
    return total / K


def loop_path(p: Prediction, t: Targets, b: int) -> Tensor:
    """Terminal states have the value 0."""
    total = torch.zeros(())
    for k in range(K):
        if t.reward_valid[b, k]:
            terminal = t.terminal[b, k + 1]
            after = 0.0 if terminal else torch.stack([decode(x, SUPPORT) for x in p.value_logits[b, k + 1]]).mean()
            path = (decode(p.reward_logits[b, k], REWARDS) + DISCOUNT * after).detach()
            total = total + sum(cross_entropy(p.value_logits[b, k, v], path, SUPPORT) for v in range(V)) / V
    return total / K


def path(p: Prediction, t: Targets) -> Tensor:
    return path_consistency_loss(p, t, reward_support=REWARDS, value_support=SUPPORT, discount=DISCOUNT)


NOISE = torch.randn(B, K + 1, A, generator=torch.Generator().manual_seed(2))
LOSSES = {
    "reward": lambda p, t: reward_loss(p, t, REWARDS),
    "value": lambda p, t: value_loss(p, t, SUPPORT),
    "policy": lambda p, t: policy_loss(p, t, MASK),
    "entropy": lambda p, t: policy_entropy(p, t.policy_valid, MASK, NOISE),
    "path": path,
}
LOOPS = {"reward": loop_reward, "value": loop_value, "policy": loop_policy, "path": loop_path}


@pytest.mark.parametrize("name", LOOPS)
def test_equals_its_loop(name, prediction, targets):
    ours = LOSSES[name](prediction, targets)
    loop = torch.stack([LOOPS[name](prediction, targets, b) for b in range(B)])
    torch.testing.assert_close(ours, loop, rtol=1e-4, atol=1e-5)
    assert (ours[:2] != 0).all()


def test_entropy_is_the_entropy_of_valid_positions(prediction, targets):
    h = squashed_gaussian.entropy(prediction.policy_mean, prediction.policy_log_std, MASK[:, None], NOISE)
    expected = (h * targets.policy_valid).sum(-1) / K
    torch.testing.assert_close(LOSSES["entropy"](prediction, targets), expected)


@pytest.mark.parametrize("name", LOSSES)
def test_masked_positions_change_neither_loss_nor_gradient(name, prediction, targets):
    """Targets and predictions there may be anything finite."""
    clean = LOSSES[name](prediction, targets)
    garbage = targets.clone()
    garbage.reward[~targets.reward_valid] = 1e6
    garbage.value[~targets.value_valid] = -1e6
    garbage.action[~targets.policy_valid] = 0.77
    other = prediction.clone().detach()
    for field in (other.value_logits, other.policy_mean, other.policy_log_std):
        field[~targets.value_valid] = 5.0
    other.reward_logits[~targets.reward_valid] = 5.0
    fields = {n: getattr(other, n).requires_grad_() for n in ("value_logits", "reward_logits", "policy_mean")}
    loss = LOSSES[name](other, garbage)
    torch.testing.assert_close(loss, clean)
    loss.sum().backward()
    valid = {
        "value_logits": targets.value_valid,
        "reward_logits": targets.reward_valid,
        "policy_mean": targets.policy_valid,
    }
    for n, field in fields.items():
        if field.grad is not None:
            assert field.grad.isfinite().all()
            assert (field.grad[~valid[n]] == 0).all() and (field.grad[valid[n]] != 0).any()


def test_a_window_of_one_row_still_trains_value_and_policy(prediction, targets):
    losses = {name: loss(prediction, targets)[3].item() for name, loss in LOSSES.items()}
    assert losses["reward"] == losses["path"] == 0
    assert losses["value"] != 0 and losses["policy"] != 0


def test_path_consistency_moves_only_the_earlier_value(prediction, targets):
    path(prediction, targets).sum().backward()
    assert prediction.reward_logits.grad is None and prediction.policy_mean.grad is None
    gradient = prediction.value_logits.grad
    assert (gradient[:, :-1][targets.reward_valid] != 0).any(-1).all()
    assert (gradient[:, -1] == 0).all()


def test_path_consistency_stops_at_a_terminal_state(prediction, targets):
    """The value predicted for the state after termination plays no part; after truncation it does."""
    moved = prediction.clone().detach()
    moved.value_logits[:, K] = torch.linspace(0, 9, S)
    change = (path(moved, targets) - path(prediction, targets)).abs()
    assert change[0] > 1e-3 and change[1] == 0


def test_path_consistency_of_a_consistent_prediction_is_its_entropy_floor(targets):
    """Rewards 1 and values 10, 10, 10, 10 with γ = 0.9: the target is the prediction itself."""
    reward, value = torch.ones(B, K), torch.full((B, K + 1, V), 10.0)
    smooth = lambda x, support: (two_hot(x, support) + 1e-12).log()  # noqa: E731
    p = Prediction(
        latent=torch.zeros(B, K + 1, 1),
        reward_logits=smooth(reward, REWARDS),
        value_logits=smooth(value, SUPPORT),
        policy_mean=torch.zeros(B, K + 1, A),
        policy_log_std=torch.zeros(B, K + 1, A),
        batch_size=[B],
    )
    q = two_hot(torch.tensor(10.0), SUPPORT)
    floor = -torch.special.xlogy(q, q).sum()
    torch.testing.assert_close(path(p, targets)[0], floor, rtol=1e-3, atol=1e-3)


def test_consistency_is_minus_cosine_and_stops_at_the_observed_side():
    g = torch.Generator().manual_seed(0)
    predicted, observed = (torch.randn(B, K, 6, generator=g, requires_grad=True) for _ in range(2))
    valid = torch.tensor([[True] * 3, [True, True, False], [True, False, False], [False] * 3])
    ours = consistency_loss(predicted, observed, valid)
    for b in range(B):
        cosines = [F.cosine_similarity(predicted[b, k], observed[b, k], dim=0) for k in range(K) if valid[b, k]]
        torch.testing.assert_close(ours[b], -sum(cosines, torch.zeros(())) / K)
    ours.sum().backward()
    assert observed.grad is None
    assert (predicted.grad[~valid] == 0).all() and (predicted.grad[valid] != 0).any()
    aligned = consistency_loss(observed.detach() * 3, observed, torch.ones(B, K, dtype=torch.bool))
    torch.testing.assert_close(aligned, torch.full((B,), -1.0))


def test_mean_over_unroll_divides_by_k_whatever_is_valid():
    per_step = torch.tensor([[1.0, 2.0, 4.0], [1.0, math.nan, math.inf]])
    valid = torch.tensor([[True, True, True], [True, False, False]])
    torch.testing.assert_close(masked_mean_over_unroll(per_step, valid, 2), torch.tensor([3.5, 0.5]))


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0])
def test_scale_gradient_keeps_the_value(scale):
    x = torch.randn(100, requires_grad=True)
    y = scale_gradient(x, scale)
    torch.testing.assert_close(y, x)
    (y * 3).sum().backward()
    torch.testing.assert_close(x.grad, torch.full((100,), 3 * scale))
