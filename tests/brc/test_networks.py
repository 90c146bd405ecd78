"""BRC's networks: their sizes, what a block is, and the policy's log-probability against torch's own."""

import math

import pytest
import torch
from torch.distributions import Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform
from torch.nn import functional as F

from ezm_lightning.brc.networks import (
    NORM_EPSILON,
    Actor,
    CriticEnsemble,
    UnitEmbedding,
    bronet,
    orthogonal_linear,
    sample_with_log_prob,
)


def make_critic(obs_dim: int = 5, action_dim: int = 2, num_tasks: int = 3, width: int = 16) -> CriticEnsemble:
    return CriticEnsemble(
        obs_dim=obs_dim,
        action_dim=action_dim,
        num_tasks=num_tasks,
        width=width,
        num_blocks=2,
        num_critics=2,
        atoms=101,
    )


def make_actor(state_dim: int, action_dim: int, width: int = 256) -> Actor:
    return Actor(state_dim=state_dim, action_dim=action_dim, width=width, num_blocks=1)


def num_parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


SIZES = [  # obs_dim, action_dim, tasks, actor, critics of width 256, critics of width 4096
    (5, 1, 1, 135_170, 586_954, 135_217_354),
    (5, 1, 4, 143_362, 603_466, 135_479_626),
    (24, 6, 1, 142_604, 599_242, 135_413_962),
    (223, 38, 4, 218_188, 734_026, 137_568_586),
    (67, 21, 3, 169_514, 645_418, 136_151_338),
    (51, 19, 1, 156_198, 619_722, 135_741_642),
    (51, 19, 9, 164_390, 636_394, 136_004_074),
    (177, 61, 14, 218_234, 722_570, 137_380_490),
]


@pytest.mark.parametrize(("obs_dim", "action_dim", "tasks", "actor_size", "critic_256", "critic_4096"), SIZES)
def test_numbers_of_parameters(obs_dim, action_dim, tasks, actor_size, critic_256, critic_4096):
    with torch.device("meta"):
        critic = make_critic(obs_dim, action_dim, tasks, 256)
        assert num_parameters(critic) == critic_256
        assert num_parameters(make_actor(critic.state_dim, action_dim)) == actor_size
        assert num_parameters(make_critic(obs_dim, action_dim, tasks, 4096)) == critic_4096


# --- BroNet


def plain_bronet(net: torch.nn.Sequential, head: int, x: torch.Tensor) -> torch.Tensor:
    """One head's network, layer by layer with torch's own functions."""

    def linear(layer, x):
        return F.linear(x, layer.weight[head].T, layer.bias[head, 0])

    def norm(layer, x):
        return F.layer_norm(x, x.shape[-1:], layer.weight[head, 0], layer.bias[head, 0], 1e-6)

    x = norm(net[1], linear(net[0], x)).relu()
    for block in net[3:]:
        w1, n1, _, w2, n2 = block.branch
        x = x + norm(n2, linear(w2, norm(n1, linear(w1, x)).relu()))
    return x


def scramble_(module: torch.nn.Module) -> None:
    """Random gains and biases in place of ones and zeros."""
    for parameter in module.parameters():
        parameter.data.add_(0.3 * torch.randn(parameter.shape))


def test_stacked_networks_are_single_ones_with_the_same_weights():
    torch.manual_seed(0)
    net = bronet(2, 7, 16, 2)
    scramble_(net)
    x = torch.randn(9, 7)
    out = net(x.expand(2, -1, -1))
    assert out.shape == (2, 9, 16)
    for head in range(2):
        torch.testing.assert_close(out[head], plain_bronet(net, head, x), rtol=1e-6, atol=1e-6)
    assert not torch.allclose(out[0], out[1])


def test_a_block_whose_last_norm_is_zero_is_the_identity():
    """Then the network is relu(LN(Wx + b))."""
    torch.manual_seed(0)
    net = bronet(2, 7, 16, 2)
    scramble_(net)
    for block in net[3:]:
        block.branch[4].weight.data.zero_()
        block.branch[4].bias.data.zero_()
    x = torch.randn(2, 9, 7)
    assert torch.equal(net(x), net[:3](x))
    assert (net[:3](x) >= 0).all()


def test_the_norm_keeps_rows_of_small_variance():
    """With an epsilon of 1e-6; torch's default of 1e-5 would shrink this row to a third of that."""
    row = torch.tensor([1.0, -1.0] * 8).expand(1, 1, -1) * 1e-3
    normed = bronet(1, 16, 16, 0)[1](row)
    torch.testing.assert_close(normed.abs(), torch.full_like(row, (1e-6 / (1e-6 + NORM_EPSILON)) ** 0.5))
    assert NORM_EPSILON == 1e-6


@pytest.mark.parametrize(("in_dim", "out_dim", "gain"), [(8, 8, math.sqrt(2)), (5, 9, math.sqrt(2)), (9, 4, 1.0)])
def test_initial_weights_are_orthogonal(in_dim, out_dim, gain):
    layer = orthogonal_linear(2, in_dim, out_dim, gain=gain)
    assert (layer.bias == 0).all() and not torch.equal(layer.weight[0], layer.weight[1])
    for weight in layer.weight:
        gram = weight @ weight.T if in_dim <= out_dim else weight.T @ weight
        torch.testing.assert_close(gram, gain**2 * torch.eye(len(gram)), rtol=1e-4, atol=1e-5)


