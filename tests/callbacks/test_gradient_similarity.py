"""Cosines between the gradients of tasks: by hand, against a backward pass a task, without a trace in training."""

from __future__ import annotations

import csv
import math
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ezm_lightning import build
from ezm_lightning.callbacks.collect import Collect
from ezm_lightning.callbacks.gradient_similarity import COLUMNS, GradientSimilarity, pair_cosines, task_gradients
from ezm_lightning.commands import train
from ezm_lightning.config.compose import compose_checked
from ezm_lightning.config.folder import config_dir
from ezm_lightning.config.overrides import rewrite
from tests.brc.updates import make_windows
from tests.runs.short import SIZE, budget
from tests.runs.test_resume import same

AGENTS = {
    "ezm": ["model=tiny", "unroll_steps=1", "td_steps=1", "planner.num_simulations=2",
            "planner.max_num_considered_actions=2", "module.loss_coefs.value_gradient=1"],
    "brc": ["agent=brc", "model=brc_256", "model.width=16", "model.actor_width=16"],
}  # fmt: skip
TWO = "tasks=[tests.runs.short/point,tests.runs.short/other_point]"
CALLBACK = ["callbacks=gradient_similarity", "callbacks.gradient_similarity.interval=4"]


def test_cosines_of_vectors_by_hand() -> None:
    vectors = {0: [3.0, 0.0], 2: [1.0, 1.0], 3: [-2.0, 0.0], 5: [0.0, 0.0]}
    cosines = pair_cosines({task: torch.tensor(vector) for task, vector in vectors.items()})
    assert list(cosines) == [(0, 2), (0, 3), (0, 5), (2, 3), (2, 5), (3, 5)]
    assert cosines[0, 2] == pytest.approx(math.sqrt(0.5)) and cosines[0, 3] == pytest.approx(-1)
    assert cosines[2, 3] == pytest.approx(-math.sqrt(0.5))
    assert all(math.isnan(cosines[pair]) for pair in ((0, 5), (2, 5), (3, 5)))


def test_gradients_of_a_linear_model_by_hand() -> None:
    """Of (w·x − y)² it is 2 (w·x − y) x, summed over a task's rows; an unused parameter has 0, a frozen one nothing."""
    w = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    unused, frozen = torch.nn.Parameter(torch.ones(1)), torch.nn.Parameter(torch.ones(3), requires_grad=False)
    x, y = torch.tensor([[1.0, 0.0], [2.0, 1.0], [0.0, 3.0]]), torch.tensor([0.0, 1.0, -5.0])
    loss = (x @ w - y).square()  # residuals 1, -1, -1
    found = task_gradients(loss, torch.tensor([4, 1, 4]), {"all": [w, unused, frozen], "w": [w]})
    assert found["all"][1].tolist() == [-4, -2, 0] and found["all"][4].tolist() == [2, -6, 0]
    assert found["w"][4].tolist() == [2, -6] and w.grad is None
    loss.sum().backward()  # the graph is still there
    assert w.grad.tolist() == [-2, -8]


def learner(agent: str) -> torch.nn.Module:
    """A small agent on the four cartpole tasks before an update, the same each time."""
    line = rewrite(["tasks=cartpole", "run_dir=nowhere", *AGENTS[agent]], config_dir())
    torch.manual_seed(0)
    module = build.make_module(compose_checked("train", line, config_dir()))
    module._trainer = SimpleNamespace(global_step=1, log_every_n_steps=1000, world_size=1, max_steps=100, global_rank=0)
    module.on_fit_start()
    if agent == "brc":
        for task in range(4):
            module.reward_scale.update_(task, torch.tensor([10.0]), terminated=True)
    else:  # the heads start at zero, and a reward head at zero passes no gradient on
        torch.nn.init.normal_(module.model.reward_head.body[-1].weight, std=0.5)
        torch.nn.init.normal_(module.model.policy_head.body[-1].weight, std=0.5)
    return module.train()


