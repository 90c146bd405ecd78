"""BRC's training step: its targets and losses row by row, what moves what, and that it learns a bandit."""

import copy
import math

import lightning as L
import pytest
import torch
from torch.distributions import Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform
from torch.utils.data import DataLoader

from ezm_lightning.brc import BRC
from ezm_lightning.callbacks.target import UpdateTarget
from ezm_lightning.types import Batch

from .updates import (
    act,
    draw,
    make_brc,
    make_windows,
    published_update_,
    separate_update_,
    three_optimizers,
    update_,
)

GROUPS = ("critic", "actor", "log_temperature")


def group_of(name: str) -> str:
    return name.split(".")[0]


def assert_same_weights(a: BRC, b: BRC) -> None:
    for name, value in a.state_dict().items():
        assert torch.equal(value, b.state_dict()[name]), name


# --- targets and losses


def row_policy(module: BRC, obs, task: int, noise) -> tuple[torch.Tensor, torch.Tensor]:
    """Action [A] and log π of one row, by torch's distributions over the dimensions that the task has."""
    mean, log_std = (x[0].double() for x in module.actor(row_state(module.critic, obs, task)))
    width = int(module.action_mask[task].sum())
    u = (mean + log_std.exp() * noise)[:width]
    law = TransformedDistribution(Normal(mean[:width], log_std[:width].exp()), TanhTransform(cache_size=1))
    action = torch.zeros(len(mean), dtype=torch.float64)
    action[:width] = torch.tanh(u)
    return action, law.log_prob(action[:width]).sum()


def row_state(critic, obs, task: int) -> torch.Tensor:
    row = critic.embedding.weight[task]
    return torch.cat([obs, row / row.norm()])[None]


def row_prob(critic, obs, task: int, action) -> torch.Tensor:
    """Each critic's distribution [V, S] at one row."""
    return critic(row_state(critic, obs, task), action[None].float()).softmax(-1)[:, 0].double()


def test_target_is_its_loop():
    module, batch = make_brc(), make_windows()
    module.target_critic.embedding.weight.add_(0.3)  # not the online one
    noise = 0.3 * torch.randn(12, 3)
    ours = module.target_distribution(batch, noise)
    z = torch.linspace(-10, 10, 101, dtype=torch.float64)
    for b in range(12):
        task = int(batch.task[b])
        action, log_prob = row_policy(module, batch.obs[b, 1], task, noise[b])
        prob = row_prob(module.target_critic, batch.obs[b, 1], task, action).mean(0)
        scale = (10.0 + 0.1 * float(module.action_mask[task].sum()) / 0.04) / 10
        alive = 0.0 if batch.final[b, 1] else 1.0
        moved = batch.reward[b, 0] / scale + 0.99 * alive * (z - 0.1 * log_prob)
        nearness = (1 - (moved.clamp(-10, 10)[:, None] - z).abs() / 0.2).clamp(min=0)  # [from, to]
        torch.testing.assert_close(ours[b].double(), prob @ nearness, rtol=0, atol=1e-5)


def test_losses_are_their_loops():
    module, batch = make_brc(), make_windows()
    noise = 0.3 * torch.randn(12, 3)
    target = torch.randn(12, 101).softmax(-1)
    ours = module.losses(batch, target, noise)
    z = torch.linspace(-10, 10, 101, dtype=torch.float64)
    for b in range(12):
        task = int(batch.task[b])
        taken = row_prob(module.critic, batch.obs[b, 0], task, batch.action[b, 0])
        action, log_prob = row_policy(module, batch.obs[b, 0], task, noise[b])
        q = (row_prob(module.critic, batch.obs[b, 0], task, action).mean(0) * z).sum()
        target_entropy = -0.5 * float(module.action_mask[task].sum())
        expected = {
            "critic": -(target[b] * taken[0].log()).sum() - (target[b] * taken[1].log()).sum(),
            "actor": 0.1 * log_prob - q,
            "temperature": 0.1 * (-log_prob - target_entropy),
        }
        for name, value in expected.items():
            torch.testing.assert_close(ours[name][b].double(), value, rtol=1e-4, atol=1e-4)


def test_transitions_past_the_episode_count_for_nothing():
    """Whatever is written there; the loss is the mean of those that exist, each with its weight."""
    valid = torch.ones(12, 3, dtype=torch.bool)
    valid[8:, 1:] = False
    batch, other = (make_windows(valid=valid, weight=torch.linspace(0.1, 1, 12)) for _ in range(2))
    other.reward[8:] += 1e4
    other.obs[8:, 1] += 1e4
    loss = make_brc().training_step(batch, 0)["loss"]
    assert torch.equal(loss, make_brc().training_step(other, 0)["loss"])
    module = make_brc()
    losses = module.losses(batch, *draw(module, batch))
    torch.testing.assert_close(loss, (batch.weight * sum(losses.values()))[:8].mean())


