"""Categorical scalars: hand values, inverses, and TorchRL as the second opinion."""

import math

import numpy as np
import pytest
import torch
from torchrl.modules.functional import signed_hyperbolic as torchrl_hyperbolic
from torchrl.modules.functional import signed_parabolic as torchrl_parabolic
from torchrl.objectives import two_hot_cross_entropy as torchrl_cross_entropy
from torchrl.objectives import two_hot_encode

from ezm_lightning.ops.support import (
    Support,
    clipped_share,
    decode,
    signed_hyperbolic,
    signed_parabolic,
    two_hot,
    two_hot_cross_entropy,
)

SUPPORT = Support(-299.0, 299.0)
SUPPORTS = [SUPPORT, Support(0.0, 1.0), Support(-3.0, 120.0, 21), Support(-1.0, 1.0, 2)]


def magnitudes(low: float = 1e-6) -> torch.Tensor:
    """Both signs, evenly in the logarithm, up to 1e4; and zero."""
    x = torch.tensor(np.geomspace(low, 1e4, 4001))
    return torch.cat([-x, torch.zeros(1, dtype=torch.float64), x])


def reals(support: Support, n: int = 400) -> torch.Tensor:
    return torch.linspace(support.low, support.high, n)


def test_transform_by_hand():
    x = torch.tensor([0.0, 3.0, -3.0, 99.0, -9999.0], dtype=torch.float64)
    expected = torch.tensor([0.0, 1.003, -1.003, 9.099, -(99.0 + 9.999)], dtype=torch.float64)
    torch.testing.assert_close(signed_hyperbolic(x), expected)
    torch.testing.assert_close(signed_parabolic(expected), x)


def test_inverse_in_float64_is_exact_to_1e_11():
    x = magnitudes()
    torch.testing.assert_close(signed_parabolic(signed_hyperbolic(x)), x, rtol=1e-11, atol=0)
    y = magnitudes()
    torch.testing.assert_close(signed_hyperbolic(signed_parabolic(y)), y, rtol=1e-11, atol=0)


def test_float32_relative_error_is_below_1e_5():
    """Also for small rewards, where (z − 1) would cancel."""
    y = signed_hyperbolic(magnitudes()).float()
    exact = signed_parabolic(y.double())
    torch.testing.assert_close(signed_parabolic(y).double(), exact, rtol=1e-5, atol=0)
    x = magnitudes().float()
    torch.testing.assert_close(signed_parabolic(signed_hyperbolic(x)), x, rtol=1e-5, atol=0)


def test_transform_keeps_order_and_sign():
    y = signed_hyperbolic(magnitudes().sort().values)
    assert (y.diff() > 0).all()
    torch.testing.assert_close(signed_hyperbolic(-magnitudes()), -signed_hyperbolic(magnitudes()))


@pytest.mark.parametrize("dtype, rtol", [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_transforms_equal_torchrl(dtype, rtol):
    x = magnitudes(1e-2).to(dtype)
    torch.testing.assert_close(signed_hyperbolic(x), torchrl_hyperbolic(x), rtol=rtol, atol=1e-6)
    torch.testing.assert_close(signed_parabolic(x), torchrl_parabolic(x), rtol=rtol, atol=1e-6)


def test_atoms_span_the_transformed_range_evenly():
    atoms = SUPPORT.atoms(torch.zeros(1, dtype=torch.float64))
    assert atoms.shape == (51,) and atoms[25].abs() < 1e-12
    assert atoms[-1].item() == pytest.approx(math.sqrt(300) - 1 + 0.299)
    torch.testing.assert_close(atoms.diff(), torch.full((50,), (atoms[-1] - atoms[0]).item() / 50, dtype=torch.float64))


def test_two_hot_by_hand():
    support = Support(-3.0, 3.0, 3)  # atoms −1.003, 0, 1.003
    x = torch.tensor([-3.0, 0.0, 3.0, 0.69], dtype=torch.float64)  # h(0.69) = 0.3 + 0.00069
    upper = 0.30069 / 1.003
    expected = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1 - upper, upper]], dtype=torch.float64)
    torch.testing.assert_close(two_hot(x, support), expected)


@pytest.mark.parametrize("support", SUPPORTS)
def test_two_hot_is_a_distribution_with_mean_h(support):
    x = reals(support).double()
    p = two_hot(x, support)
    assert (p >= 0).all() and ((p > 0).sum(-1) <= 2).all()
    torch.testing.assert_close(p.sum(-1), torch.ones_like(x))
    torch.testing.assert_close(p @ support.atoms(x), signed_hyperbolic(x))


