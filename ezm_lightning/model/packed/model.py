"""The world model packed for search: the same numbers from fewer and larger products, without gradients.

Constants of a search are multiplied out beforehand: the affine map of a layer norm goes into the linear layer after it,
a batch norm into the one before it. The towers of dynamics and reward run side by side, and the value heads in use
are batched products. The policy head runs only in ``policy``. ``WorldModel`` is the oracle.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from ezm_lightning.model.inference import InitialInference, RecurrentInference
from ezm_lightning.model.packed.heads import (
    all_heads,
    gathered_heads,
    grouped_heads,
    linear,
    no_norm,
    one_head,
    side_by_side,
)
from ezm_lightning.model.packed.weights import Blocks, has_layer_norm, pack
from ezm_lightning.model.world_model import WorldModel
from ezm_lightning.ops.norms import layer_norm
from ezm_lightning.ops.support import Support, signed_parabolic

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "float64": torch.float64}
BLOCK = 2**17  # rows x latent_dim of one pass through the networks on a CPU: its activations then stay in the cache
LARGEST_FLOAT16_INPUT = 1e4  # normalised; float16 ends at 65,504, and the first layer's sum must fit too
GROUPING = 2e6  # grouping the rows of one head takes as long as this number of multiplications


class PackedModel:
    """An ``Inference`` with a copy of a world model's weights, which :meth:`refresh_` renews.

    ``dtype`` is that of weights and latents; None: float16 on a GPU, float32 elsewhere. Rewards and values are always
    float32. The weights are refreshed in place, so that a captured CUDA graph stays valid. Raises ValueError for
    another dtype, and for a head norm that cannot be packed.
    """

    def __init__(self, model: WorldModel, dtype: torch.dtype | str | None = None) -> None:
        self.model = model
        if dtype is None:
            dtype = default_dtype(model.action_mask.device)
        search_dtype = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
        if search_dtype is None or search_dtype not in DTYPES.values():
            raise ValueError(f"dtype={dtype} is no type to search in; choices: {', '.join(DTYPES)}")
        self.dtype = search_dtype
        self.num_value_heads, self.embeds = model.num_value_heads, model.embeds
        self.obs_clip = model.obs_norm.clip
        if self.dtype == torch.float16:
            self.obs_clip = min(LARGEST_FLOAT16_INPUT, self.obs_clip or LARGEST_FLOAT16_INPUT)
        self.action_mask, self.obs_mask = model.action_mask, model.obs_mask
        self.reward_atoms, self.value_atoms = _atoms(model.reward_support, self), _atoms(model.value_support, self)
        self.head_norm = layer_norm if has_layer_norm(model.value_heads) else no_norm
        with torch.no_grad():
            self.weights = pack(model).to(self.dtype)
        self.tensors = list(self.weights.tensors())  # these tensors are never replaced

    @torch.no_grad()
    def refresh_(self) -> PackedModel:
        """Copies the weights and statistics of the model, in place."""
        self.weights.copy_(pack(self.model))
        return self

    def with_tensors(self, tensors: Sequence[Tensor]) -> PackedModel:
        """A copy of this model that reads ``tensors``, in the order of ``self.tensors``."""
        packed, remaining = copy.copy(self), iter(tensors)
        packed.weights = self.weights.map(lambda _: next(remaining))
        return packed

    def _spared(self, rows: int, heads: int) -> int:
        """The number of multiplications saved if only ``heads`` of the value heads are read at each row."""
        per_head = sum(layer.weight[0].numel() for layer in self.weights.value_heads)
        return rows * (self.num_value_heads - heads) * per_head

    def embed(self, task: Tensor) -> Tensor:
        """The task embedding [B, E]."""
        return self.weights.embedding[task]

    def initial_inference(self, obs: Tensor, task: Tensor) -> InitialInference:
        """The model at obs [B, D] of tasks [B]."""
        return self.latent_inference(self.represent(obs, task), self.embed(task))

    def represent(self, obs: Tensor, task: Tensor) -> Tensor:
        """The latent [B, Z] of obs [B, D] of tasks [B]."""
        w, x = self.weights, self._normalised(obs, task).to(self.dtype)
        x = linear(torch.cat([x, self.embed(task)], -1) if self.embeds[0] else x, w.represent)
        return _tower(torch.layer_norm(x, x.shape[-1:], *w.represent_norm).tanh_(), w.representation)

    def latent_inference(self, latent: Tensor, embedding: Tensor) -> InitialInference:
        """The model at latents [B, Z], encoded or predicted; embedding [B, E]."""
        w, trunk = self.weights, self._trunk(latent, embedding)
        values = signed_parabolic(_expectation(all_heads(trunk, w.value_heads, self.head_norm), self.value_atoms))
        return InitialInference(latent, values.t(), trunk)

    def represent_policy(self, obs: Tensor, task: Tensor) -> tuple[Tensor, Tensor]:
        """The latent [B, Z] and the policy's input [B, P] at obs [B, D] of tasks [B]; no value head is read."""
        latent = self.represent(obs, task)
        return latent, self._trunk(latent, self.embed(task))

    def _normalised(self, obs: Tensor, task: Tensor) -> Tensor:
        """Normalised observations [B, D], the input of the networks."""
        w, per_task = self.weights, self.weights.obs_mean.dim() == 2
        mean, scale = (w.obs_mean[task], w.obs_scale[task]) if per_task else (w.obs_mean, w.obs_scale)
        x = (obs - mean) * scale * self.obs_mask[task]
        return x if self.obs_clip is None else x.clamp(-self.obs_clip, self.obs_clip)

    def recurrent_inference(
        self, latent: Tensor, action: Tensor, embedding: Tensor, heads: Tensor
    ) -> RecurrentInference:
        """The model after ``action`` [B, k, A] in ``latent`` [B, k, Z]; embedding [B, E], heads [k, h] by column."""
        size = len(latent)
        if latent.device.type == "cpu":
            size = max(1, BLOCK // (latent.shape[-1] * latent.shape[1]))
        if len(latent) <= size:
            return self._step(latent, action, embedding, heads)
        blocks = zip(latent.split(size), action.split(size), embedding.split(size), strict=True)
        return RecurrentInference(*map(torch.cat, zip(*(self._step(*block, heads) for block in blocks), strict=True)))

    def policy(self, policy_input: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (before tanh) and log σ, each [..., A], at the trunk's output [..., H]."""
        raw = one_head(policy_input.flatten(0, -2), self.weights.policy_head, self.head_norm)
        return self.model.policy(raw.float().view(*policy_input.shape[:-1], -1))

    def _step(self, latent: Tensor, action: Tensor, embedding: Tensor, heads: Tensor) -> RecurrentInference:
        """``recurrent_inference`` in one pass, in which the k rows of B roots are one axis of M = B k rows."""
        shape = latent.shape[:2]
        embedding = embedding[:, None].expand(*shape, -1).flatten(0, 1)
        dynamics, reward = self._transition(latent.flatten(0, 1), action.flatten(0, 1).to(self.dtype), embedding)
        trunk = self._trunk(dynamics, embedding)
        reward = _expectation(one_head(reward, self.weights.reward_head, self.head_norm), self.reward_atoms)
        values = self._head_values(trunk.view(*shape, -1), heads)
        scalars = signed_parabolic(torch.cat([reward.view(1, *shape), values]))
        return RecurrentInference(
            scalars[0], dynamics.view(*shape, -1), scalars[1:].permute(1, 2, 0), trunk.view(*shape, -1)
        )

    def _transition(self, latent: Tensor, action: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """The outputs of the dynamics' and of the reward's tower, each [M, Z], for M rows."""
        w = self.weights
        u = linear(torch.cat([action, embedding], -1) if self.embeds[2] else action, w.action)
        u = torch.layer_norm(u, u.shape[-1:], *w.action_norm).tanh_()
        dynamics = [latent, embedding, action] if self.embeds[1] else [latent, action]
        reward = [latent, embedding, u] if self.embeds[2] else [latent, u]
        inputs = ((dynamics, w.dynamics_in), (reward, w.reward_in))
        x = torch.stack([linear(layer_norm(torch.cat(parts, -1)), layer) for parts, layer in inputs])
        x = side_by_side(x.relu_(), w.transition_out).add_(latent)
        for block_in, block_out in w.transition:
            x.add_(side_by_side(side_by_side(layer_norm(x), block_in).relu_(), block_out))
        return x[0], x[1]

    def _trunk(self, latent: Tensor, embedding: Tensor) -> Tensor:
        """The input [M, H] of value and policy heads."""
        x = torch.cat([latent, embedding], -1) if self.embeds[3] else latent.clone()
        return layer_norm(_tower(x, self.weights.trunk))

    def _head_values(self, trunk: Tensor, heads: Tensor) -> Tensor:
        """The expected atoms [h, B, k] of the value heads [k, h] of each column, at the trunk's output [B, k, H]."""
        layers, norm = self.weights.value_heads, self.head_norm
        if trunk.device.type != "cpu":
            return _expectation(gathered_heads(trunk, layers, norm, heads), self.value_atoms).permute(2, 0, 1)
        spared = self._spared(trunk.shape[0] * trunk.shape[1], heads.shape[1])
        if spared > self.num_value_heads * GROUPING and not torch.compiler.is_compiling():
            return _expectation(grouped_heads(trunk, layers, norm, heads.tolist()), self.value_atoms).permute(2, 0, 1)
        values = _expectation(all_heads(trunk.flatten(0, 1), layers, norm), self.value_atoms)  # [V, M]
        return values.view(-1, *trunk.shape[:2]).gather(0, heads.t()[:, None].expand(-1, len(trunk), -1))


def default_dtype(device: torch.device) -> torch.dtype:
    """The dtype of a search unless another is chosen."""
    return torch.float16 if device.type == "cuda" else torch.float32


def _tower(x: Tensor, blocks: Blocks) -> Tensor:
    """A residual tower at rows x [M, dim], computed in place."""
    for block_in, block_out in blocks:
        x.add_(linear(linear(layer_norm(x), block_in).relu_(), block_out))
    return x


def _expectation(logits: Tensor, atoms: Tensor) -> Tensor:
    """The expected atom [...] of logits [..., S], in float32."""
    return logits.float().softmax(-1) @ atoms


def _atoms(support: Support, like: PackedModel) -> Tensor:
    return support.atoms(torch.empty(0, device=like.action_mask.device))
