"""Stacked heads for search: three ways to the same logits. The number of heads and the device decide which is fastest.

``layers`` are three stacked Layers (V heads side by side); ``norm`` is applied between a linear layer and its ReLU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ezm_lightning.model.packed.weights import Layer

Norm = Callable[[Tensor], Tensor]


def no_norm(x: Tensor) -> Tensor:
    """x itself: the norm is part of the layer before it."""
    return x


def linear(x: Tensor, layer: Layer) -> Tensor:
    """x W^T + b for rows [M, in]."""
    return F.linear(x, layer.weight, layer.bias)


def side_by_side(x: Tensor, layer: Layer) -> Tensor:
    """n inputs [n, M, in], each through its own layer: [n, M, out]."""
    return torch.baddbmm(layer.bias, x, layer.weight.mT)


def one_head(x: Tensor, layers: Sequence[Layer], norm: Norm) -> Tensor:
    """Logits [M, S] of one head, whose layers are not stacked, at rows x [M, H]."""
    x = norm(linear(x, layers[0])).relu_()
    x = norm(linear(x, layers[1])).relu_()
    return linear(x, layers[2])


def all_heads(x: Tensor, layers: Sequence[Layer], norm: Norm) -> Tensor:
    """Logits [V, M, S] of every head at rows x [M, H]; the first layers are one product."""
    first, second, last = layers
    num_heads, _, width = first.bias.shape
    y = F.linear(x, first.weight.view(num_heads * width, -1), first.bias.view(-1)).view(-1, num_heads, width)
    y = norm(y).relu_().transpose(0, 1)  # [V, M, hidden]
    return side_by_side(norm(side_by_side(y, second)).relu_(), last)


def gathered_heads(x: Tensor, layers: Sequence[Layer], norm: Norm, heads: Tensor) -> Tensor:
    """Logits [B, k, h, S] at x [B, k, H] of the heads [k, h] of each column, whose weights are gathered.

    The heads stay on the device and every shape is fixed, so it suits CUDA graphs. The gathered weights are read and
    written once more, which pays off only if the memory bandwidth is large.
    """
    columns, per_column = heads.shape
    y = x.transpose(0, 1)[:, None].expand(-1, per_column, -1, -1).flatten(0, 1)  # [k h, B, H]
    index = heads.flatten()
    for layer in layers[:2]:
        y = norm(torch.baddbmm(layer.bias[index], y, layer.weight[index].mT)).relu_()
    y = torch.baddbmm(layers[2].bias[index], y, layers[2].weight[index].mT)
    return y.unflatten(0, (columns, per_column)).permute(2, 0, 1, 3)


def grouped_heads(x: Tensor, layers: Sequence[Layer], norm: Norm, heads: Sequence[Sequence[int]]) -> Tensor:
    """The same logits with ``heads`` on the host: the rows of each head are computed together."""
    out = x.new_empty(*x.shape[:2], len(heads[0]), layers[2].bias.shape[-1])
    for head in range(len(layers[0].bias)):
        places = [(column, read.index(head)) for column, read in enumerate(heads) if head in read]
        if places:
            column, place = torch.tensor(places, device=x.device).unbind(1)
            head_layers = [Layer(weight[head], bias[head, 0]) for weight, bias in layers]
            rows = x.index_select(1, column)
            out[:, column, place] = one_head(rows.flatten(0, 1), head_layers, norm).view(*rows.shape[:2], -1)
    return out
