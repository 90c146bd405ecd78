"""Layer norm without an affine map has the bits of PyTorch's, forwards and backwards, on either side of ``LARGE``."""

from __future__ import annotations

import pytest
import torch

from ezm_lightning.ops.norms import LARGE, layer_norm


@pytest.mark.parametrize("shape", [(3, 5), (1, LARGE), (129, 160), (2, 256, 128)])
def test_it_is_pytorchs_layer_norm_to_the_bit(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).mul_(3).add_(1).requires_grad_()
    ours, plain = layer_norm(x, 1e-6), torch.layer_norm(x, shape[-1:], eps=1e-6)
    assert torch.equal(ours, plain)
    gradients = [torch.autograd.grad(y.square().mul(x).sum(), x)[0] for y in (ours, plain)]
    assert torch.equal(*gradients)


@pytest.mark.parametrize("rows", [4, 4096])
def test_it_has_mean_0_and_deviation_1(rows):
    y = layer_norm(torch.rand(rows, 64) * 50)
    torch.testing.assert_close(y.mean(-1), torch.zeros(rows), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.std(-1, correction=0), torch.ones(rows), atol=1e-4, rtol=0)