def test_output_layers_are_not_zero_and_the_scale_has_gain_one():
    torch.manual_seed(0)
    actor, critic = make_actor(8, 3), make_critic()
    for layer, gain in [(actor.mean, 2**0.5), (actor.raw_log_std, 1.0), (critic.head, 2**0.5)]:
        norms = torch.linalg.matrix_norm(layer.weight.data, 2)
        torch.testing.assert_close(norms, torch.full_like(norms, gain))


def test_fresh_features_and_deviations_are_as_large_as_the_specification_says():
    """Mean squares of the last features 2.5 (critic) and 1.5 (actor); logits deviate by 2.2; median log σ −4.6."""
    torch.manual_seed(0)
    critic, actor = make_critic(24, 6, 1, 256), make_actor(24, 6)
    obs, action = torch.randn(512, 24), torch.randn(512, 6)
    features = critic.body(torch.cat([obs, action], -1).expand(2, -1, -1))
    mean, log_std = actor(obs)
    assert features.square().mean().item() == pytest.approx(2.5, abs=0.3)
    assert actor.body(obs[None]).square().mean().item() == pytest.approx(1.5, abs=0.2)
    assert critic(obs, action).std().item() == pytest.approx(2.2, abs=0.3)
    assert mean.std().item() == pytest.approx(1.8, abs=0.3)
    assert log_std.median().item() == pytest.approx(-4.6, abs=0.7)


# --- task embedding


def test_embeddings_have_norm_one_and_a_gradient_that_only_turns_them():
    torch.manual_seed(0)
    embedding = UnitEmbedding(4, 32)
    task = torch.tensor([0, 2, 2, 3])
    e = embedding(task)
    torch.testing.assert_close(e.norm(dim=-1), torch.ones(4))
    (e * torch.randn(4, 32)).sum().backward()
    gradient = embedding.weight.grad
    assert ((gradient * embedding.weight).sum(-1).abs() < 1e-6).all()
    assert (gradient[1] == 0).all() and (gradient[[0, 2, 3]] != 0).any(-1).all()


def test_embeddings_start_near_norm_one():
    torch.manual_seed(0)
    assert UnitEmbedding(500, 32).weight.norm(dim=-1).mean().item() == pytest.approx(1.0, abs=0.02)


def test_one_task_alone_has_no_embedding():
    critic, obs = make_critic(num_tasks=1), torch.randn(4, 5)
    assert critic.embedding is None and critic.state_dim == 5
    assert critic.state(obs, torch.zeros(4, dtype=torch.int64)) is obs


# --- the policy


def test_log_prob_is_that_of_torchs_transformed_normal():
    g = torch.Generator().manual_seed(0)
    mean, log_std = torch.randn(200, 3, generator=g), torch.rand(200, 3, generator=g) * 2 - 2
    noise = torch.randn(200, 3, generator=g)
    u = mean + log_std.exp() * noise
    inside = (u.abs() < 3).all(-1)
    action, log_prob = sample_with_log_prob(mean, log_std, noise, torch.ones(1, 3))
    law = TransformedDistribution(Normal(mean.double(), log_std.double().exp()), TanhTransform(cache_size=1))
    expected = law.log_prob(torch.tanh(u.double())).sum(-1)
    assert inside.sum() > 100
    torch.testing.assert_close(action, torch.tanh(u))
    torch.testing.assert_close(log_prob[inside].double(), expected[inside], rtol=1e-5, atol=1e-5)


def test_log_prob_and_its_gradient_are_finite_far_out():
    mean = torch.tensor([[20.0], [-20.0]], requires_grad=True)
    log_prob = sample_with_log_prob(mean, torch.zeros(2, 1), torch.zeros(2, 1), torch.ones(1, 1))[1]
    log_prob.sum().backward()
    assert log_prob.isfinite().all() and mean.grad.isfinite().all()
    torch.testing.assert_close(log_prob[0], log_prob[1])
    torch.testing.assert_close(mean.grad, torch.tensor([[2.0], [-2.0]]))  # −log(1 − tanh² u) → 2|u| − ln 4


@pytest.mark.parametrize(("mean", "log_std"), [(0.0, 0.0), (0.7, -1.0), (-0.3, 0.5)])
def test_density_of_one_dimension_integrates_to_one(mean, log_std):
    noise = torch.linspace(-9, 9, 20_001, dtype=torch.float64)[:, None]
    parameters = torch.full_like(noise, mean), torch.full_like(noise, log_std)
    action, log_prob = sample_with_log_prob(*parameters, noise, torch.ones_like(noise[:1]))
    integral = torch.trapezoid(log_prob.exp(), action[:, 0])
    assert integral.item() == pytest.approx(1.0, abs=1e-3)


def test_masked_dimensions_are_zero_and_count_for_nothing():
    g = torch.Generator().manual_seed(0)
    mean, log_std, noise = torch.randn(3, 6, 4, generator=g)
    mask = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    action, log_prob = sample_with_log_prob(mean, log_std, noise, mask)
    alone, log_prob_alone = sample_with_log_prob(mean[:, :2], log_std[:, :2], noise[:, :2], mask[:, :2])
    assert (action[:, 2:] == 0).all()
    torch.testing.assert_close(action[:, :2], alone)
    torch.testing.assert_close(log_prob, log_prob_alone)


def test_raw_scale_zero_is_a_deviation_of_exp_minus_four():
    actor = make_actor(8, 3, 16)
    actor.raw_log_std.weight.data.zero_()
    mean, log_std = actor(torch.randn(5, 8))
    torch.testing.assert_close(log_std, torch.full((5, 3), -4.0))
    for raw, bound in [(40.0, 2.0), (-40.0, -10.0)]:
        torch.testing.assert_close(actor.log_std_bound(torch.tensor(raw)), torch.tensor(bound))
    assert mean.shape == (5, 3)