def windows(weight: torch.Tensor | None = None):
    changes = {} if weight is None else {"weight": weight}
    return make_windows(rows=16, obs_dims=(5,) * 4, action_dims=(1,) * 4, **changes)


@pytest.mark.parametrize("agent", AGENTS)
def test_they_are_the_gradients_of_one_backward_pass_a_task(agent: str) -> None:
    """The oracle: the same update of a fresh copy in which the windows of all other tasks weigh nothing."""
    module, batch = learner(agent), windows()
    loss = module.training_step(batch, 0)["loss"]
    found = task_gradients(module.window_loss, batch.task, module.gradient_parts())
    assert all(p.grad is None for p in module.parameters())
    for task in range(4):
        alone = learner(agent)
        (16 * alone.training_step(windows((batch.task == task).float()), 0)["loss"]).backward()
        for part, parameters in alone.gradient_parts().items():
            expected = torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten()
                                  for p in parameters])  # fmt: skip
            assert expected.norm() > 0
            torch.testing.assert_close(found[part][task], expected, rtol=1e-4, atol=1e-5)
    loss.backward()
    assert module.window_loss is not None
    module.on_after_backward()
    assert module.window_loss is None
    for part, parameters in module.gradient_parts().items():  # the tasks' gradients add up to the update's
        whole = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
        if len(whole) == len(found[part][0]):
            assert (sum(found[part].values()) / 16 - whole).norm() < 1e-5 * whole.norm()


@pytest.mark.parametrize("agent", AGENTS)
def test_measuring_touches_no_gradient_statistic_or_random_number(agent: str) -> None:
    module, batch = learner(agent), windows()
    module.training_step(batch, 0)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    own, shared = module.generator.get_state(), torch.get_rng_state()
    task_gradients(module.window_loss, batch.task, module.gradient_parts())
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert torch.equal(module.generator.get_state(), own) and torch.equal(torch.get_rng_state(), shared)
    assert all(p.grad is None for p in module.parameters())


@pytest.mark.parametrize("agent", AGENTS)
def test_a_run_keeps_its_bits_and_lists_its_pairs(agent: str, tmp_path: Path) -> None:
    size = [*SIZE, TWO, budget(12)]  # of two tasks: 24 updates
    if agent == "brc":
        size = ["experiment=brc_cpu", TWO, "model.width=16", "model.actor_width=16", "batch_size=16",
                "warmup_env_steps=100", "env_steps_per_task=148", "env_steps_per_update=4",
                "evaluate.interval=1_000_000", "evaluate.episodes=1"]  # fmt: skip
    plain, measured = tmp_path / "plain", tmp_path / "measured"
    assert train.main([*size, f"hydra.run.dir={plain}"]) == 0
    assert train.main([*size, f"hydra.run.dir={measured}", *CALLBACK]) == 0
    checkpoints = [max((run / "checkpoints").glob("*.ckpt")) for run in (measured, plain)]
    assert checkpoints[0].name == "step=00000024.ckpt" == checkpoints[1].name
    assert same(*checkpoints) == []
    with open(measured / "gradient_similarity.csv") as file:
        rows = list(csv.DictReader(file))
    parts = {"ezm": {"dynamics", "reward", "value_policy"}, "brc": {"actor", "critic"}}[agent]
    assert {int(row["update"]) for row in rows} == {4, 8, 12, 16, 20, 24}
    assert {row["part"] for row in rows} <= parts and all(-1.001 <= float(row["cosine"]) <= 1.001 for row in rows)
    assert {(row["task_a"], row["task_b"]) for row in rows} == {tuple(TWO[7:-1].split(","))}
    metrics = list(csv.DictReader(next((measured / "csv").glob("*/metrics.csv")).open()))
    part = f"gradient_similarity/{sorted(parts)[-1]}"
    steps = {int(row["update"]): int(row["env_steps"]) for row in rows}  # the axis of every curve
    per_update = 4 if agent == "ezm" else 2
    assert all(value == 100 + per_update * update for update, value in steps.items())
    assert {int(float(row["step"])) for row in metrics if row[part]} <= set(steps.values())


