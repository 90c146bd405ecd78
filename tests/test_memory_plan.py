"""The memory plan: close to what is really allocated, refused where it cannot fit, with what to turn down."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hydra import compose, initialize_config_dir

from ezm_lightning import build, memory_plan
from ezm_lightning.commands import train
from ezm_lightning.config.folder import config_dir
from ezm_lightning.memory_plan import MemoryPlan, Part, saved_bytes


def composed(*overrides: str):
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return compose(
            "train", overrides=["experiment=debug", "tasks=custom", "tasks.names=[dmc/walker-walk]", *overrides]
        )


def stub(device: str = "cpu", ranks: int = 1) -> SimpleNamespace:
    """What the plan reads of a trainer."""
    strategy = SimpleNamespace(root_device=torch.device(device))
    return SimpleNamespace(world_size=ranks, num_devices=ranks, strategy=strategy)


def sizes(plan: MemoryPlan) -> dict[str, int]:
    return {part.name: part.size for part in plan.parts}


@pytest.mark.parametrize(
    "overrides", [("collect.overlap=true",), ("model=paper", "tasks.names=[dmc/walker-walk,gym/Hopper-v5]")]
)
@pytest.mark.parametrize(("optimizer", "fused"), [("Adam", False), ("Adam", True), ("SGD", True)])
def test_replay_and_model_are_estimated_within_a_tenth(overrides, optimizer, fused):
    cfg = composed(*overrides, f"+module.optimizer.fused={fused}")
    cfg.module.optimizer._target_ = f"torch.optim.{optimizer}"
    env = build.make_env(cfg)
    before = torch.get_rng_state()
    estimate = sizes(build.make_memory_plan(cfg, stub(), env))
    assert torch.equal(before, torch.get_rng_state())

    module = build.make_module(cfg)
    weights = list(module.model.parameters())
    sum(weight.sum() for weight in weights if weight.requires_grad).backward()
    adam = module.make_optimizer(weights)
    adam.step()
    models = [x for part in (module.model, module.target.model) for x in (*part.parameters(), *part.buffers())]
    models += [*module.target.search_form.weights.tensors()] * (2 if cfg.collect.overlap else 1)
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    moments = [x for state in adam.state.values() for x in state.values() if torch.is_tensor(x)]
    assert estimate["model"] == pytest.approx(sum(x.nbytes for x in [*models, *gradients, *moments]), rel=0.1)

    replay = build.make_replay(cfg, env, module, 0, 1)
    td = env.rand_step(env.reset())
    replay.extend(td.set("search_value", torch.zeros(env.num_slots)))
    storage = replay.buffer.storage._storage
    stored = sum(x.nbytes for x in storage.values(True, True)) + memory_of_sampler(replay)
    assert estimate["replay"] == pytest.approx(stored, rel=0.1)
    env.close()


def memory_of_sampler(replay) -> int:
    return sum(x.nbytes for x in vars(replay.sampler).values() if torch.is_tensor(x))


def test_the_backward_pass_keeps_about_what_is_estimated():
    cfg = composed()
    env = build.make_env(cfg)
    kept: dict[int, torch.Tensor] = {}
    module = build.make_module(cfg)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.setdefault(x.data_ptr(), x), lambda x: x):
        batch = torch.zeros(cfg.batch_size, dtype=torch.int64)
        obs, action = torch.randn(len(batch), 24), torch.randn(len(batch), cfg.unroll_steps, 6)
        module.model.predict_projection(module.model.unroll(obs, action, batch).latent[:, 1:])
    own = {x.data_ptr() for x in module.model.parameters()}
    really = sum(x.untyped_storage().nbytes() for at, x in kept.items() if at not in own)
    assert sizes(build.make_memory_plan(cfg, stub(), env))["learning"] == pytest.approx(really, rel=0.2)
    env.close()


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_long_window_is_estimated_from_short_ones(steps):
    env = build.make_env(composed())
    cfg = composed(f"unroll_steps={steps}")
    model = build.make_sketch(cfg).model

    def unroll() -> None:
        action, task = torch.empty(2, steps, env.action_dim), torch.zeros(2, dtype=torch.int64)
        latent = model.unroll(torch.empty(2, env.obs_dim), action, task).latent
        model.predict_projection(latent[:, 1:])

    really = cfg.batch_size * saved_bytes(unroll, [*model.parameters(), *model.buffers()]) // 2
    assert sizes(build.make_memory_plan(cfg, stub(), env))["learning"] == pytest.approx(really, rel=0.02)
    env.close()


@pytest.mark.parametrize("override", ["unroll_steps", "planner.num_candidates", "planner.num_simulations"])
@pytest.mark.parametrize("experiment", ["debug", "dmc_cpu"])
def test_an_absurd_number_is_refused_at_once(experiment, override):
    cfg = composed(f"experiment={experiment}", f"{override}=1_000_000_000_000")
    env = build.make_env(cfg)
    with pytest.raises(MemoryError, match=rf"cannot fit in memory.*{override}"):
        build.make_memory_plan(cfg, stub(), env).check()
    env.close()


def test_every_knob_turns_its_part_down():
    cfg, env = composed("batch_size=32"), build.make_env(composed())
    whole = sizes(build.make_memory_plan(cfg, stub(), env))
    changes = {
        "batch_size=16": {"learning", "search"},
        "reanalyzer.ratio=0.5": {"search"},
        "planner.num_simulations=4": {"search"},
        "planner.max_num_considered_actions=4": {"search"},
        "planner.num_candidates=4": {"search"},
        "unroll_steps=2": {"search", "learning"},
        "model.latent_dim=16": {"model", "learning", "search"},
        "replay.capacity=700": {"replay"},
    }
    for change, lowered in changes.items():
        less = sizes(build.make_memory_plan(composed("batch_size=32", change), stub(), env))
        assert {name for name in whole if less[name] < whole[name]} == lowered, change
    assert sum(sizes(build.make_memory_plan(cfg, stub(ranks=2), env)).values()) < sum(whole.values())
    env.close()


def test_brc_names_its_own_knobs_and_each_turns_its_part_down(monkeypatch):
    preset = ("experiment=brc_cpu", "model=brc_4096")
    env = build.make_env(composed(*preset))
    plan = build.make_memory_plan(composed(*preset), stub(), env)
    monkeypatch.setattr(memory_plan, "available_bytes", lambda device: 10**9)
    with pytest.raises(MemoryError) as refusal:
        plan.check()
    order = "model (model=brc_256, model.width), batch_size, replay.capacity (by default env_steps_per_task)"
    assert str(refusal.value).endswith(f"; turn down, in this order: {order}")
    whole = sizes(plan)
    for change, lowered in {
        "model=brc_256": {"model", "learning"},
        "model.width=128": {"model", "learning"},
        "batch_size=64": {"learning"},
        "replay.capacity=700": {"replay"},
    }.items():
        less = sizes(build.make_memory_plan(composed(*preset, change), stub(), env))
        assert {name for name in whole if less[name] < whole[name]} == lowered, change
    env.close()


@pytest.mark.parametrize(
    ("parts", "first"),
    [
        (
            {"replay": 9, "model": 1, "search": 3, "learning": 2},
            "replay.device (cpu), replay.capacity (by default env_steps_per_task), reanalyzer.ratio",
        ),
        ({"replay": 1, "model": 2, "search": 3, "learning": 9}, "batch_size, reanalyzer.ratio, planner.num_sim"),
        (
            {"replay": 1, "model": 9, "search": 3, "learning": 3},
            "model (model=small, model.latent_dim, model.num_value_heads), batch_size, re",
        ),
    ],
)
def test_the_largest_part_is_turned_down_first(monkeypatch, parts, first):
    monkeypatch.setattr(memory_plan, "available_bytes", lambda device: 10**9)
    plan = MemoryPlan([Part(name, size, "cuda") for name, size in parts.items()])
    text = plan.advice("cuda")
    assert f"turn down, in this order: {first}" in text and text.count(",") > 6 and "1.00 GB free" in text


@pytest.mark.parametrize(
    ("sure", "about", "ranks", "fits"),
    [(8, 99, 1, True), (11, 0, 1, False), (6, 0, 2, False), (5, 9, 2, True)],
)
def test_what_cannot_fit_is_refused(monkeypatch, sure, about, ranks, fits):
    monkeypatch.setattr(memory_plan, "available_bytes", lambda device: 10)
    parts = [Part("replay", sure, "cpu"), Part("model", 0, "cpu"), Part("learning", about, "cpu", about=True)]
    plan = MemoryPlan(parts, ranks_per_host=ranks)
    if fits:
        plan.check()
        return
    with pytest.raises(MemoryError, match=r"cannot fit in memory: replay .*on cpu.*turn down, in this order: replay"):
        plan.check()


@pytest.mark.parametrize(
    ("override", "first"),
    [("replay.capacity=1_000_000_000_000", "replay.capacity"), ("model.latent_dim=500_000", "mod")],
)
def test_a_run_that_cannot_fit_is_one_line_and_writes_nothing(tmp_path, monkeypatch, capsys, override, first):
    monkeypatch.chdir(tmp_path)
    assert train.main(["experiment=debug", "tasks=dmc/walker-walk", override]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"turn down, in this order: {first}" in error
    assert not [path for path in Path(tmp_path).rglob("*") if path.is_file()]


def test_running_out_of_gpu_memory_says_what_to_turn_down(tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    on_gpu = [Part(name, 10**9, "cuda") for name in ("replay", "model", "search", "learning")]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(build, "make_memory_plan", lambda *_: MemoryPlan(on_gpu))
    monkeypatch.setattr(memory_plan, "available_bytes", lambda device: 10**10)
    monkeypatch.setattr(train.L.Trainer, "fit", full)
    assert train.main(["experiment=debug", "tasks=dmc/walker-walk"]) == 2
    out, error = capsys.readouterr()
    assert (
        "memory replay 1.00 GB, model 1.00 GB, search 1.00 GB, learning 1.00 GB on cuda; 3.00 GB in all (10.00 GB free)"
        in out
    )
    search = "planner.num_simulations, planner.max_num_considered_actions, planner.num_candidates"
    order = f"batch_size, reanalyzer.ratio, {search}, planner.num_leaf_candidates, unroll_steps, model"
    assert error.startswith("error: out of GPU memory at update 0: replay 1.00 GB") and order in error


def test_an_estimate_that_is_many_times_too_large_is_refused(monkeypatch):
    monkeypatch.setattr(memory_plan, "available_bytes", lambda device: 10)
    parts = [Part(name, 1, "cpu") for name in ("replay", "model")] + [Part("search", 201, "cpu", about=True)]
    with pytest.raises(MemoryError, match=r"cannot fit in memory: .*turn down, in this order: "):
        MemoryPlan(parts).check()
