"""The world model: its size, what its switches remove, what padding does, and its unroll step by step."""

import math

import pytest
import torch
from torch import Tensor

from ezm_lightning.model import WorldModel
from ezm_lightning.model.networks import StackedLayerNorm
from ezm_lightning.ops.support import decode

HARD = ([177] + [51] * 13, [61] + [19] * 13)
MEDIUM = ([51] * 9, [19] * 9)
SWITCHES = ["embed_representation", "embed_dynamics", "embed_reward", "embed_value_policy"]


@pytest.fixture
def inputs(make_batch):
    """obs [B, D], action [B, K, A], task [B]."""
    batch = make_batch()
    return batch.obs[:, 0], batch.action[:, :3], batch.task


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dims, count", [(HARD, 16_085_158), (MEDIUM, 15_952_638)])
def test_number_of_parameters(dims, count):
    with torch.device("meta"):
        model = WorldModel(obs_dims=dims[0], action_dims=dims[1])
    assert sum(p.numel() for p in model.parameters()) == count


def test_unroll_equals_step_by_step(make_model, inputs):
    model = make_model(wake=True).eval()
    obs, action, task = inputs
    prediction, embedding = model.unroll(obs, action, task), model.embed(task)
    latent = model.represent(obs, task)
    for k in range(4):
        close(prediction.latent[:, k], latent)
        value, raw = model.value_policy(latent, embedding)
        mean, log_std = model.policy(raw)
        close(prediction.value_logits[:, k], value)
        close(prediction.value_logits[:, k], model.value_logits(latent, embedding))
        close(prediction.policy_mean[:, k], mean)
        close(prediction.policy_log_std[:, k], log_std)
        if k < 3:
            close(prediction.reward_logits[:, k], model.reward_logits(latent, action[:, k], embedding))
            latent = model.next_latent(latent, action[:, k], embedding)
    assert prediction.reward_logits.shape == (6, 3, 51) and prediction.value_logits.shape == (6, 4, 5, 51)
    assert prediction.reward_logits.std() > 0.01 and prediction.policy_mean.std() > 0.01


def test_a_look_ahead_is_a_step_without_its_policy(make_model, inputs):
    model = make_model().eval()
    obs, action, task = inputs
    latent = torch.stack([model.represent(obs, task)] * action.shape[1], 1)
    heads = torch.arange(model.num_value_heads).expand(action.shape[1], -1)
    step = model.recurrent_inference(latent, action, model.embed(task), heads)
    reward, head_values = model.look_ahead(latent, action, model.embed(task))
    assert torch.equal(reward, step.reward) and torch.equal(head_values, step.head_values)


def test_leading_dimensions_do_not_matter(make_model, make_batch):
    model, batch = make_model(wake=True).eval(), make_batch()
    task = batch.task[:, None].expand(-1, 7)
    together = model.represent(batch.obs, task)
    for j in range(7):
        close(together[:, j], model.represent(batch.obs[:, j], batch.task))
    next_latent = model.next_latent(together, batch.action, model.embed(task))
    reward = model.reward_logits(together, batch.action, model.embed(task))
    close(next_latent[:, 3], model.next_latent(together[:, 3], batch.action[:, 3], model.embed(batch.task)))
    close(reward[:, 3], model.reward_logits(together[:, 3], batch.action[:, 3], model.embed(batch.task)))