@pytest.mark.parametrize("support", SUPPORTS)
def test_two_hot_clips_at_the_ends(support):
    p = two_hot(torch.tensor([support.low - 1e6, support.high + 1e6, support.low, support.high]), support)
    ends = torch.zeros(2, support.num_bins)
    ends[0, 0] = ends[1, -1] = 1
    torch.testing.assert_close(p, ends.repeat(2, 1), atol=1e-4, rtol=0)


@pytest.mark.parametrize("support", SUPPORTS)
def test_two_hot_equals_torchrl(support):
    x = reals(support).double().view(20, 20)
    torch.testing.assert_close(two_hot(x, support), two_hot_encode(signed_hyperbolic(x), support.atoms(x)))


@pytest.mark.parametrize("support", SUPPORTS)
@pytest.mark.parametrize("dtype, rtol", [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_decode_inverts_two_hot(support, dtype, rtol):
    x = reals(support).to(dtype)
    torch.testing.assert_close(decode(two_hot(x, support).log(), support), x, rtol=rtol, atol=rtol)


def test_decode_of_equal_logits_is_the_middle_of_the_transformed_range():
    logits = torch.full((2, 3, 51), 7.0)
    torch.testing.assert_close(decode(logits, SUPPORT), torch.zeros(2, 3), atol=1e-5, rtol=0)
    middle = signed_parabolic(signed_hyperbolic(torch.tensor([0.0, 100.0])).mean())
    torch.testing.assert_close(decode(logits, Support(0.0, 100.0)), middle.expand(2, 3), rtol=1e-5, atol=0)


def test_decode_of_half_precision_logits_is_float32():
    logits = two_hot(torch.tensor([12.5]), SUPPORT).clamp(min=1e-4).log()
    assert decode(logits.bfloat16(), SUPPORT).dtype == torch.float32
    torch.testing.assert_close(decode(logits.half(), SUPPORT), decode(logits, SUPPORT), rtol=1e-2, atol=0)


@pytest.mark.parametrize("support", SUPPORTS)
def test_cross_entropy_equals_the_dense_form_and_torchrl(support):
    x = torch.cat([reals(support, 38), torch.tensor([support.low - 5, support.high + 5])]).view(8, 5)
    logits = torch.randn(8, 5, support.num_bins, generator=torch.Generator().manual_seed(0))
    ours = two_hot_cross_entropy(logits, x, support)
    torch.testing.assert_close(ours, -(two_hot(x, support) * logits.log_softmax(-1)).sum(-1))
    theirs = torchrl_cross_entropy(logits, signed_hyperbolic(x), support.atoms(x))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_cross_entropy_sends_gradient_to_logits_alone():
    """And that gradient is softmax − target."""
    x = torch.tensor([-20.0, 0.3, 150.0], requires_grad=True)
    logits = torch.randn(3, 51, generator=torch.Generator().manual_seed(0), requires_grad=True)
    two_hot_cross_entropy(logits, x, SUPPORT).sum().backward()
    assert x.grad is None
    torch.testing.assert_close(logits.grad, (logits.softmax(-1) - two_hot(x, SUPPORT)).detach(), rtol=1e-4, atol=1e-6)


def test_cross_entropy_of_a_non_finite_target_is_nan_and_no_index_error():
    """So that the guard on the loss can say which task it was."""
    loss = two_hot_cross_entropy(torch.zeros(2, 51), torch.tensor([math.nan, 1.0]), SUPPORT)
    assert loss[0].isnan() and loss[1] == pytest.approx(math.log(51), rel=1e-5)
    assert two_hot(torch.tensor([math.nan]), SUPPORT).isnan().any()


def test_clipped_share_counts_both_ends_and_not_the_bounds():
    x = torch.tensor([[-2.0, -1.0, 0.0, 3.0], [3.1, -1.1, 1.0, 2.0]])
    everywhere = torch.ones_like(x, dtype=torch.bool)
    assert clipped_share(x, Support(-1.0, 3.0), everywhere) == 3 / 8
    assert clipped_share(x, Support(-1.0, 3.0), x < 3) == 2 / 6
    assert clipped_share(x, Support(-1.0, 3.0), ~everywhere) == 0
