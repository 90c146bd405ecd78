"""The training step: what it returns, what it moves, what it leaves alone, and that a network can learn by it."""

import copy
from types import SimpleNamespace

import pytest
import torch

from ezm_lightning.model.networks import StackedBatchNorm, StackedLayerNorm
from ezm_lightning.model.task_embedding import Both
from ezm_lightning.module import EZM, PRIORITY_FLOOR
from ezm_lightning.ops import squashed_gaussian
from ezm_lightning.ops.support import decode
from ezm_lightning.planner import Planner
from ezm_lightning.policy_target import ImprovedPolicy
from ezm_lightning.reanalyze import Reanalyzer
from ezm_lightning.temperature import TunedTemperature
from ezm_lightning.value_gradient import ValueGradient
from ezm_lightning.value_mix import TDShare
from tests.coefficients import COEFS

K, TD_STEPS = 3, 3


@pytest.mark.parametrize(
    ("device", "on_gpu", "steps"),
    [("cpu", False, ["cpu"]), ("cuda", False, ["pinned", "cuda"]), ("cuda", True, ["cuda"])],
)
def test_a_batch_goes_to_a_gpu_through_pinned_memory(device, on_gpu, steps):
    taken = []

    class Recorded:
        obs = SimpleNamespace(is_cuda=on_gpu)

        def pin_memory(self, num_threads):
            taken.append("pinned")
            return self

        def to(self, device, *, non_blocking):
            taken.append(str(device))
            assert non_blocking
            return self

    EZM.transfer_batch_to_device(None, Recorded(), torch.device(device), 0)
    assert taken == steps


@pytest.fixture
def make_module(make_model):
    """Builds a module with a small planner, in train mode, its trainer a stub that never logs."""

    def make(*, model: dict | None = None, wake: bool = True, **changes) -> EZM:
        planner = Planner(num_simulations=8, max_num_considered_actions=4, num_candidates=4, num_policy_candidates=2)
        arguments = {
            "model": make_model(wake=wake, **(model or {})),
            "reanalyzer": Reanalyzer(planner, policy_target=ImprovedPolicy(), unroll_steps=K, td_steps=TD_STEPS),
            "value_mix": TDShare(),
            "value_gradient": ValueGradient(num_tasks=3, discount=planner.discount),
            "temperature": TunedTemperature(num_tasks=3),
            "loss_coefs": COEFS,
            "optimizer": lambda parameters: torch.optim.Adam(parameters, lr=3e-3),
            "ema_half_life": 10,
        }
        module = EZM(**{**arguments, **changes})
        stub = SimpleNamespace(global_step=1, log_every_n_steps=1000, world_size=1, max_steps=100, global_rank=0)
        module._trainer = module.stub = stub
        module.on_fit_start()
        return module.train()

    return make


def a_step(module: EZM, batch) -> dict:
    out = module.training_step(batch, 0)
    out["loss"].backward()
    return out


def test_a_step_gives_every_parameter_a_finite_gradient(make_module, make_batch):
    module = make_module()
    out = a_step(module, make_batch())
    assert out["loss"].isfinite() and out["loss"].ndim == 0
    for name, parameter in module.model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        if parameter.ndim > 1:
            assert (parameter.grad != 0).any(), name
    assert all(p.grad is None and not p.requires_grad for p in module.target.model.parameters())