def test_gradient_is_halved_at_each_recurrent_latent(make_model, inputs):
    """∂ z_k/∂ z_0 shrinks by 2^−k against the plain composition; values do not."""
    model = make_model(wake=True).eval()
    obs, action, task = inputs
    weights = torch.randn(6, 16, generator=torch.Generator().manual_seed(0))
    first = model.representation[0].weight
    for k in range(4):
        (scaled,) = torch.autograd.grad((model.unroll(obs, action, task).latent[:, k] * weights).sum(), first)
        latent = model.represent(obs, task)
        for j in range(k):
            latent = model.next_latent(latent, action[:, j], model.embed(task))
        (plain,) = torch.autograd.grad((latent * weights).sum(), first)
        assert plain.abs().max() > 1e-3
        torch.testing.assert_close(scaled, plain * 0.5**k, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("k", [0, 2])
def test_gradient_of_a_reward_passes_k_halvings(make_model, inputs, k):
    model = make_model(wake=True).eval()
    obs, action, task = inputs
    first, embedding = model.representation[0].weight, model.embed(task)
    (scaled,) = torch.autograd.grad(model.unroll(obs, action, task).reward_logits[:, k, 7].sum(), first)
    latent = model.represent(obs, task)
    for j in range(k):
        latent = model.next_latent(latent, action[:, j], embedding)
    (plain,) = torch.autograd.grad(model.reward_logits(latent, action[:, k], embedding)[:, 7].sum(), first)
    assert plain.abs().max() > 1e-4
    torch.testing.assert_close(scaled, plain * 0.5**k, rtol=1e-3, atol=1e-6)


def widths(model: WorldModel) -> list[int]:
    """Inputs of representation, dynamics, reward's action embedding and trunk, value-policy trunk."""
    layers = (model.representation[0], model.dynamics.fc1, model.action_embedding[0], model.reward.fc1)
    return [layer.in_features for layer in layers] + [model.trunk[0][0].norm.normalized_shape[0]]


def outputs(
    model: WorldModel, task: torch.Tensor, latent: torch.Tensor, obs: torch.Tensor, action: torch.Tensor
) -> list:
    """What each of the four switched modules makes of its inputs, the task's embedding among them."""
    e = model.embed(task)
    value, raw = model.value_policy(latent, e)
    return [
        model.represent(obs, task),
        model.next_latent(latent, action, e),
        model.reward_logits(latent, action, e),
        torch.cat([value.flatten(1), raw], 1),
    ]


@pytest.mark.parametrize("off", range(4))
def test_a_switch_narrows_its_module_and_removes_the_embedding(make_model, off):
    """All three tasks have the same dimensions here, so that only the embedding can tell them apart."""
    same = {"obs_dims": [4] * 3, "action_dims": [2] * 3}
    full, model = make_model(**same), make_model(wake=True, **same, **{SWITCHES[off]: False}).eval()
    narrower = [[8, 0, 0, 0, 0], [0, 8, 0, 0, 0], [0, 0, 8, 8, 0], [0, 0, 0, 0, 8]][off]
    assert [a - b for a, b in zip(widths(full), widths(model), strict=True)] == narrower
    g = torch.Generator().manual_seed(0)
    latent, obs, action = (torch.randn(5, d, generator=g) for d in (16, 4, 2))
    zero, one = (outputs(model, torch.full((5,), t), latent, obs, action) for t in (0, 1))
    for i in range(4):
        assert torch.equal(zero[i], one[i]) == (i == off), SWITCHES[i]


def test_all_switches_off_leave_the_embedding_without_gradient(make_model, inputs):
    model = make_model(wake=True, **dict.fromkeys(SWITCHES, False))
    prediction = model.unroll(*inputs)
    (prediction.value_logits.sum() + prediction.reward_logits.square().sum()).backward()
    gradient = model.task_embedding.weight.grad
    assert gradient is None or (gradient == 0).all()


def test_task_embedding_has_norm_at_most_one(make_model):
    model = make_model()
    model.task_embedding.weight.data.mul_(10)
    assert (model.embed(torch.tensor([1])).norm(dim=-1) <= 1 + 1e-6).all()  # and every other row is cut with it
    assert (model.task_embedding.weight.norm(dim=-1) <= 1 + 1e-6).all()


def test_padded_observations_change_nothing(make_model, inputs):
    model = make_model(wake=True).eval()
    obs, action, task = inputs
    model.obs_norm.update_(obs, model.obs_mask[task])
    clean = model.unroll(obs, action, task)
    dirty = model.unroll(torch.where(model.obs_mask[task] > 0, obs, 1e3), action, task)
    for name in ("latent", "reward_logits", "value_logits", "policy_mean", "policy_log_std"):
        assert torch.equal(getattr(clean, name), getattr(dirty, name)), name
    moved = model.unroll(obs + model.obs_mask[task], action, task)
    assert not torch.allclose(clean.latent, moved.latent)


def test_masks_are_the_tasks_own_widths(make_model):
    model = make_model()
    assert model.obs_mask.tolist() == [[1, 1, 1, 1, 0, 0], [1] * 6, [1, 1, 1, 0, 0, 0]]
    assert model.action_mask.tolist() == [[1, 1, 0], [1, 1, 1], [1, 0, 0]]
    assert model.num_tasks == 3 and model.num_value_heads == 5


@pytest.mark.parametrize("std", [0.0183, 0.3, 1.0])
def test_initial_policy_has_mean_zero_and_the_given_std(make_model, inputs, std):
    prediction = make_model(initial_std=std).unroll(*inputs)
    assert (prediction.policy_mean == 0).all()
    torch.testing.assert_close(prediction.policy_log_std.exp(), torch.full((6, 4, 3), std), rtol=1e-4, atol=0)


def test_default_initial_std_is_the_authors(make_model, inputs):
    log_std = make_model().unroll(*inputs).policy_log_std
    torch.testing.assert_close(log_std, torch.full_like(log_std, -4.0))
    bias = make_model().policy_head.body[-1].bias
    torch.testing.assert_close(bias[..., 3:], torch.zeros_like(bias[..., 3:]))
    assert math.exp(-4.0) == pytest.approx(0.0183, abs=1e-4)


def test_mean_is_bounded_where_one_asks(make_model):
    """5·tanh(raw/5), and the raw output by default; σ is not touched."""
    raw = torch.tensor([[0.1, -2.0, 40.0, 0.0, 1.0, -1.0]])
    free, bounded = make_model().policy(raw), make_model(mean_bound=5.0).policy(raw)
    assert torch.equal(free[0], raw[:, :3]) and torch.equal(free[1], bounded[1])
    torch.testing.assert_close(bounded[0], torch.tensor([[0.09999, -1.89974, 5.0]]), rtol=1e-4, atol=0)


def test_initial_reward_decodes_to_zero(make_model, inputs):
    model = make_model()
    reward = decode(model.unroll(*inputs).reward_logits, model.reward_support)
    torch.testing.assert_close(reward, torch.zeros(6, 3), atol=1e-4, rtol=0)


def test_value_heads_differ(make_model, inputs):
    value = decode(make_model().unroll(*inputs).value_logits, make_model().value_support)
    assert (value.std(-1) > 0).all()


def test_layer_norm_heads_need_no_batch(make_model, inputs):
    """A row's prediction in train mode does not depend on the other rows."""
    model = make_model(wake=True, head_norm=StackedLayerNorm)
    obs, action, task = inputs
    close(model.unroll(obs, action, task).value_logits[:1], model.unroll(obs[:1], action[:1], task[:1]).value_logits)
    assert not any("running" in name for name, _ in model.named_buffers())


def test_a_reloaded_model_predicts_the_same(make_model, inputs):
    model, other = make_model(wake=True), make_model(seed=1)
    for _ in range(3):
        model.unroll(*inputs)  # moves the batch norms
    model.obs_norm.update_(inputs[0], model.obs_mask[inputs[2]])
    other.load_state_dict(model.state_dict())
    close(model.eval().unroll(*inputs).value_logits, other.eval().unroll(*inputs).value_logits)
