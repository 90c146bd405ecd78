"""The tanh-Gaussian against torch.distributions and a numerical integral; what masked dimensions do: nothing."""

import math

import pytest
import torch
from torch.distributions import Independent, Normal, TanhTransform, TransformedDistribution
from torch.distributions import kl_divergence as torch_kl_divergence

from ezm_lightning.ops.squashed_gaussian import (
    MAX_ACTION,
    SoftsignBound,
    TanhBound,
    entropy,
    kl_divergence,
    log_prob,
    sample,
)

MASK = torch.tensor([1.0, 1.0, 0.0])


def gaussians(*shape: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean, log σ and noise, all of this shape."""
    g = torch.Generator().manual_seed(0)
    mean, log_std, noise = (torch.randn(*shape, generator=g) for _ in range(3))
    return 0.5 * mean, 0.4 * log_std - 0.7, noise


def test_log_prob_equals_torch_distributions():
    mean, log_std, noise = (x.double() for x in gaussians(500, 3))
    action = sample(mean, log_std, noise, torch.ones(3, dtype=torch.float64))
    inside = (action.abs() < MAX_ACTION).all(-1)
    assert inside.sum() > 400
    policy = TransformedDistribution(Normal(mean, log_std.exp()), TanhTransform())
    expected = Independent(policy, 1).log_prob(action)[inside]
    ours = log_prob(action, mean, log_std, torch.ones(3, dtype=torch.float64))[inside]
    torch.testing.assert_close(ours, expected, atol=1e-8, rtol=1e-8)
    ours = log_prob(action.float(), mean.float(), log_std.float(), torch.ones(3))[inside]
    torch.testing.assert_close(ours.double(), expected, atol=1e-3, rtol=1e-4)


def test_kl_divergence_equals_torch_distributions():
    mean, log_std, other = (x.double() for x in gaussians(50, 3))
    ours = kl_divergence(mean, log_std, other, -log_std, MASK.double())
    theirs = torch_kl_divergence(Normal(mean, log_std.exp()), Normal(other, (-log_std).exp()))
    torch.testing.assert_close(ours, (theirs * MASK).sum(-1))
    assert (kl_divergence(mean, log_std, mean, log_std, MASK.double()) == 0).all()


def test_density_integrates_to_one():
    action = torch.linspace(-0.9985, 0.9985, 20001, dtype=torch.float64)[:, None]
    mean, log_std, one = (torch.tensor([x], dtype=torch.float64) for x in (0.3, -1.0, 1.0))
    density = log_prob(action, mean.expand_as(action), log_std.expand_as(action), one).exp()
    assert torch.trapezoid(density, action[:, 0]) == pytest.approx(1, abs=1e-5)


def test_log_prob_of_a_border_action_is_that_of_the_clip():
    mean, log_std, _ = gaussians(4, 3)
    at_clip = log_prob(torch.full((4, 3), MAX_ACTION), mean, log_std, MASK)
    for border in (1.0, 5.0):
        assert torch.equal(log_prob(torch.full((4, 3), border), mean, log_std, MASK), at_clip)
    assert at_clip.isfinite().all()


def test_sample_by_hand_and_within_the_clip():
    mean, log_std, noise = gaussians(200, 3)
    action = sample(mean, log_std, 20 * noise, torch.ones(3), 3.0)
    expected = (mean + 3 * log_std.exp() * 20 * noise).tanh().clamp(-0.999, 0.999)
    torch.testing.assert_close(action, expected)
    assert action.abs().max() == pytest.approx(MAX_ACTION)


def test_sample_draws_each_candidate_at_its_own_multiple():
    mean, log_std, noise = gaussians(2, 4, 3)
    multiplier = torch.tensor([0.0, 1.0, 2.0, 3.0])[:, None]
    together = sample(mean, log_std, noise, torch.ones(2, 1, 3), multiplier)
    for c in range(4):
        alone = sample(mean[:, c], log_std[:, c], noise[:, c], torch.ones(3), float(multiplier[c]))
        torch.testing.assert_close(together[:, c], alone)
    torch.testing.assert_close(together[:, 0], mean[:, 0].tanh().clamp(-0.999, 0.999))


def test_masked_dimensions_are_exactly_zero_in_samples():
    mean, log_std, noise = gaussians(50, 3)
    assert (sample(mean, log_std, noise, MASK)[:, 2] == 0).all()
    assert (sample(mean, log_std, noise, MASK)[:, :2] != 0).all()


@pytest.mark.parametrize("garbage", [-5.0, 1.0, 1e4])
def test_masked_dimensions_carry_nothing(garbage):
    """Neither value nor gradient, whatever stands there."""
    mean, log_std, noise = gaussians(50, 3)
    action = sample(mean, log_std, noise, MASK)
    clean_log_prob = log_prob(action, mean, log_std, MASK)
    clean_entropy = entropy(mean, log_std, MASK, noise)
    torch.testing.assert_close(clean_log_prob, log_prob(action[:, :2], mean[:, :2], log_std[:, :2], MASK[:2]))
    torch.testing.assert_close(clean_entropy, entropy(mean[:, :2], log_std[:, :2], MASK[:2], noise[:, :2]))
    action, mean, noise = (torch.cat([x[:, :2], torch.full((50, 1), garbage)], -1) for x in (action, mean, noise))
    mean.requires_grad_()
    assert torch.equal(log_prob(action, mean, log_std, MASK), clean_log_prob)
    assert torch.equal(entropy(mean, log_std, MASK, noise), clean_entropy)
    (log_prob(action, mean, log_std, MASK) + entropy(mean, log_std, MASK, noise)).sum().backward()
    assert (mean.grad[:, 2] == 0).all() and (mean.grad[:, :2] != 0).any()


@pytest.mark.parametrize("mean, log_std", [(0.0, -2.0), (0.7, -0.5), (-1.5, 0.5)])
def test_entropy_converges_to_the_integral(mean, log_std):
    """−∫ N(u) log π(tanh u) du."""
    noise = torch.randn(200_000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    m, s = (torch.tensor([[x]], dtype=torch.float64) for x in (mean, log_std))
    estimate = entropy(m.expand_as(noise), s.expand_as(noise), torch.ones(1, dtype=torch.float64), noise).mean()
    u = torch.linspace(mean - 10 * math.exp(log_std), mean + 10 * math.exp(log_std), 40001, dtype=torch.float64)
    base = Normal(mean, math.exp(log_std))
    log_policy = base.log_prob(u) - TanhTransform().log_abs_det_jacobian(u, u.tanh())
    integral = -torch.trapezoid(base.log_prob(u).exp() * log_policy, u)
    assert estimate.item() == pytest.approx(integral.item(), abs=0.01)


def test_entropy_is_finite_far_out():
    mean = torch.tensor([[50.0, -50.0, 0.0]], requires_grad=True)
    value = entropy(mean, torch.full((1, 3), 2.0), torch.ones(3), torch.full((1, 3), 3.0))
    value.sum().backward()
    assert value.isfinite().all() and mean.grad.isfinite().all()


@pytest.mark.parametrize("bound", [TanhBound(-10.0, 2.0), SoftsignBound(-10.0, 2.0)])
def test_log_std_stays_in_its_range_and_grows_with_raw(bound):
    raw = torch.linspace(-3, 3, 101, dtype=torch.float64)
    log_std = bound(raw)
    assert (log_std > -10).all() and (log_std < 2).all() and (log_std.diff() > 0).all()
    ends = bound(torch.tensor([-1e9, 0.0, 1e9]))
    torch.testing.assert_close(ends, torch.tensor([-10.0, -4.0, 2.0]))


@pytest.mark.parametrize("low, high", [(-10.0, 2.0), (-5.0, 1.0)])
@pytest.mark.parametrize("log_std", [-4.9, -4.0, -1.2, 0.0, 0.9])
@pytest.mark.parametrize("kind", [TanhBound, SoftsignBound])
def test_raw_of_inverts(kind, low, high, log_std):
    bound = kind(low, high)
    raw = torch.tensor(bound.raw_of(log_std), dtype=torch.float64)
    assert bound(raw).item() == pytest.approx(log_std)


@pytest.mark.parametrize("log_std", [-10.0, 2.0, 3.0])
def test_raw_of_refuses_what_cannot_be_reached(log_std):
    with pytest.raises(ValueError, match=r"outside the policy's range \(-10.0, 2.0\)"):
        TanhBound().raw_of(log_std)


def test_softsign_keeps_a_gradient_where_tanh_has_none():
    def slope(bound) -> float:
        raw = torch.tensor(8.0, requires_grad=True)
        return torch.autograd.grad(bound(raw), raw)[0].item()

    assert slope(SoftsignBound(-3.0, -0.5)) == pytest.approx(1.25 / 81)
    assert slope(TanhBound(-3.0, -0.5)) < 1e-5
