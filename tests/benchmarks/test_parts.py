"""The benchmark command: what it accepts, what it counts, what it prints."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import benchmarks as bench
from benchmarks import arguments, measure, run
from benchmarks.search import make_model, search_flops
from benchmarks.sizes import autocast, compile_override, config, make_learner, planner_of
from benchmarks.update import update_of
from ezm_lightning.model.networks import StackedLinear

KEYS = [
    "what", "size", "batch", "ms_median", "floor_ms", "share_of_floor", "parameters", "threads", "device", "versions",
]  # fmt: skip


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "say what to measure: search, update, reanalyze, decision, replay, env, collect, train, trained"),
        (["size=hard"], "say what to measure"),
        (["serach"], "unknown 'serach'; nearest: search"),
        (["search", "bacth=1"], "python -m benchmarks search has no key 'bacth'; nearest: batch"),
        (["update", "against=mctx"], "python -m benchmarks update has no key 'against'"),
        (
            ["search", "size=large"],
            "size=large: is not known; nearest: hard (choices: hard, medium, small, demo, dmc_cpu)",
        ),
        (["search", "size=smal"], "nearest: small"),
        (["search", "batch=1,x"], "batch=1,x: must be a whole number of at least 1"),
        (["search", "repeats=3"], "repeats=3: must be at least 5"),
        (["search", "json"], "cannot read 'json': an argument is key=value"),
        (["search", "clock=sun"], "clock=sun: is not known; nearest: wall (choices: wall, cpu)"),
        (["decision", "device=cuda"], "device=cuda:"),
        (["decision", "against=tdmpc2", "source=nowhere"], "source=nowhere is no clone of TD-MPC2: git clone https://"),
        (["env", "task=dmc/walker-wlk", "repeats=5"], "unknown task dmc/walker-wlk; nearest: walker-walk"),
    ],
    ids=str,
)
def test_a_mistake_is_one_line_that_names_the_nearest_choice(argv, message, capsys):
    assert bench.main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert message in captured.err


def test_defaults_and_values_are_read():
    given = arguments.parse(["search", "batch=[2,3]", "json=true", "size=demo", "clock=cpu"])
    assert (given.what, given.json, given.clock, given.threads, given.repeats) == ("search", True, "cpu", 1, 7)
    assert given.options == {"size": "demo", "batch": [2, 3], "dtype": None, "compile": None, "against": None}


def lines(capsys, *argv: str) -> list[dict]:
    assert bench.main([*argv, "json=true", "repeats=5", "clock=cpu"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]


@pytest.fixture(autouse=True)
def small_product(monkeypatch):
    monkeypatch.setitem(measure.PRODUCT, "cpu", 256)


def test_json_is_a_line_for_each_batch_size(capsys):
    found = lines(capsys, "search", "size=demo", "batch=1,3", "against=plain")
    assert [row["batch"] for row in found] == [1, 3]
    for row in found:
        assert list(row) == [*KEYS, "peer", "peer_ms", "ratio"]
        assert row["share_of_floor"] == pytest.approx(row["floor_ms"] / row["ms_median"])
        assert row["ratio"] == pytest.approx(row["ms_median"] / row["peer_ms"])
        assert row["threads"] == 1 and row["versions"]["torch"] == torch.__version__
    assert found[1]["floor_ms"] > found[0]["floor_ms"]


@pytest.mark.parametrize(
    "argv",
    [
        ("update", "size=demo", "batch=4"),
        ("decision", "task=dmc/cartpole-balance"),
        ("reanalyze", "size=demo", "batch=2"),
        ("replay", "batch=20", "capacity=1500", "against=index_select"),
        ("env", "batch=2", "task=dmc/cartpole-swingup", "action_repeat=2", "against=mj_step"),
        ("collect", "size=demo", "batch=2"),
    ],
    ids=lambda argv: argv[0],
)
def test_every_part_can_be_measured(argv, capsys):
    (row,) = lines(capsys, *argv)
    assert row["what"] == argv[0] and set(KEYS) <= set(row)
    assert row["ms_median"] > 0 and row["floor_ms"] > 0


def test_compiling_is_an_override_of_the_config():
    cfg = config("demo", *compile_override("planner", "reduce-overhead"), *compile_override("module", None))
    assert cfg.planner.compile == {"mode": "reduce-overhead", "dynamic": False} and cfg.module.compile is None


def test_what_is_measured_on_a_gpu_is_what_trains_there(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device("cuda"))
    cfg = config("hard", device="cuda")
    assert (cfg.trainer.accelerator, cfg.trainer.precision) == ("gpu", "bf16-mixed")
    assert cfg.module.optimizer.fused and cfg.module.search_model.dtype is None
    assert autocast(cfg, "cpu")._enabled and not autocast(config("hard"), "cpu")._enabled


def test_an_update_in_bfloat16_computes_in_it():
    cfg = config("demo", "trainer.precision=bf16-mixed")
    call = update_of(cfg, make_learner(cfg, "cpu"), 4, "cpu")
    seen = set()
    call.module.model.dynamics.fc1.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    call()
    assert seen == {torch.bfloat16}


def test_the_whole_loop_says_who_waits(capsys):
    (row,) = lines(capsys, "train", "size=demo", "updates=8")
    assert 0.3 < row["search_and_update_share"] <= 1
    assert row["search_and_update_share"] == pytest.approx(row["update_share"] + row["acting_share"])
    assert row["env_steps_per_s"] / row["updates_per_s"] == pytest.approx(3)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("search", "size=demo", "batch=1"), ["share"]),
        (("train", "size=demo", "updates=3"), ["share", "search_and_update_share", "memory_gb"]),
    ],
    ids=["search", "train"],
)
def test_a_table_fits_one_screen(argv, words, capsys):
    assert bench.main([*argv, "repeats=5"]) == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ["demo", *words]) and max(map(len, text.splitlines())) <= 80


def test_every_part_has_arguments_and_a_line_of_help():
    assert set(run.PARTS) == set(arguments.OWN)
    assert all(f"python -m benchmarks {what} " in (bench.__doc__ or "") for what in run.PARTS)


def test_flops_of_a_search_are_those_of_the_layers():
    """A root, and one node a simulation: two for each weight of the layers that it passes through."""
    cfg = config("demo")
    model, planner = make_model(cfg), planner_of(cfg)

    def weights(*modules: nn.Module) -> int:
        layers = [x for module in modules for x in module.modules() if isinstance(x, (nn.Linear, StackedLinear))]
        return sum(layer.weight.numel() for layer in layers)

    prediction = (model.trunk, model.value_heads, model.policy_head)
    node = weights(model.dynamics, model.action_embedding, model.reward, model.reward_head, *prediction)
    expected = 2 * (weights(model.representation, *prediction) + planner.num_simulations * node)
    assert search_flops(cfg, model, planner) == expected


def test_the_median_leaves_out_the_first_call_and_takes_turns():
    order: list[str] = []
    timer = measure.Timer(repeats=5, clock="wall", device="cpu")
    assert len(timer.medians(lambda: order.append("a"), lambda: order.append("b"))) == 2
    assert order == ["a", "b"] * 6


def test_the_peers_network_is_ours():
    jax = pytest.importorskip("jax", reason="mctx and JAX are not installed (extra `oracle`)")
    from benchmarks.mctx_peer import Network, _array
    from ezm_lightning.model import PackedModel
    from ezm_lightning.model.packed.weights import pack

    cfg = config("demo")
    model, planner = make_model(cfg), planner_of(cfg)
    for head in (model.reward_head, model.policy_head):
        nn.init.normal_(head.body[-1].weight, std=0.3)
    task, action = torch.arange(4), torch.rand(4, model.action_mask.shape[-1])
    latent, embedding = torch.randn(4, 1, cfg.model.latent_dim), model.embed(torch.arange(4))
    ours = PackedModel(model).recurrent_inference(latent, action[:, None], embedding, torch.tensor([[0, 1]]))
    weights = jax.tree.map(_array(jax), vars(pack(model)), is_leaf=lambda x: isinstance(x, torch.Tensor))
    network = Network(jax, model, planner)
    theirs = [jax.numpy.asarray(x.numpy()) for x in (latent[:, 0], action, model.embed(task))]
    reward, after = network.step(weights, *theirs)
    value, candidates = network.value_and_candidates(weights, after, theirs[2], 2)
    for mine, peers in (
        (ours.reward[:, 0], reward),
        (ours.latent[:, 0], after),
        (ours.head_values[:, 0].amin(-1), value),
    ):
        torch.testing.assert_close(mine, torch.tensor(peers.tolist()), rtol=1e-3, atol=1e-3)
    assert candidates.shape == (4, 2, action.shape[-1])
