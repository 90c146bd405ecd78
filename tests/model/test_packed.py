"""The packed model answers as the plain one does, follows it, and needs no data to run."""

from functools import partial

import pytest
import torch
from torch import nn

from ezm_lightning.model import PackedModel, WorldModel
from ezm_lightning.model.networks import StackedLayerNorm
from ezm_lightning.model.packed import model as packed
from ezm_lightning.model.packed.check import check_packed
from ezm_lightning.model.packed.heads import all_heads, gathered_heads, grouped_heads, no_norm, one_head
from ezm_lightning.model.packed.weights import Layer
from ezm_lightning.ops.support import two_hot_cross_entropy
from ezm_lightning.planner import Planner

CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def lively_(model: nn.Module) -> nn.Module:
    """The model in eval mode with no gain, shift or statistic left as it starts."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for x in [*model.parameters(), *model.buffers()]:
            if x.ndim == 1 and x.is_floating_point():
                x.add_(torch.rand(x.shape, generator=generator) * 0.4)
    return model.eval()


@pytest.fixture
def roots(make_batch):
    batch = make_batch()
    return batch.obs[:, 0], batch.task


def rows(model: nn.Module, task: torch.Tensor, columns: int = 8):
    """Latents, actions, embeddings, and the heads of each column."""
    generator = torch.Generator().manual_seed(2)
    latent = torch.randn(len(task), columns, 16, generator=generator)
    action = torch.rand(len(task), columns, 3, generator=generator) * 2 - 1
    heads = torch.rand(columns, model.num_value_heads, generator=generator).argsort(-1)[:, :2]
    return latent, action, model.embed(task), heads


@pytest.mark.parametrize("grouping", [0, torch.inf], ids=["grouped heads", "all heads"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"head_norm": StackedLayerNorm, "num_blocks": 2, "mean_bound": 2.0},
        {"embed_representation": False, "embed_dynamics": False},
        {"embed_reward": False, "embed_value_policy": False},
        {"num_value_heads": 1},
    ],
    ids=str,
)
def test_it_answers_as_the_plain_model(make_model, roots, changes, grouping, monkeypatch):
    monkeypatch.setattr(packed, "GROUPING", grouping)
    monkeypatch.setattr(packed, "BLOCK", 16 * 8 * 4)  # blocks of four roots: two of them
    model = lively_(make_model(wake=True, **changes))
    fast = PackedModel(model)
    with torch.no_grad():
        for answer, expected in (
            (fast.initial_inference(*roots), model.initial_inference(*roots)),
            (fast.recurrent_inference(*rows(model, roots[1])), model.recurrent_inference(*rows(model, roots[1]))),
        ):
            for name, value in expected._asdict().items():
                if name != "policy_input":
                    torch.testing.assert_close(getattr(answer, name), value, **CLOSE, msg=name)
            for ours, plain in zip(fast.policy(answer.policy_input), model.policy(expected.policy_input), strict=True):
                torch.testing.assert_close(ours, plain, **CLOSE)
        for form in (fast, model):
            initial, (latent, policy_input) = form.initial_inference(*roots), form.represent_policy(*roots)
            assert torch.equal(latent, initial.latent) and torch.equal(policy_input, initial.policy_input)


def test_it_plans_as_the_plain_model(make_model, roots):
    model, planner = lively_(make_model(wake=True)), Planner(gumbel_scale=1.0)
    noise = planner.sample_noise(model, len(roots[0]), torch.Generator().manual_seed(0), explore=True)
    plan, expected = planner(PackedModel(model), *roots, noise), planner(model, *roots, noise)
    for name, value in expected.items():
        torch.testing.assert_close(getattr(plan, name), value, rtol=1e-4, atol=1e-4, msg=name)
    assert torch.equal(plan.visit_counts, expected.visit_counts)


def test_every_way_to_the_heads_is_the_same():
    generator = torch.Generator().manual_seed(0)
    draw = partial(torch.randn, generator=generator)
    layers = [
        Layer(draw(4, 6, 5), draw(4, 1, 6)),
        Layer(draw(4, 6, 6), draw(4, 1, 6)),
        Layer(draw(4, 3, 6), draw(4, 1, 3)),
    ]
    x, heads = draw(7, 5, 5), torch.tensor([[0, 1], [3, 0], [2, 1], [0, 2], [1, 0]])
    alone = [[Layer(weight[head], bias[head, 0]) for weight, bias in layers] for head in range(4)]
    each = torch.stack([one_head(x.flatten(0, 1), own, no_norm).view(7, 5, 3) for own in alone], 2)
    expected = each.gather(2, heads[None, :, :, None].expand(7, -1, -1, 3))
    torch.testing.assert_close(all_heads(x.flatten(0, 1), layers, no_norm), each.flatten(0, 1).transpose(0, 1), **CLOSE)
    torch.testing.assert_close(gathered_heads(x, layers, no_norm, heads), expected, **CLOSE)
    torch.testing.assert_close(grouped_heads(x, layers, no_norm, heads.tolist()), expected, **CLOSE)


def test_it_follows_the_model_in_place(make_model, roots):
    model, other = lively_(make_model(wake=True)), lively_(make_model(wake=True, seed=3))
    fast = PackedModel(model)
    places = [x.data_ptr() for x in fast.weights.tensors()]
    with torch.no_grad():
        torch._foreach_lerp_(list(model.parameters()), list(other.parameters()), 0.5)
        model.obs_norm.mean.copy_(torch.ones(6))
        assert not torch.allclose(fast.initial_inference(*roots)[1], model.initial_inference(*roots)[1], **CLOSE)
        fast.refresh_()
        torch.testing.assert_close(fast.initial_inference(*roots)[1], model.initial_inference(*roots)[1], **CLOSE)
    assert [x.data_ptr() for x in fast.weights.tensors()] == places


def test_it_follows_an_optimiser_too(make_model):
    model = make_model(wake=True)
    fast = PackedModel(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1, fused=True)
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    before = fast.weights.transition_out.bias.clone()
    torch.testing.assert_close(fast.refresh_().weights.transition_out.bias[0, 0], model.dynamics.fc2.bias)
    assert not torch.equal(fast.weights.transition_out.bias, before)


def test_it_is_float16_on_a_gpu_and_float32_elsewhere(make_model):
    assert PackedModel(make_model()).dtype == packed.default_dtype(torch.device("cpu")) == torch.float32
    assert packed.default_dtype(torch.device("cuda", 0)) == torch.float16


def test_its_memory_is_its_own(make_model):
    """Also in the model's own dtype, where a cast would be an alias."""
    model = make_model()
    own = {x.data_ptr() for x in [*model.parameters(), *model.buffers()]}
    assert not own & {x.data_ptr() for x in PackedModel(model).weights.tensors()}


