"""The weights of a world model, multiplied out for search. Layers are stored as in ``nn.Linear``, [out, in]."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ezm_lightning.model.networks import ResidualTransition, StackedBatchNorm, StackedHeads, StackedLayerNorm
from ezm_lightning.model.world_model import WorldModel


class Layer(NamedTuple):
    """x W^T + b; with n layers side by side weight is [n, out, in] and bias [n, 1, out]."""

    weight: Tensor
    bias: Tensor


Blocks = list[tuple[Layer, Layer]]  # of a residual tower: x + W2 relu(W1 norm(x)), the norm without an affine map


@dataclass
class PackedWeights:
    """All weights that a search reads. An entry is a tensor, a Layer, or a list of Layers or of residual blocks."""

    embedding: Tensor  # [T, E], of norm at most 1
    obs_mean: Tensor  # [D], or [T, D] if each task has its own
    obs_scale: Tensor  # the same
    represent: Layer
    represent_norm: Layer  # gain and shift of the norm, before tanh
    representation: Blocks
    dynamics_in: Layer  # of norm([latent, embedding, action])
    action: Layer
    action_norm: Layer  # gain and shift
    reward_in: Layer  # of norm([latent, embedding, embedded action])
    transition_out: Layer  # from here on dynamics [0] and reward [1] are side by side
    transition: Blocks
    trunk: Blocks
    reward_head: list[Layer]  # the last is linear, the others have a ReLU
    value_heads: list[Layer]  # V side by side
    policy_head: list[Layer]

    def tensors(self) -> Iterator[Tensor]:
        """Every tensor, in a fixed order."""
        for field in fields(self):
            yield from _flat(getattr(self, field.name))

    def map(self, function: Callable[[Tensor], Tensor]) -> PackedWeights:
        """New weights with function(tensor) for every tensor, in the order of :meth:`tensors`."""
        return PackedWeights(**{field.name: _mapped(getattr(self, field.name), function) for field in fields(self)})

    def to(self, dtype: torch.dtype) -> PackedWeights:
        """A copy in this dtype; the statistics of observations stay float32."""
        copy = self.map(lambda x: x.to(dtype, copy=True).contiguous())
        copy.obs_mean, copy.obs_scale = self.obs_mean.clone(), self.obs_scale.clone()
        return copy

    def copy_(self, source: PackedWeights) -> None:
        """Copies the values of ``source`` in place."""
        torch._foreach_copy_(list(self.tensors()), list(source.tensors()))


def _flat(entry: Any) -> Iterator[Tensor]:
    if isinstance(entry, Tensor):
        yield entry
    else:
        for part in entry:
            yield from _flat(part)


def _mapped(entry: Any, function: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(entry, Tensor):
        return function(entry)
    mapped = [_mapped(part, function) for part in entry]
    return Layer(*mapped) if isinstance(entry, Layer) else type(entry)(mapped)


def pack(model: WorldModel) -> PackedWeights:
    """The weights of ``model`` in eval mode, on its device. Raises ValueError for an unknown head norm."""
    modules: Any = model
    first, norm, _, tower = modules.representation
    trunk, trunk_norm = modules.trunk
    action, action_norm, _ = modules.action_embedding
    dynamics, reward = modules.dynamics, modules.reward
    return PackedWeights(
        embedding=model.embed(torch.arange(model.num_tasks, device=model.action_mask.device)),
        obs_mean=model.obs_norm.mean,
        obs_scale=torch.rsqrt(model.obs_norm.var + model.obs_norm.epsilon),
        represent=_layer(first),
        represent_norm=_layer(norm),
        representation=_blocks(tower),
        dynamics_in=_behind_norm(dynamics.fc1, dynamics.norm),
        action=_layer(action),
        action_norm=_layer(action_norm),
        reward_in=_behind_norm(reward.fc1, reward.norm),
        transition_out=_side_by_side(_layer(dynamics.fc2), _layer(reward.fc2)),
        transition=_transition(dynamics, reward),
        trunk=_blocks(trunk),
        reward_head=_alone(_heads(modules.reward_head)),
        value_heads=_heads(modules.value_heads, trunk_norm),
        policy_head=_alone(_heads(modules.policy_head, trunk_norm)),
    )


def _layer(module: Any) -> Layer:
    return Layer(module.weight, module.bias)


def _behind_norm(linear: nn.Linear, norm: nn.LayerNorm) -> Layer:
    """W (gain x + shift) + b = (W gain) x + (W shift + b)."""
    return Layer(linear.weight * norm.weight, linear.bias + linear.weight @ norm.bias)


def _blocks(tower: nn.Sequential) -> Blocks:
    blocks: list[Any] = list(tower)
    return [(_behind_norm(block.fc1, block.norm), _layer(block.fc2)) for block in blocks]


def _transition(dynamics: ResidualTransition, reward: ResidualTransition) -> Blocks:
    """The blocks of both towers side by side."""
    pairs = zip(_blocks(dynamics.blocks), _blocks(reward.blocks), strict=True)
    return [(_side_by_side(left[0], right[0]), _side_by_side(left[1], right[1])) for left, right in pairs]


def _side_by_side(*layers: Layer) -> Layer:
    weight, bias = zip(*layers, strict=True)
    return Layer(torch.stack(weight), torch.stack(bias)[:, None])


def _heads(heads: StackedHeads, input_norm: nn.LayerNorm | None = None) -> list[Layer]:
    """The three layers of stacked heads, with the norm of their input and batch norms multiplied in."""
    body: Any = heads.body
    layers = [Layer(body[at].weight.mT, body[at].bias) for at in (0, 3, 6)]
    if input_norm is not None:
        weight, bias = layers[0]
        layers[0] = Layer(weight * input_norm.weight, bias + (weight @ input_norm.bias)[:, None])
    return [_before_norm(layers[0], body[1]), _before_norm(layers[1], body[4]), layers[2]]


def _alone(layers: list[Layer]) -> list[Layer]:
    """The layers of a stack of one head, without the axis of heads."""
    return [Layer(weight[0], bias[0, 0]) for weight, bias in layers]


def _before_norm(layer: Layer, norm: nn.Module) -> Layer:
    """A layer with the batch norm after it multiplied in. A layer norm stays outside: it has no affine map."""
    if isinstance(norm, StackedLayerNorm):
        return layer
    if not isinstance(norm, StackedBatchNorm):
        raise ValueError(f"head_norm {type(norm).__name__} cannot be packed: StackedBatchNorm or StackedLayerNorm can")
    batch: Any = norm.norm
    scale = batch.weight * torch.rsqrt(batch.running_var + batch.eps)
    scale, shift = (x.view(layer.bias.shape) for x in (scale, batch.bias - batch.running_mean * scale))
    return Layer(layer.weight * scale.mT, layer.bias * scale + shift)


def has_layer_norm(heads: StackedHeads) -> bool:
    """Whether layer norms stand between the layers of these heads."""
    body: Any = heads.body
    return isinstance(body[1], StackedLayerNorm)
