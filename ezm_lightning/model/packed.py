"""The world model packed for search: the same numbers from fewer and larger products, without gradients.

What is constant while a search runs is multiplied out beforehand: the affine maps of layer norms go into the linear
layer behind them, batch norms into the one before them. Dynamics and reward towers run side by side, value heads as
batched products of the heads in use, and the policy head only where it is asked for. ``WorldModel`` is the oracle.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ezm_lightning.model.inference import InitialInference, RecurrentInference
from ezm_lightning.model.packed_heads import (
    all_heads,
    gathered_heads,
    grouped_heads,
    layer_norm,
    linear,
    no_norm,
    one_head,
)
from ezm_lightning.model.packed_weights import Blocks, Layer, has_layer_norm, pack
from ezm_lightning.model.world_model import WorldModel
from ezm_lightning.ops.support import Support, signed_parabolic

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "float64": torch.float64}
BLOCK = 2**17  # rows x latent_dim of one pass through the networks on a CPU: its activations then stay in the cache
GROUPING = 2e6  # multiplications in whose time the rows of one head are brought together


class PackedModel:
    """An ``Inference`` that follows a world model when told to.

    ``dtype`` is that of weights and latents; float16 suits GPUs. Rewards and values are float32 always. The weights are
    refreshed in place, so what refers to them (a captured CUDA graph) stays valid. Raises ValueError for another dtype,
    and for a head norm that cannot be packed.
    """

    def __init__(self, model: WorldModel, dtype: torch.dtype | str = torch.float32) -> None:
        self.model = model
        known = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
        if known is None or known not in DTYPES.values():
            raise ValueError(f"dtype={dtype} is no type to search in; choices: {', '.join(DTYPES)}")
        self.dtype = known
        self.num_value_heads, self.embeds = model.num_value_heads, model.embeds
        self.action_mask, self.obs_mask = model.action_mask, model.obs_mask
        self.reward_atoms, self.value_atoms = _atoms(model.reward_support, self), _atoms(model.value_support, self)
        self.head_norm = layer_norm if has_layer_norm(model.value_heads) else no_norm
        with torch.no_grad():
            self.weights = pack(model).to(self.dtype)
        self._followed = [*model.parameters(), *model.buffers()]
        self._seen = self._versions()

    def follow_(self) -> PackedModel:
        """:meth:`refresh_`, where something was written to the model in place; else next to free.

        A fused optimiser leaves no such trace, averaging and copying do.
        """
        return self if self._versions() == self._seen else self.refresh_()

    @torch.no_grad()
    def refresh_(self) -> PackedModel:
        """Takes over the weights and statistics of the model, in place."""
        self.weights.copy_(pack(self.model))
        self._seen = self._versions()
        return self

    def _versions(self) -> int:
        """A number that grows whenever a weight or a statistic of the model is written to in place."""
        return sum(x._version for x in self._followed)

    def embed(self, task: Tensor) -> Tensor:
        """The task embedding [B, E]."""
        return self.weights.embedding[task]

    def initial_inference(self, obs: Tensor, task: Tensor) -> InitialInference:
        """The model at obs [B, D] of tasks [B]."""
        w, embedding = self.weights, self.embed(task)
        x = ((obs - w.obs_mean) * w.obs_scale * self.obs_mask[task]).to(self.dtype)
        x = torch.cat([x, embedding], -1) if self.embeds[0] else x
        x = linear(x.flatten(0, -2), w.represent)
        latent = _tower(torch.layer_norm(x, x.shape[-1:], *w.represent_norm).tanh_(), w.representation)
        latent = latent.view(*task.shape, -1)
        trunk = self._trunk(latent, embedding)
        logits = all_heads(trunk, w.value_heads, self.head_norm)
        return InitialInference(latent, signed_parabolic(_expectation(logits, self.value_atoms)), trunk)

    def recurrent_inference(
        self, latent: Tensor, action: Tensor, embedding: Tensor, heads: Tensor
    ) -> RecurrentInference:
        """The model after ``action`` [B, k, A] in ``latent`` [B, k, Z]; embedding [B, E], heads [k, h] by column."""
        size = len(latent)
        if latent.device.type == "cpu":
            size = max(1, BLOCK // (latent.shape[-1] * latent.shape[1]))
        blocks = [
            self._step(*block, heads)
            for block in zip(latent.split(size), action.split(size), embedding.split(size), strict=True)
        ]
        scalars, latent, trunk = blocks[0] if len(blocks) == 1 else map(torch.cat, zip(*blocks, strict=True))
        scalars = signed_parabolic(scalars)
        return RecurrentInference(scalars[..., 0], latent, scalars[..., 1:], trunk)

    def policy(self, policy_input: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (before tanh) and log σ, each [..., A], at the trunk's output [..., H]."""
        raw = one_head(policy_input.flatten(0, -2), self.weights.policy_head, self.head_norm)
        return self.model.policy(raw.float().view(*policy_input.shape[:-1], -1))

    def _step(self, latent: Tensor, action: Tensor, embedding: Tensor, heads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The expected atoms of reward and values [B, k, 1 + h], the next latent, the trunk's output."""
        w, action = self.weights, action.to(self.dtype)
        embedding = embedding[:, None].expand(-1, action.shape[1], -1)
        both = self._transition(latent, action, embedding)  # [2, B k, Z]
        latent = both[0].view(latent.shape)
        reward = _expectation(one_head(both[1], w.reward_head, self.head_norm), self.reward_atoms)
        trunk = self._trunk(latent, embedding)
        values = _expectation(self._head_logits(trunk, heads), self.value_atoms)
        return torch.cat([reward.view(*latent.shape[:2], 1), values], -1), latent, trunk

    def _transition(self, latent: Tensor, action: Tensor, embedding: Tensor) -> Tensor:
        """The outputs of the dynamics' and of the reward's tower, [2, B k, Z]."""
        w = self.weights
        latent, action, embedding = (x.flatten(0, 1) for x in (latent, action, embedding))
        extras = [embedding, action] if self.embeds[1] else [action]
        u = linear(torch.cat([action, embedding], -1) if self.embeds[2] else action, w.action)
        u = torch.layer_norm(u, u.shape[-1:], *w.action_norm).tanh_()
        reward_extras = [embedding, u] if self.embeds[2] else [u]
        inputs = ((extras, w.dynamics_in), (reward_extras, w.reward_in))
        first = [linear(layer_norm(torch.cat([latent, *extra], -1)), layer) for extra, layer in inputs]
        x = _side_by_side(torch.stack(first).relu_(), w.transition_out).add_(latent)
        for block_in, block_out in w.transition:
            x.add_(_side_by_side(_side_by_side(layer_norm(x), block_in).relu_(), block_out))
        return x

    def _trunk(self, latent: Tensor, embedding: Tensor) -> Tensor:
        """The input of value and policy heads [..., H]."""
        x = torch.cat([latent, embedding], -1) if self.embeds[3] else latent.clone()
        return layer_norm(_tower(x.flatten(0, -2), self.weights.trunk)).view(x.shape)

    def _head_logits(self, trunk: Tensor, heads: Tensor) -> Tensor:
        """Logits [B, k, h, S] of the value heads [k, h] of each column."""
        layers = self.weights.value_heads
        if trunk.device.type != "cpu":
            return gathered_heads(trunk, layers, self.head_norm, heads)
        each = sum(layer.weight[0].numel() for layer in layers)
        spared = trunk.shape[0] * trunk.shape[1] * (self.num_value_heads - heads.shape[1]) * each
        if spared > self.num_value_heads * GROUPING:
            return grouped_heads(trunk, layers, self.head_norm, heads.tolist())
        logits = all_heads(trunk, layers, self.head_norm)
        return logits.gather(2, heads[None, :, :, None].expand(len(logits), -1, -1, logits.shape[-1]))


def _tower(x: Tensor, blocks: Blocks) -> Tensor:
    """A residual tower of rows x [M, dim], in their memory."""
    for block_in, block_out in blocks:
        x.add_(linear(linear(layer_norm(x), block_in).relu_(), block_out))
    return x


def _side_by_side(x: Tensor, layer: Layer) -> Tensor:
    """Each of n inputs [n, M, in] through its own layer: [n, M, out]."""
    return torch.baddbmm(layer.bias, x, layer.weight.mT)


def _expectation(logits: Tensor, atoms: Tensor) -> Tensor:
    """The expected atom [...] of logits [..., S], in float32."""
    return logits.float().softmax(-1) @ atoms


def _atoms(support: Support, like: PackedModel) -> Tensor:
    return support.atoms(torch.empty(0, device=like.action_mask.device))