def test_a_plan_needs_no_data(make_model, roots):
    """Nothing is copied to the host and every shape is known: the whole plan runs on the device 'meta'."""
    planner = Planner(gumbel_scale=1.0)
    model = make_model()
    noise = planner.sample_noise(model, 6, torch.Generator().manual_seed(0), explore=True)
    there = type(noise)(**{name: x.to("meta") for name, x in vars(noise).items()})
    plan = planner(PackedModel(model.to("meta")), roots[0].to("meta"), roots[1].to("meta"), there)
    assert all(x.device.type == "meta" for x in plan.values())
    assert plan.best_action.shape == (6, 3) and plan.qvalues.shape == (6, 16)


def test_half_precision_answers_alike(make_model, roots):
    model = lively_(make_model(wake=True))
    fast, half = PackedModel(model), PackedModel(model, dtype="float16")
    with torch.no_grad():
        latent, *rest = rows(model, roots[1])
        expected = fast.recurrent_inference(latent, *rest)
        answer = half.recurrent_inference(latent.half(), rest[0], half.embed(roots[1]), rest[2])
    assert answer.latent.dtype == torch.float16 and answer.reward.dtype == answer.head_values.dtype == torch.float32
    torch.testing.assert_close(answer.latent.float(), expected.latent, rtol=0.01, atol=0.01)
    torch.testing.assert_close(answer.head_values, expected.head_values, rtol=0.03, atol=0.3)


def test_half_precision_chooses_as_single_does(make_model, make_batch):
    """On 600 roots of a model that was trained for a little, at least 97 % of the plans take the same candidate."""
    model = make_model(initial_std=0.5, latent_dim=32, reward_range=(-3.0, 3.0), value_range=(-8.0, 8.0))
    batch, planner = make_batch(60), Planner()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    reward, value = batch.action[:, :5].sum(-1), batch.obs.sum(-1)[:, :6]
    model.train()
    for _ in range(100):
        prediction = model.unroll(batch.obs[:, 0], batch.action[:, :5], batch.task)
        target = value[..., None].expand(prediction.value_logits.shape[:-1])
        value_loss = two_hot_cross_entropy(prediction.value_logits, target, model.value_support).mean()
        reward_loss = two_hot_cross_entropy(prediction.reward_logits, reward, model.reward_support).mean()
        optimizer.zero_grad()
        (value_loss + reward_loss).backward()
        optimizer.step()
    model.eval()
    obs, task = make_batch(600, seed=1).obs[:, 0], torch.arange(600) % 3
    noise = planner.sample_noise(model, 600, torch.Generator().manual_seed(0), explore=False)
    plans = [planner(PackedModel(model, dtype), obs, task, noise) for dtype in (torch.float32, torch.float16)]
    single, half = ((plan.candidates == plan.best_action[:, None]).all(-1).int().argmax(-1) for plan in plans)
    assert (single == half).float().mean() >= 0.97


def test_refuses_a_head_norm_it_does_not_know(make_model):
    with pytest.raises(ValueError, match="head_norm Identity cannot be packed"):
        PackedModel(make_model(head_norm=lambda heads, dim: nn.Identity()))


def test_refuses_a_dtype_it_does_not_know(make_model):
    with pytest.raises(ValueError, match="dtype=float61 is no type to search in; choices: float32, float16"):
        PackedModel(make_model(), dtype="float61")


class Silu(WorldModel):
    def __init__(self, **sizes):
        super().__init__(**sizes)
        self.representation[2] = nn.SiLU()


class Halved(WorldModel):
    def reward_logits(self, *inputs):
        return 0.5 * super().reward_logits(*inputs)


class Shorter(WorldModel):
    def __init__(self, **sizes):
        super().__init__(**sizes)
        self.trunk = nn.Linear(24, 16)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Silu, "the packed copy of Silu, which searches, has another latent than the model"),
        (Halved, "has another reward than the model"),
        (Shorter, "Shorter has layers that its packed copy, which searches, does not know"),
    ],
)
def test_a_model_that_searches_would_not_follow_is_refused(make_model, kind, words):
    with pytest.raises(ValueError, match=words):
        check_packed(make_model(kind=kind), PackedModel)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
def test_every_dtype_is_near_enough(make_model, dtype):
    check_packed(make_model(num_blocks=2), partial(PackedModel, dtype=dtype))


def test_an_observation_that_float16_cannot_hold_gives_finite_numbers(make_model, roots):
    obs, task = roots
    answer = PackedModel(make_model(wake=True).eval(), "float16").initial_inference(obs * 1e6, task)
    assert all(x.isfinite().all() for x in answer)