def test_a_resumed_run_keeps_the_rows_up_to_its_checkpoint(tmp_path: Path) -> None:
    rows = [f"10,{update},critic,a,b,0.5" for update in (4, 8, 12)]
    file = tmp_path / "gradient_similarity.csv"
    file.write_text("\n".join([",".join(COLUMNS), *rows, "10,16,cri"]))  # killed while it wrote
    callback = GradientSimilarity(["a", "b"], run_dir=tmp_path, interval=4)
    callback.on_train_start(SimpleNamespace(is_global_zero=True, global_step=8), None)
    kept = "\n".join([",".join(COLUMNS), *rows[:2], ""])
    assert file.read_text() == kept
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    callback = GradientSimilarity(["a", "b"], run_dir=tmp_path / "new", interval=4)
    (tmp_path / "new").mkdir()
    from_there = str(tmp_path / "checkpoints" / "step=00000008.ckpt")
    callback.on_train_start(SimpleNamespace(is_global_zero=True, global_step=8, ckpt_path=from_there), None)
    assert callback.path.read_text() == kept


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["tasks=[tests.runs.short/point]"], "compares tasks, the run has only ['tests.runs.short/point']"),
        ([TWO, "module.compile={}"], "without torch.compile: module.compile=null"),
        ([TWO, "callbacks.gradient_similarity.interval=0"], "nearest: 1"),
    ],
)
def test_what_cannot_be_compared_is_one_line(overrides, words, tmp_path, capsys) -> None:
    assert train.main([*SIZE, budget(8), *CALLBACK, *overrides, f"hydra.run.dir={tmp_path / 'run'}"]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1 and not (tmp_path / "run").exists()


def test_a_learner_without_parts_is_named() -> None:
    callback = GradientSimilarity(["a", "b"], run_dir=".", interval=4)
    with pytest.raises(ValueError, match=r"needs a learner with gradient_parts\(\), Linear has none"):
        callback.check_learner(torch.nn.Linear(1, 1))


@pytest.mark.slow
@pytest.mark.parametrize("experiment", [["experiment=demo"], ["experiment=brc_cpu", "tasks=cartpole"]])
def test_it_costs_less_than_two_percent_of_training(experiment: list[str], tmp_path: Path, monkeypatch) -> None:
    """CPU time of a measurement of four tasks, against that of 500 updates with collection and without evaluation."""
    measured: list[float] = []
    ends: list[float] = []
    measure, collect = GradientSimilarity.on_before_backward, Collect.on_train_batch_end

    def timed(self, trainer, *arguments) -> None:
        before = time.process_time()
        measure(self, trainer, *arguments)
        measured.append(time.process_time() - before)

    def noted(self, *arguments) -> None:
        collect(self, *arguments)
        ends.append(time.process_time())

    monkeypatch.setattr(GradientSimilarity, "on_before_backward", timed)
    monkeypatch.setattr(Collect, "on_train_batch_end", noted)
    short = ["warmup_env_steps=1000", "env_steps_per_task=1100", "evaluate=null", f"hydra.run.dir={tmp_path / 'run'}"]
    every = ["callbacks=gradient_similarity", "callbacks.gradient_similarity.interval=10", "torch_threads=1"]
    assert train.main([*experiment, *short, *every]) == 0
    one = sum(measured[19::10]) / len(measured[19::10])  # without the first, which warms up
    update = (ends[-1] - ends[9] - sum(measured[10:])) / (len(ends) - 10)
    print(f"update {1000 * update:.1f} ms, measurement {1000 * one:.1f} ms, share {one / (500 * update):.2%}")
    assert one < 0.02 * 500 * update