def test_the_third_row_and_the_search_value_are_not_read():
    batch, other = make_windows(), make_windows()
    other.obs[:, 2], other.reward[:, 1:], other.action[:, 1:] = 5.0, 7.0, 0.5
    other.valid[:, 2] = False
    other.final[:, 2] = True
    assert torch.equal(make_brc().training_step(batch, 0)["loss"], make_brc().training_step(other, 0)["loss"])


def test_rewards_of_another_unit_give_the_same_targets_and_the_same_learning():
    """Tasks that differ in the unit of their rewards, where entropy plays no part (α = 0)."""
    batch = make_windows(obs_dims=(4, 4), action_dims=(2, 2))
    module = make_brc(obs_dims=(4, 4), action_dims=(2, 2), scale=None)
    module.log_temperature.data.fill_(-math.inf)
    for critic in (module.critic, module.target_critic):
        critic.embedding.weight.data[1] = critic.embedding.weight.data[0]
    for task, unit in enumerate((1.0, 1000.0)):
        module.reward_scale.update_(task, unit * torch.tensor([1.0, -2.0, 3.0]), terminated=False)
    noise = torch.randn(12, 2)
    targets = []
    for task, unit in enumerate((1.0, 1000.0)):
        same = batch.clone()
        same.task[:] = task
        same.reward *= unit
        targets.append(module.target_distribution(same, noise))
    torch.testing.assert_close(*targets, rtol=0, atol=1e-5)


def test_rewards_of_another_unit_learn_the_same():
    """1024, not 1000, for then even the rounding is the same."""
    modules = []
    for unit in (1.0, 1024.0):
        module = make_brc(scale=unit * 3.0)
        module.log_temperature.data.fill_(-math.inf)
        optimizer = module.configure_optimizers()
        for seed in range(5):
            batch = make_windows(seed=seed)
            batch.reward *= unit
            update_(module, optimizer, batch)
        modules.append(module)
    for name, weight in modules[0].named_parameters():
        assert torch.equal(weight, dict(modules[1].named_parameters())[name]), name


# --- what moves what


@pytest.mark.parametrize("name", ["critic", "actor", "temperature"])
def test_each_loss_reaches_its_own_parameters_alone(name):
    module, batch = make_brc(), make_windows()
    target = module.target_distribution(batch, torch.randn(12, 3))
    module.losses(batch, target, torch.randn(12, 3))[name].mean().backward()
    for parameter_name, parameter in module.named_parameters():
        if group_of(parameter_name).removeprefix("log_") == name:
            assert (parameter.grad != 0).any() and parameter.grad.isfinite().all(), parameter_name
        else:
            assert parameter.grad is None, parameter_name


def test_a_tasks_batch_turns_its_own_embedding_alone_and_leaves_padding():
    """Task 1 has three observations and one action; the actor's outputs of other dimensions get no gradient."""
    module, batch = make_brc(), make_windows()
    module.training_step(batch[batch.task == 1], 0)["loss"].backward()
    gradient = module.critic.embedding.weight.grad
    assert (gradient[[0, 2]] == 0).all() and (gradient[1] != 0).any()
    assert ((gradient * module.critic.embedding.weight).sum(-1).abs() < 1e-6).all()
    assert (module.critic.body[0].weight.grad[:, [3, 4, -2, -1]] == 0).all()
    assert (module.actor.body[0].weight.grad[:, [3, 4]] == 0).all()
    for layer in (module.actor.mean, module.actor.raw_log_std):
        assert (layer.weight.grad[..., 1:] == 0).all() and (layer.weight.grad[..., 0] != 0).any()


def test_one_optimizer_on_the_sum_steps_as_three_do():
    """Bit for bit: weights, target and temperature."""
    ours, theirs = make_brc(), make_brc()
    assert_same_weights(ours, theirs)
    optimizer, optimizers = ours.configure_optimizers(), three_optimizers(theirs)
    for seed in range(5):
        update_(ours, optimizer, make_windows(seed=seed))
        separate_update_(theirs, optimizers, make_windows(seed=seed))
    assert_same_weights(ours, theirs)


