"""CUDA tensors that are not there: they take the GPU's way, and nothing of them stays behind."""

import pytest
import torch
from torch import nn

from benchmarks.gpu_check.fake_cuda import DEVICE, FakeGenerator, autocast, backward, fake_cuda, on_fake_cuda


def loss_of(layer: nn.Linear, shift: nn.Parameter) -> torch.Tensor:
    """Uses a weight twice, broadcasts a parameter, indexes, and multiplies in another type."""
    x = torch.linspace(-1, 1, 12).reshape(3, 4)
    hidden = layer(layer(x).relu() + shift)[:, 1:]
    return (hidden.double() * hidden.detach()).float().pow(2).mean() + hidden[[0, 2]].abs().sum()


def test_gradients_are_those_of_the_engine():
    torch.manual_seed(0)
    layer, shift = nn.Linear(4, 4), nn.Parameter(torch.rand(1, 4))
    weights = [*layer.parameters(), shift]
    loss_of(layer, shift).backward()
    expected = [weight.grad.clone() for weight in weights]
    for weight in weights:
        weight.grad = None
    backward(loss_of(layer, shift))
    for weight, gradient in zip(weights, expected, strict=True):
        torch.testing.assert_close(weight.grad, gradient)
    backward(loss_of(layer, shift))  # gradients add up
    torch.testing.assert_close(weights[0].grad, 2 * expected[0])


def test_a_module_computes_on_the_gpu_that_is_not_there():
    with torch.device("meta"):
        layer = nn.Linear(4, 2)
    with fake_cuda():
        on_fake_cuda(layer)
        x = torch.randn(3, 4, generator=FakeGenerator(), device=DEVICE)
        with autocast(torch.bfloat16):
            y = layer(x)
        assert (y.device.type, y.dtype, tuple(y[:, None].shape)) == ("cuda", torch.bfloat16, (3, 1, 2))
        backward(y.float().sum())
        assert layer.weight.grad.device.type == "cuda" and layer.weight.grad.dtype == torch.float32
        assert layer(x).dtype == torch.float32  # autocast has ended


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_afterwards_there_is_no_gpu_again():
    with fake_cuda():
        torch.zeros(2, device=DEVICE)[:1] = 1
    with pytest.raises((RuntimeError, AssertionError)):
        torch.zeros(2, device="cuda")
