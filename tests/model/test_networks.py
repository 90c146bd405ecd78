"""Bricks against plain torch layers and numpy."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ezm_lightning.model.networks import (
    ObsNorm,
    ResBlock,
    ResidualTransition,
    StackedBatchNorm,
    StackedHeads,
    StackedLayerNorm,
    StackedLinear,
)

HEADS, IN, HIDDEN, OUT = 3, 6, 8, 5
PLAIN_NORM = {
    StackedBatchNorm: lambda: nn.BatchNorm1d(HIDDEN),
    StackedLayerNorm: lambda: nn.LayerNorm(HIDDEN, elementwise_affine=False),
}


def plain_linear(stacked: StackedLinear, head: int) -> nn.Linear:
    """The ``head``-th of the stacked layers as an nn.Linear."""
    plain = nn.Linear(*stacked.weight.shape[1:])
    plain.weight.data.copy_(stacked.weight[head].T)
    plain.bias.data.copy_(stacked.bias[head, 0])
    return plain


def plain_head(stacked: StackedHeads, head: int, make_norm) -> nn.Sequential:
    """One head of plain layers with the same weights; batch norm's affine is one slice of the stack's."""
    first, second, last = (plain_linear(stacked.body[i], head) for i in (0, 3, 6))
    norms = [make_norm(), make_norm()]
    part = slice(head * HIDDEN, (head + 1) * HIDDEN)
    for norm, i in zip(norms, (1, 4), strict=True):
        if isinstance(norm, nn.BatchNorm1d):
            norm.weight.data.copy_(stacked.body[i].norm.weight[part])
            norm.bias.data.copy_(stacked.body[i].norm.bias[part])
    return nn.Sequential(first, norms[0], nn.ReLU(), second, norms[1], nn.ReLU(), last)


def stacked_and_plain(norm) -> tuple[StackedHeads, nn.ModuleList]:
    torch.manual_seed(0)
    stacked = StackedHeads(HEADS, IN, HIDDEN, OUT, norm=norm)
    for i in (1, 4):
        for parameter in stacked.body[i].parameters():
            nn.init.uniform_(parameter, 0.5, 1.5)
    return stacked, nn.ModuleList(plain_head(stacked, h, PLAIN_NORM[norm]) for h in range(HEADS))


def loop(heads: nn.ModuleList, x: Tensor) -> Tensor:
    """[..., in] -> [..., V, out]."""
    flat = x.reshape(-1, x.shape[-1])
    return torch.stack([head(flat) for head in heads], 1).view(*x.shape[:-1], len(heads), -1)


@pytest.mark.parametrize("norm", PLAIN_NORM)
def test_stacked_heads_equal_a_loop_over_plain_heads(norm):
    """Values in train and eval mode after steps that move the running statistics; gradients of input and weights."""
    stacked, plain = stacked_and_plain(norm)
    for step in range(3):
        x = torch.randn(4, 7, IN, generator=torch.Generator().manual_seed(step)) * (step + 1)
        torch.testing.assert_close(stacked(x), loop(plain, x))
    xs = [x.clone().requires_grad_() for _ in range(2)]
    weights = torch.randn(4, 7, HEADS, OUT)
    (stacked(xs[0]) * weights).sum().backward()
    (loop(plain, xs[1]) * weights).sum().backward()
    torch.testing.assert_close(xs[0].grad, xs[1].grad, rtol=1e-4, atol=1e-5)
    for h in range(HEADS):
        for i in (0, 3, 6):
            torch.testing.assert_close(stacked.body[i].weight.grad[h], plain[h][i].weight.grad.T, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(stacked.body[i].bias.grad[h, 0], plain[h][i].bias.grad, rtol=1e-4, atol=1e-4)
    stacked.eval(), plain.eval()
    torch.testing.assert_close(stacked(x), loop(plain, x))


def test_a_head_feels_no_other_head():
    stacked, _ = stacked_and_plain(StackedBatchNorm)
    x = torch.randn(10, IN)
    before = stacked(x)
    stacked.body[3].weight.data[1] += 1
    after = stacked(x)
    torch.testing.assert_close(after[:, [0, 2]], before[:, [0, 2]])
    assert not torch.allclose(after[:, 1], before[:, 1])


def test_stacked_linear_starts_like_nn_linear():
    torch.manual_seed(0)
    stacked, plain = StackedLinear(5, 64, 200), nn.Linear(64, 1000)
    for ours, theirs in ((stacked.weight, plain.weight), (stacked.bias, plain.bias)):
        assert ours.abs().max() <= 1 / 8
        assert ours.std().item() == pytest.approx(theirs.std().item(), rel=0.1)
    assert not torch.equal(stacked.weight[0], stacked.weight[1])


def test_zero_init_leaves_the_last_layer_at_zero():
    heads = StackedHeads(2, IN, HIDDEN, OUT, zero_init=True)
    assert (heads(torch.randn(9, IN)) == 0).all()
    assert (heads.body[0].weight != 0).any()


def test_residual_bricks_by_formula():
    torch.manual_seed(0)
    block, x = ResBlock(IN), torch.randn(4, IN)
    hidden = (block.norm(x) @ block.fc1.weight.T + block.fc1.bias).clamp(min=0)
    torch.testing.assert_close(block(x), x + hidden @ block.fc2.weight.T + block.fc2.bias)
    step, z, extra = ResidualTransition(IN, 3, 1), torch.randn(4, IN), torch.randn(4, 3)
    hidden = step.fc1(step.norm(torch.cat([z, extra], 1))).relu()
    torch.testing.assert_close(step(z, extra[:, :1], extra[:, 1:]), step.blocks[0](z + step.fc2(hidden)))


MASKS = torch.tensor([[1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0]])  # nobody has the last dimension


def observations(n: int, task: Tensor, seed: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    scale, shift = torch.tensor([1.0, 5.0, 0.1, 1.0]), torch.tensor([0.0, 100.0, -3.0, 0.0])
    return torch.randn(n, 4, generator=g) * scale + shift + task[:, None]


def test_obs_norm_holds_the_moments_of_everything_seen():
    """Batches of uneven sizes and task mixes; garbage stands in padded dimensions."""
    norm, seen = ObsNorm(4), [[], [], [], []]
    for seed, n in enumerate((8, 1, 30, 4, 16)):
        task = (
            torch.randint(0, 2, (n,), generator=torch.Generator().manual_seed(seed)) if n > 4 else torch.zeros(n).long()
        )
        obs, mask = observations(n, task, seed), MASKS[task]
        norm.update_(torch.where(mask > 0, obs, 1e6), mask)
        for d in range(4):
            seen[d].append(obs[mask[:, d] > 0, d].numpy())
    for d in range(3):
        entries = np.concatenate(seen[d]).astype(np.float64)
        assert norm.count[d] == len(entries)
        assert norm.mean[d].item() == pytest.approx(entries.mean(), rel=1e-5, abs=1e-5)
        assert norm.var[d].item() == pytest.approx(entries.var(), rel=1e-4)
    assert (norm.mean[3], norm.var[3], norm.count[3]) == (0, 1, 0)


def test_obs_norm_does_not_mind_the_order_or_the_split():
    task = torch.arange(40) % 2
    obs, mask = observations(40, task, 0), MASKS[task]
    whole, parts = ObsNorm(4), ObsNorm(4)
    whole.update_(obs, mask)
    for rows in torch.randperm(40, generator=torch.Generator().manual_seed(0)).split(7):
        parts.update_(obs[rows], mask[rows])
    torch.testing.assert_close(parts.mean, whole.mean)
    torch.testing.assert_close(parts.var, whole.var)


def test_obs_norm_standardises_and_zeroes_padding():
    task = torch.arange(4000) % 2
    obs, mask = observations(4000, task, 0), MASKS[task]
    norm = ObsNorm(4)
    norm.update_(obs, mask)
    out = norm(torch.where(mask > 0, obs, 1e6), mask)
    assert (out[mask == 0] == 0).all()
    for d in range(3):
        entries = out[mask[:, d] > 0, d]
        assert entries.mean().abs() < 1e-3 and entries.std().item() == pytest.approx(1, abs=2e-3)


def test_obs_norm_passes_a_dimension_never_seen():
    obs = torch.randn(5, 4)
    torch.testing.assert_close(ObsNorm(4)(obs, torch.ones(5, 4)), obs, rtol=1e-5, atol=1e-5)
    norm = ObsNorm(4)
    norm.update_(obs, torch.zeros(5, 4))
    torch.testing.assert_close(norm(obs, torch.ones(5, 4)), obs, rtol=1e-5, atol=1e-5)


def test_obs_norm_keeps_small_variance_at_a_large_offset():
    """After many updates; naive sums of squares in float32 would be lost."""
    norm, rng = ObsNorm(1), np.random.default_rng(0)
    data = (1000 + 0.05 * rng.standard_normal((300, 64, 1))).astype(np.float32)
    for batch in data:
        norm.update_(torch.from_numpy(batch), torch.ones(64, 1))
    assert norm.var.item() == pytest.approx(data.astype(np.float64).var(), rel=1e-2)
    assert norm.count.item() == data.size


def test_obs_norm_travels_in_the_state_dict():
    norm, other = ObsNorm(4), ObsNorm(4)
    norm.update_(observations(9, torch.zeros(9), 0), torch.ones(9, 4))
    other.load_state_dict(norm.state_dict())
    for name, value in norm.named_buffers():
        assert torch.equal(value, other.get_buffer(name)), name