def test_the_target_follows_the_online_critics():
    module, batch = make_brc(), make_windows()
    optimizer = module.configure_optimizers()
    for _ in range(3):
        before = copy.deepcopy(module.target_critic)
        update_(module, optimizer, batch)
        pairs = zip(before.parameters(), module.critic.parameters(), module.target_critic.parameters(), strict=True)
        for old, online, now in pairs:
            assert not torch.equal(old, now)
            torch.testing.assert_close(now, old + 0.005 * (online - old), rtol=1e-6, atol=1e-7)
    assert all(p.grad is None and not p.requires_grad for p in module.target_critic.parameters())


def test_the_target_starts_as_a_copy():
    module = make_brc()
    for online, target in zip(module.critic.parameters(), module.target_critic.parameters(), strict=True):
        assert torch.equal(online, target) and online is not target


@pytest.mark.parametrize(("entropy_per_dim", "direction"), [(-50.0, -1), (50.0, 1)])
def test_temperature_falls_where_entropy_is_above_its_target_by_one_learning_rate(entropy_per_dim, direction):
    module = make_brc(entropy_per_dim=entropy_per_dim)
    before = module.log_temperature.item()
    update_(module, module.configure_optimizers(), make_windows())
    assert module.log_temperature.item() - before == pytest.approx(direction * 3e-4, rel=1e-3)


def test_every_parameter_but_the_temperature_decays():
    groups = make_brc().configure_optimizers().param_groups
    settings = [(group["lr"], group["betas"], group["eps"], group["weight_decay"]) for group in groups]
    usual = (3e-4, (0.9, 0.999), 1e-8, 1e-4)
    assert settings == [usual, usual, (3e-4, (0.5, 0.999), 1e-8, 0.0)]
    module = make_brc()
    grouped = sum(len(group["params"]) for group in module.configure_optimizers().param_groups)
    assert grouped == sum(parameter.requires_grad for parameter in module.parameters())


def test_it_refuses_to_learn_before_every_task_has_a_scale():
    module = make_brc(scale=None)
    module.reward_scale.update_(0, torch.ones(3), terminated=True)
    with pytest.raises(ValueError, match=r"no episode of tasks \[1, 2\] has ended"):
        module.training_step(make_windows(), 0)


def test_tasks_need_as_many_action_widths_as_observation_widths():
    with pytest.raises(ValueError, match="obs_dims has 2 tasks, action_dims has 1"):
        BRC(obs_dims=[3, 3], action_dims=[1])


# --- under Lightning


def fit(module: BRC, batches: list, callbacks: tuple = (), **changes) -> L.Trainer:
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    callbacks = [*callbacks, UpdateTarget()]
    trainer = L.Trainer(max_steps=len(batches), accelerator="cpu", callbacks=callbacks, **{**quiet, **changes})
    trainer.fit(module, DataLoader(batches, batch_size=None))
    return trainer


def test_a_trainer_makes_the_same_updates_and_counts_them_once():
    ours, theirs = make_brc(), make_brc()
    batches = [make_windows(seed=seed) for seed in range(5)]
    trainer = fit(ours, batches)
    optimizer = theirs.configure_optimizers()
    for batch in batches:
        update_(theirs, optimizer, batch)
    assert trainer.global_step == 5
    assert_same_weights(ours, theirs)


def test_the_same_seed_trains_to_the_same_bits():
    batches = [make_windows(seed=seed) for seed in range(3)]
    first, second, other = make_brc(), make_brc(), make_brc(seed=1)
    for module in (first, second, other):
        fit(module, batches)
    assert_same_weights(first, second)
    assert not torch.equal(first.actor.mean.weight, other.actor.mean.weight)