def test_the_value_gradient_moves_only_what_the_policy_is_computed_from(make_module, make_batch):
    """Reward and value, by which it looks ahead, learn nothing; the dynamics learn by the unroll."""
    module = make_module(loss_coefs={name: float(name == "value_gradient") for name in COEFS})
    a_step(module, make_batch())
    moved = {name.split(".")[0] for name, p in module.model.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved == {"task_embedding", "representation", "dynamics", "trunk", "policy_head"}


def test_entropy_and_value_gradient_count_where_the_policy_acts(make_module, make_batch):
    """Window 1 is terminated in its third row, which leaves two; window 2 is truncated there, which leaves three."""
    climbs = [ValueGradient(num_tasks=3, discount=0.99, least_range=1e-3) for _ in range(2)]
    module = make_module(value_gradient=climbs[0])
    module.temperature.log_value.data = torch.tensor([0.1, 0.2, 0.3]).log()
    valid = torch.arange(7) < torch.tensor([7, 3, 3, 7, 7, 7])[:, None]
    final = torch.zeros_like(valid)
    final[1, 2] = True
    batch, noise = make_batch(valid=valid, final=final), torch.randn(6, K + 1, 3)
    targets, _ = module.reanalyzer(batch, module.target.search_form, module.value_mix, 1, module.generator)
    p = module.model.unroll(batch.obs[:, 0], batch.action[:, :K], batch.task)
    losses = module.losses(batch, targets, p, noise)
    acts, mask = (valid & ~final)[:, : K + 1], module.model.action_mask[batch.task]
    assert acts.sum(-1).tolist() == [4, 2, 3, 4, 4, 4]
    over_unroll = lambda x: torch.where(acts, x, 0.0).sum(-1) / K  # noqa: E731
    entropy = over_unroll(squashed_gaussian.entropy(p.policy_mean, p.policy_log_std, mask[:, None], noise))
    alpha = torch.tensor([0.1, 0.2, 0.3, 0.1, 0.2, 0.3])
    torch.testing.assert_close(losses["entropy"], -alpha * entropy)  # a more random policy has a lower loss
    wanted = -1.5 * torch.tensor([2, 3, 1, 2, 3, 1]) * acts.sum(-1) / K  # nats per dimension that the task has
    torch.testing.assert_close(losses["temperature"], alpha * (entropy - wanted))
    q = climbs[1](module.target.model, p, batch.task, noise, acts)
    torch.testing.assert_close(losses["value_gradient"], -over_unroll(q))


def test_targets_are_searched_in_full_precision(make_module, make_batch):
    """Also where the losses are computed in bf16."""
    seen, losses = [], []
    for bf16 in (False, True):
        module = make_module()
        module.learn = lambda batch, targets, *x, learn=module.learn: seen.append(targets) or learn(batch, targets, *x)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            losses.append(module.training_step(make_batch(), 0)["loss"])
    assert (seen[0] == seen[1]).all()
    assert not torch.equal(*losses)


def both(tasks: int, dim: int, **options) -> Both:
    """Embeddings of texts with a residual, both random."""
    form = Both(tasks, dim, text_dim=12, **options)
    form.z.normal_()
    torch.nn.init.normal_(form.residual)
    return form


@pytest.mark.parametrize("drop", [0.0, 0.25, 1.0])
def test_drop_residual_is_the_share_of_windows_without_it(make_module, make_batch, drop):
    module = make_module(model={"task_embedding": lambda *sizes: both(*sizes, drop_residual=drop)})
    keep = module.draw_keep(make_batch(2000, window=1))
    assert not keep if drop == 0 else keep[0].float().mean().item() == pytest.approx(1 - drop, abs=0.05)


def test_a_window_without_its_residual_has_the_losses_of_a_model_without_residuals(make_module, make_batch):
    """Its observed latents too, with which predicted latents must agree."""
    module = make_module(model={"task_embedding": both}, loss_coefs={**COEFS, "value_gradient": 0.0})
    module.model.eval()  # batch norm would mix the windows
    batch, keep, noise = make_batch(), torch.arange(6) % 2 == 0, torch.randn(6, K + 1, 3)
    targets, _ = module.reanalyzer(batch, module.target.search_form, module.value_mix, 1, module.generator)
    losses, whole = (module.unroll_and_compare(batch, targets, noise, x)[1] for x in (keep, None))
    torch.nn.init.zeros_(module.model.task_embedding.residual)
    bare = module.unroll_and_compare(batch, targets, noise)[1]
    assert not torch.isclose(whole["consistency"], bare["consistency"]).any()
    for name in COEFS:
        torch.testing.assert_close(losses[name], torch.where(keep, whole[name], bare[name]), msg=name)


def test_padding_gets_no_gradient(make_module, make_batch):
    """Only task 2: a single action, three observations."""
    module = make_module()
    batch = make_batch()
    a_step(module, batch[batch.task == 2])
    model = module.model
    assert (model.representation[0].weight.grad[:, 3:6] == 0).all()
    assert (model.policy_head.body[-1].weight.grad[..., [1, 2, 4, 5]] == 0).all()
    assert (model.policy_head.body[-1].weight.grad[..., [0, 3]] != 0).any()
    assert (model.task_embedding.weight.grad[:2] == 0).all()


def test_loss_is_the_weighted_sum_of_all_losses(make_module, make_batch):
    weight = torch.tensor([0.1, 1.0, 0.5, 0.3, 0.7, 0.9])
    out, losses = [], []
    for name in [None, *COEFS]:
        coefs = COEFS if name is None else {n: COEFS[n] * (n == name) for n in COEFS}
        module = make_module(loss_coefs=coefs)
        out.append(module.training_step(make_batch(weight=weight), 0)["loss"])
        losses.append(module.last_losses)
    torch.testing.assert_close(out[0], sum(out[1:]))
    assert losses[0].keys() == COEFS.keys() and all(x.isfinite() for x in losses[0].values())
    doubled = make_module().training_step(make_batch(weight=2 * weight), 0)["loss"]
    torch.testing.assert_close(doubled, 2 * out[0])
    one = make_module(loss_coefs={n: float(n == "policy") for n in COEFS})
    loss = one.training_step(make_batch(), 0)["loss"]
    torch.testing.assert_close(loss, one.last_losses["policy"])


@pytest.mark.parametrize("coefs", [{**COEFS, "typo": 1.0}, {n: c for n, c in COEFS.items() if n != "entropy"}])
def test_coefficients_must_name_the_losses(make_module, make_batch, coefs):
    with pytest.raises(ValueError, match=r"module.loss_coefs must name the losses .*; these differ: (typo|entropy)"):
        make_module(loss_coefs=coefs)


def test_losses_of_a_subclass_are_compared_when_it_makes_them(make_module, make_batch, monkeypatch):
    module = make_module()
    module.loss_coefs["typo"] = 1.0
    with pytest.raises(ValueError, match=r"loss_coefs has keys .* the losses are"):
        module.training_step(make_batch(), 0)


def test_priority_is_the_distance_to_the_value_target(make_module, make_batch):
    module, batch = make_module(), make_batch()
    out = module.training_step(batch, 0)
    assert torch.equal(out["index"], batch.index)
    again = make_module()
    targets, _ = again.reanalyzer(batch, again.target.model, again.value_mix, 1, again.generator)
    again.model.obs_norm.update_(batch.obs[:, 0], again.model.obs_mask[batch.task])
    prediction = again.model.unroll(batch.obs[:, 0], batch.action[:, :K], batch.task)
    value = decode(prediction.value_logits[:, 0], again.model.value_support).mean(-1)
    torch.testing.assert_close(out["priority"], (value - targets.value[:, 0]).abs() + 1e-6)
    assert (out["priority"] >= PRIORITY_FLOOR).all() and not out["priority"].requires_grad


def test_the_same_seed_makes_the_same_step(make_module, make_batch):
    losses = [a_step(make_module(seed=seed), make_batch())["loss"] for seed in (3, 3, 4)]
    assert torch.equal(losses[0], losses[1]) and not torch.equal(losses[0], losses[2])


def test_ranks_draw_different_noise(make_module):
    module = make_module()
    first = torch.rand(3, generator=module.generator)
    module.stub.global_rank = 1
    module.on_fit_start()
    assert not torch.equal(first, torch.rand(3, generator=module.generator))


def test_a_step_normalises_by_its_root_observations(make_module, make_batch):
    module, batch = make_module(), make_batch()
    a_step(module, batch)
    assert module.model.obs_norm.count.tolist() == [6, 6, 6, 4, 2, 2]  # three tasks of 4, 6 and 3 dimensions, twice
    torch.testing.assert_close(module.model.obs_norm.mean[0], batch.obs[:, 0, 0].mean())
    assert module.target.model.obs_norm.count.sum() == 0
    module.update_target_()
    assert torch.equal(module.target.model.obs_norm.mean, module.model.obs_norm.mean)


def test_rows_outside_the_episode_do_not_matter(make_module, make_batch):
    """Garbage there changes neither loss nor gradient nor priority."""
    valid = torch.arange(7) < torch.tensor([7, 1, 2, 3, 4, 5])[:, None]
    final = torch.zeros_like(valid)
    final[3, 2] = final[5, 4] = True
    clean, dirty = (make_batch(valid=valid, final=final) for _ in range(2))
    for field, garbage in ((dirty.obs, 3.0), (dirty.reward, 1e3)):
        field[~valid] = garbage
    dirty.reward[:, :-1][~valid[:, 1:]] = 1e3  # paid for no transition
    layer_norm = {"head_norm": StackedLayerNorm}  # batch norm sees every row of the unroll
    modules = [make_module(model=layer_norm) for _ in range(2)]
    outs = [a_step(m, b) for m, b in zip(modules, (clean, dirty), strict=True)]
    torch.testing.assert_close(outs[0]["loss"], outs[1]["loss"])
    torch.testing.assert_close(outs[0]["priority"], outs[1]["priority"])
    for (name, p), q in zip(modules[0].model.named_parameters(), modules[1].model.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, msg=name)


def test_target_starts_as_a_copy_and_stays_in_eval(make_module):
    module = make_module()
    for (name, p), q in zip(module.model.state_dict().items(), module.target.model.state_dict().values(), strict=True):
        assert torch.equal(p, q), name
    assert module.model.training
    assert not any(m.training for m in module.target.model.modules())
    module.eval()
    module.train()
    assert module.model.training and not any(m.training for m in module.target.model.modules())


@pytest.mark.parametrize("half_life", [1, 7, 35])
def test_target_covers_half_the_distance_in_its_half_life(make_module, half_life):
    module = make_module(ema_half_life=half_life)
    start = copy.deepcopy(module.target.model)
    with torch.no_grad():
        for p in module.model.parameters():
            p.add_(torch.randn_like(p))
        for name, b in module.model.named_buffers():
            if "running" in name or "obs_norm" in name:
                b.add_(1)
    for _ in range(half_life):
        module.update_target_()
    parameters = (m.parameters() for m in (module.target.model, start, module.model))
    for now, before, goal in zip(*parameters, strict=True):
        torch.testing.assert_close(now, (before + goal) / 2, rtol=1e-4, atol=1e-5)
    for now, goal in zip(module.target.model.buffers(), module.model.buffers(), strict=True):
        assert torch.equal(now, goal)


def test_a_step_moves_no_target(make_module, make_batch):
    module = make_module()
    module.target.model.embed(torch.arange(3))  # its first use cuts the embedding's norm to 1
    before = copy.deepcopy(module.target.model.state_dict())
    optimizer = module.configure_optimizers()["optimizer"]
    a_step(module, make_batch())
    optimizer.step()
    for name, value in module.target.model.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("embedding", [{}, {"task_embedding": both}])
def test_the_optimiser_is_given_all_that_learns_once(make_module, embedding):
    module = make_module(model=embedding)
    groups = module.configure_optimizers()["optimizer"].param_groups
    given = [id(x) for group in groups for x in group["params"]]
    assert sorted(given) == sorted(id(x) for x in module.parameters() if x.requires_grad)
    assert id(module.temperature.log_value) in given
    assert [group["weight_decay"] for group in groups] == [0, 1e-3][: len(groups)]


@pytest.mark.parametrize("half_life", [0, -1.0])
def test_refuses_a_half_life_that_is_not_positive(make_module, half_life):
    with pytest.raises(ValueError, match=f"ema_half_life={half_life} must be positive"):
        make_module(ema_half_life=half_life)


def test_learning_rate_drops_once_at_the_end(make_module):
    configured = make_module().configure_optimizers()
    optimizer, schedule = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    assert configured["lr_scheduler"]["interval"] == "step"
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([3e-3] * 90 + [3e-4] * 10)


def test_the_log_names_every_loss_and_is_finite(make_module, make_batch, monkeypatch):
    module, logged = make_module(), {}
    module.stub.global_step = 999  # the update after which loggers write
    monkeypatch.setattr(module, "log_dict", lambda metrics, **_: logged.update(metrics))
    module.training_step(make_batch(), 0)
    assert {f"loss/{name}" for name in COEFS} <= logged.keys()
    assert all(x.isfinite() for x in logged.values()), logged
    assert not any(x.requires_grad for x in logged.values())
    module.stub.global_step, counted = 1000, len(logged)
    logged.clear()
    module.training_step(make_batch(), 0)
    assert not logged and counted > len(COEFS)


def test_an_update_that_is_logged_says_how_far_the_policy_moved(make_module, make_batch, monkeypatch):
    module, batch, logged = make_module(), make_batch(), {}
    module.stub.global_step = 999  # the update after which loggers write
    monkeypatch.setattr(module, "log_dict", lambda *_, **__: None)
    monkeypatch.setattr(module, "log", lambda name, value, **_: logged.update({name: float(value)}))
    module.training_step(batch, 0)
    statistics = copy.deepcopy(module.model.state_dict())
    module.on_train_batch_end({}, batch, 0)
    assert logged == {"policy/kl_of_update": 0.0}
    assert all(torch.equal(x, statistics[name]) for name, x in module.model.state_dict().items())
    module.training_step(batch, 0)
    output = module.model.policy_head.body[-1]
    output.bias.data[..., : output.bias.shape[-1] // 2] += 0.1
    module.on_train_batch_end({}, batch, 0)
    assert logged["policy/kl_of_update"] > 0 and module.model.training
    logged.clear()
    module.on_train_batch_end({}, batch, 0)
    assert not logged


def test_a_non_finite_reward_becomes_a_non_finite_loss(make_module, make_batch):
    """The guard on the loss can only speak if the step gets this far."""
    reward = torch.zeros(6, 7)
    reward[2, 1] = torch.nan
    assert not make_module().training_step(make_batch(reward=reward), 0)["loss"].isfinite()


@pytest.mark.parametrize("norm", [StackedBatchNorm, StackedLayerNorm])
def test_overfits_one_batch(make_module, make_batch, norm):
    """Rewards, values, actions and next latents of one fixed batch are learned by heart within 200 updates."""
    sizes = {"latent_dim": 64, "head_dim": 64, "value_range": (-20.0, 20.0), "reward_range": (-3.0, 3.0)}
    sizes |= {"initial_std": 0.3, "head_norm": norm}
    module = make_module(model=sizes, wake=False)
    batch, model = make_batch(), module.model
    targets, _ = module.reanalyzer(batch, module.target.model, module.value_mix, 0, module.generator)
    targets.value = torch.linspace(-15, 15, 24)[torch.randperm(24)].view(6, 4)
    taken = batch.action[:, : K + 1]
    targets.action, targets.action_weights = taken[:, :, None], torch.ones(6, K + 1, 1)
    optimizer = module.configure_optimizers()["optimizer"]
    model.obs_norm.update_(batch.obs[:, 0], model.obs_mask[batch.task])
    coefs = {**COEFS, "value": 1.0, "consistency": 1.0, "path_consistency": 0.0, "value_gradient": 0.0, "entropy": 0.0}
    for step in range(200):
        prediction, losses, _ = module.learn(batch, targets, torch.randn(taken.shape))
        if step == 0:
            first = {name: x.mean().item() for name, x in losses.items()}
        optimizer.zero_grad()
        sum(coefs[name] * x for name, x in losses.items()).mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
    reward = decode(prediction.reward_logits, model.reward_support)
    value = decode(prediction.value_logits, model.value_support).mean(-1)
    mask = model.action_mask[batch.task].bool()[:, None].expand(-1, K + 1, -1)
    assert (reward - targets.reward).abs().max() < 0.3
    assert (value - targets.value).abs().mean() < 2  # of values between −15 and 15: the best constant misses by 7.5
    assert (prediction.policy_mean.tanh() - taken)[mask].abs().mean() < 0.1
    assert losses["policy"].mean() < first["policy"] - 8
    assert losses["consistency"].mean() < -0.8
