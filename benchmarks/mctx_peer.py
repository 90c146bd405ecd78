"""The peer of ``search``: the mctx package over the same network in JAX, jit-compiled, all value heads.

It is given our packed weights, so its network saves what can be multiplied out too. Inner nodes have two candidates, as
ours; mctx wants as many actions at every node, so the others are there with a prior of zero.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from omegaconf import DictConfig

from benchmarks.measure import Call
from benchmarks.sizes import roots
from ezm_lightning.model import WorldModel
from ezm_lightning.model.packed.weights import has_layer_norm, pack
from ezm_lightning.planner import Planner

NEVER = -1e9  # the prior logit of candidates that are not there


def load(threads: int) -> tuple[Any, Any]:
    """JAX and mctx, this process kept to so many CPUs. Raises ImportError, saying what to install.

    XLA starts a thread for every CPU that it may run on when JAX starts its client, whatever its flags say.
    """
    if hasattr(os, "sched_setaffinity"):  # Linux
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])
    try:
        import jax
        import mctx
    except ModuleNotFoundError as error:
        raise ImportError("against=mctx needs mctx and JAX: pip install 'ezm-lightning[oracle]'") from error
    return jax, mctx


def plan_call(cfg: DictConfig, model: WorldModel, planner: Planner, batch_size: int, *, threads: int) -> Call:
    """A search of ``batch_size`` roots by mctx's Gumbel policy with the planner's budget."""
    jax, mctx = load(threads)
    obs, task = roots(cfg, batch_size, "cpu")
    with torch.no_grad():
        weights = jax.tree.map(_array(jax), vars(pack(model)), is_leaf=lambda x: isinstance(x, torch.Tensor))
        embedding = jax.numpy.asarray(model.embed(task).numpy())
        latent = jax.numpy.asarray(model.represent(obs, task).numpy())
    network = Network(jax, model, planner)
    search = jax.jit(lambda *inputs: _search(mctx, jax, network, planner, *inputs))
    return lambda: jax.block_until_ready(search(weights, latent, embedding))


def _array(jax: Any) -> Any:
    """A JAX array of a tensor; weights [..., out, in] as [..., in, out], biases [..., 1, out] as they are."""

    def convert(x: torch.Tensor) -> Any:
        is_weight = x.ndim > 1 and x.shape[-2] > 1
        return jax.numpy.asarray((x.mT if is_weight else x).detach().contiguous().numpy())

    return convert


def _search(mctx: Any, jax: Any, network: Network, planner: Planner, weights: Any, latent: Any, embedding: Any) -> Any:
    jnp = jax.numpy
    root_value, candidates = network.value_and_candidates(weights, latent, embedding, planner.num_candidates)
    discount = jnp.full_like(root_value, planner.discount)
    absent = planner.num_candidates - planner.num_leaf_candidates
    logits = jnp.where(jnp.arange(planner.num_candidates) < planner.num_leaf_candidates, 0.0, NEVER)
    prior = jnp.broadcast_to(logits, (*root_value.shape, planner.num_candidates))

    def recurrent_fn(params: Any, rng_key: Any, action: Any, node: Any) -> Any:
        latent, candidates = node
        chosen = jnp.take_along_axis(candidates, action[:, None, None], 1)[:, 0]
        reward, latent = network.step(params, latent, chosen, embedding)
        value, few = network.value_and_candidates(params, latent, embedding, planner.num_leaf_candidates)
        candidates = jnp.pad(few, ((0, 0), (0, absent), (0, 0)))
        output = mctx.RecurrentFnOutput(reward=reward, discount=discount, prior_logits=prior, value=value)
        return output, (latent, candidates)

    root = mctx.RootFnOutput(prior_logits=jnp.zeros_like(prior), value=root_value, embedding=(latent, candidates))
    output = mctx.gumbel_muzero_policy(
        weights,
        jax.random.PRNGKey(0),
        root,
        recurrent_fn,
        planner.num_simulations,
        max_num_considered_actions=planner.max_num_considered_actions,
        gumbel_scale=planner.gumbel_scale,
    )
    return output.action, output.action_weights


class Network:
    """The packed network's layers in JAX; weights are arguments, so that none is folded into the program."""

    def __init__(self, jax: Any, model: WorldModel, planner: Planner) -> None:
        self.jax, self.jnp, self.embeds = jax, jax.numpy, model.embeds
        self.head_norm = self.norm if has_layer_norm(model.value_heads) else (lambda x: x)
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(planner.num_candidates, model.action_mask.shape[-1], generator=generator)
        self.noise = self.jnp.asarray(noise.numpy())
        supports = (model.reward_support, model.value_support)
        self.reward_atoms, self.value_atoms = (self.jnp.asarray(s.atoms(torch.empty(0)).numpy()) for s in supports)

    def norm(self, x: Any) -> Any:
        mean = x.mean(-1, keepdims=True)
        return (x - mean) * self.jax.lax.rsqrt(((x - mean) ** 2).mean(-1, keepdims=True) + 1e-5)

    def tower(self, x: Any, blocks: Any, at: int | None = None) -> Any:
        for block in blocks:
            (w1, b1), (w2, b2) = ((w, b) if at is None else (w[at], b[at]) for w, b in block)
            x = x + self.jax.nn.relu(self.norm(x) @ w1 + b1) @ w2 + b2
        return x

    def transition(self, w: Any, at: int, layer: Any, latent: Any, extras: list[Any]) -> Any:
        x = self.jax.nn.relu(self.norm(self.jnp.concatenate([latent, *extras], -1)) @ layer[0] + layer[1])
        weight, bias = w["transition_out"]
        return self.tower(latent + x @ weight[at] + bias[at], w["transition"], at)

    def heads(self, x: Any, layers: Any) -> Any:
        """Logits [V, B, S], or [B, S] where layers belong to one head."""
        for weight, bias in layers[:-1]:
            x = self.jax.nn.relu(self.head_norm(x @ weight + bias))
        return x @ layers[-1][0] + layers[-1][1]

    def decode(self, logits: Any, atoms: Any) -> Any:
        y, eps = self.jax.nn.softmax(logits) @ atoms, 1e-3
        root = (self.jnp.sqrt(1 + 4 * eps * (self.jnp.abs(y) + 1 + eps)) - 1) / (2 * eps)
        return self.jnp.sign(y) * (root**2 - 1)

    def step(self, w: Any, latent: Any, action: Any, embedding: Any) -> tuple[Any, Any]:
        """Reward [B] and the next latent [B, Z]."""
        extras = [embedding, action] if self.embeds[1] else [action]
        u = self.jnp.concatenate([action, embedding], -1) if self.embeds[2] else action
        gain, shift = w["action_norm"]
        u = self.jnp.tanh(self.norm(u @ w["action"][0] + w["action"][1]) * gain + shift)
        rewarded = [embedding, u] if self.embeds[2] else [u]
        reward = self.heads(self.transition(w, 1, w["reward_in"], latent, rewarded), w["reward_head"])
        return self.decode(reward, self.reward_atoms), self.transition(w, 0, w["dynamics_in"], latent, extras)

    def value_and_candidates(self, w: Any, latent: Any, embedding: Any, count: int) -> tuple[Any, Any]:
        """The lower of the first two heads' values [B], and candidates [B, count, A] of the policy."""
        x = self.jnp.concatenate([latent, embedding], -1) if self.embeds[3] else latent
        x = self.norm(self.tower(x, w["trunk"]))
        values = self.decode(self.heads(x, w["value_heads"]), self.value_atoms)
        mean, raw = self.jnp.split(self.heads(x, w["policy_head"]), 2, -1)
        std = self.jnp.exp(-4 + 6 * self.jnp.tanh(raw))
        candidates = self.jnp.tanh(mean[:, None] + std[:, None] * self.noise[:count])
        return values[:2].min(0), candidates.clip(-0.999, 0.999)