def test_a_skipped_update_leaves_the_target_where_it_is():
    module = make_brc()
    module.target_critic.embedding.weight.add_(1.0)  # a step would move it
    before = copy.deepcopy(module.target_critic.state_dict())

    class Skip(L.Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            optimizer.zero_grad()

        def on_train_batch_end(self, trainer, pl_module, outputs, *_):
            outputs["skipped"] = True

    fit(module, [make_windows()], callbacks=[Skip()])
    for name, value in module.target_critic.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_it_logs_its_losses_and_goes_on_from_a_checkpoint(tmp_path):
    module = make_brc()
    trainer = fit(module, [make_windows()], log_every_n_steps=1)
    trainer.save_checkpoint(tmp_path / "brc.ckpt")
    metrics = trainer.logged_metrics
    assert {"loss/critic", "loss/actor", "loss/temperature", "reward/scale", "policy/temperature"} <= metrics.keys()
    assert all(value.isfinite() for value in metrics.values())
    resumed = make_brc(seed=5, scale=None)
    resumed.load_state_dict(torch.load(tmp_path / "brc.ckpt", weights_only=True)["state_dict"])
    assert_same_weights(module, resumed)
    assert resumed.reward_scale.unknown_tasks() == []


# --- acting


def test_acting_without_exploring_is_tanh_of_the_mean():
    module, batch = make_brc(), make_windows()
    obs, task = batch.obs[:, 0], batch.task
    action = act(module, obs, task)
    mean, _ = module.actor(module.critic.state(obs, task))
    assert torch.equal(action, torch.tanh(mean) * module.action_mask[task])
    assert (action[task == 1, 1:] == 0).all() and not action.requires_grad


def test_own_weights_are_those_of_the_last_refresh():
    """Of the actor, and of the embedding, which alone tells several tasks with the same observation apart."""
    module, batch = make_brc(), make_windows()
    actor, obs, task = module.make_actor(own_weights=True), batch.obs[:, 0], batch.task

    def chosen(sampler):
        return sampler.act(obs, task, torch.Generator(), explore=False)["action"]

    for part in (module.critic.embedding, module.actor.mean):
        before = chosen(actor)
        part.weight.data.add_(torch.randn_like(part.weight))
        assert torch.equal(chosen(actor), before) and not torch.equal(chosen(module.make_actor()), before)
        actor.refresh_()
        assert torch.equal(chosen(actor), chosen(module.make_actor()))


def test_exploring_draws_from_its_generator_alone():
    module, batch = make_brc(), make_windows()
    state, learner = torch.get_rng_state(), module.generator.get_state()
    acts = [act(module, batch.obs[:, 0], batch.task, explore=True, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(acts[0], acts[1]) and not torch.equal(acts[0], acts[2])
    assert torch.equal(state, torch.get_rng_state()) and torch.equal(learner, module.generator.get_state())
    assert (acts[0].abs() <= 1).all() and (acts[0] * (1 - module.action_mask[batch.task]) == 0).all()


def test_explored_actions_have_the_policys_law():
    """Their atanh has the actor's mean and deviation."""
    module, batch = make_brc(), make_windows(rows=3)
    n = 4000
    module.actor.raw_log_std.weight.data.mul_(0.05)
    module.actor.mean.weight.data.mul_(0.2)
    module.actor.raw_log_std.bias.data.fill_(0.5)  # σ = exp(-10 + 6 (1 + tanh 0.5)) = 0.29
    obs, task = batch.obs[:1, 0].expand(n, -1), batch.task[:1].expand(n)
    u = torch.atanh(act(module, obs, task, explore=True)[:, :2].double())
    mean, log_std = (x[0, :2].double() for x in module.actor(module.critic.state(obs[:1], task[:1])))
    torch.testing.assert_close(u.mean(0), mean.detach(), rtol=0, atol=0.03)
    torch.testing.assert_close(u.std(0), log_std.detach().exp(), rtol=0.05, atol=0)


# --- it learns


def bandit(seed: int, best: tuple[float, ...] = (0.3,)) -> Batch:
    """One state, reward −(a − best)², over at once; actions uniform. Each task has its own best action."""
    ones = (1,) * len(best)
    action = torch.rand(64, 3, 1, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    final = torch.tensor([False, True, False]).expand(64, -1)
    batch = make_windows(rows=64, obs_dims=ones, action_dims=ones, action=action, final=final)
    batch.obs[:] = 1.0
    batch.reward = -(action[..., 0] - torch.tensor(best)[batch.task, None]).square()
    return batch


@pytest.mark.parametrize("order", ["ours", "published"])
def test_a_bandit_is_solved(order):
    """The published order of the three steps learns as ours does."""
    module = make_brc(seed=1, obs_dims=(1,), action_dims=(1,), width=64, actor_width=64, scale=-1.69)
    optimizer = module.configure_optimizers() if order == "ours" else three_optimizers(module)
    update = update_ if order == "ours" else published_update_
    for i in range(500):
        update(module, optimizer, bandit(i))
    one = torch.ones(1, 1)
    chosen = act(module, one, torch.zeros(1, dtype=torch.int64)).item()
    value = module.fixed_value(one, torch.full((1, 1), 0.3)).item()
    assert chosen == pytest.approx(0.3, abs=0.1)
    assert value == pytest.approx(0.0, abs=0.1)


def test_one_agent_solves_two_bandits_that_its_embedding_alone_tells_apart():
    best = (0.4, -0.4)
    module = make_brc(seed=1, obs_dims=(1, 1), action_dims=(1, 1), width=64, actor_width=64, scale=-1.96)
    optimizer = module.configure_optimizers()
    for i in range(500):
        update_(module, optimizer, bandit(i, best))
    chosen = act(module, torch.ones(2, 1), torch.arange(2))
    torch.testing.assert_close(chosen[:, 0], torch.tensor(best), rtol=0, atol=0.15)
