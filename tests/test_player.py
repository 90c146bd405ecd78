"""``ezm_lightning.load``: what acts, in NumPy and torch, with and without a search, and one line for each mistake."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

import ezm_lightning
from ezm_lightning import agent as trained
from ezm_lightning import player
from ezm_lightning.build import make_module
from ezm_lightning.checkpoints import tensor_file
from ezm_lightning.checkpoints.contents import read_checkpoint
from ezm_lightning.config.compose import compose_checked, hydra_resolvers, without_hydra
from ezm_lightning.config.folder import config_dir
from ezm_lightning.config.saved import resolved_config
from ezm_lightning.envs import sources
from ezm_lightning.module import EZM
from tests.commands.test_eval import TASKS, Edge, Pair, Point
from tests.export.agents import awake

WALKER = "dmc/walker-walk"


def write_checkpoint(file: Path, experiment: str = "debug", tasks: Sequence[str] = TASKS, *overrides: str) -> Path:
    """A checkpoint of an agent that was not trained; as given, on three tasks of different widths."""
    composed = compose_checked(
        "train",
        [f"experiment={experiment}", "tasks=custom", f"tasks.names=[{','.join(tasks)}]", "run_dir=x", *overrides],
        config_dir(),
    )
    with hydra_resolvers(composed):
        cfg = OmegaConf.create(OmegaConf.to_container(without_hydra(composed), resolve=True))
    module = make_module(cfg)
    if hasattr(module, "target"):
        awake(module.target.model)
    content = {"state_dict": module.state_dict(), "hyper_parameters": OmegaConf.to_container(cfg), "global_step": 1}
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, file)
    return file


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    sources.register_source("short", {"point": Point, "edge": Edge, "pair": Pair})
    try:
        yield write_checkpoint(tmp_path_factory.mktemp("player") / "a.ckpt")
    finally:
        del sources.SOURCES["short"]


@pytest.fixture(scope="module")
def agent(checkpoint):
    return ezm_lightning.load(checkpoint)


@pytest.mark.parametrize("experiment", ["debug", "brc_cpu"])
def test_tasks_with_action_repeats_of_their_own(checkpoint, tmp_path, experiment) -> None:
    file = write_checkpoint(tmp_path / "a.ckpt", experiment)
    content = torch.load(file)
    content["hyper_parameters"]["tasks"]["action_repeat"] = {TASKS[0]: 4, "others": 1}
    torch.save(content, file)
    agent = ezm_lightning.load(file)
    assert agent.action_repeat == [4, 1, 1] and [agent.repeat_of(task) for task in TASKS] == [4, 1, 1]
    if experiment == "debug":
        player.record_of(read_checkpoint(file), resolved_config(read_checkpoint(file), file), file).write(
            tmp_path / "b.agent"
        )
        again = ezm_lightning.load(tmp_path / "b.agent")
        assert again.action_repeat == [4, 1, 1] and again.repeat_of(TASKS[0]) == 4
    one = ezm_lightning.load(checkpoint)
    assert one.action_repeat == 2 == one.repeat_of(TASKS[1])
    with pytest.raises(ValueError, match="nearest"):
        one.repeat_of("short/poin")


def obs_of(agent, task: str, rows: int) -> np.ndarray:
    width = agent.table.obs_dims[agent.table.index_of(task)]
    return np.random.default_rng(0).standard_normal((rows, width)).astype(np.float32)


@pytest.mark.parametrize("search", [True, False])
def test_an_agent_with_room_for_wider_tasks(checkpoint, tmp_path, search) -> None:
    room = ["model.least_obs_dim=9", "model.least_action_dim=4"]
    agent = ezm_lightning.load(write_checkpoint(tmp_path / "a.ckpt", "debug", TASKS, *room))
    for task, width in zip(TASKS, agent.table.action_dims, strict=True):
        assert agent.act(obs_of(agent, task, 2), task, search=search).shape == (2, width)
    assert agent.act(np.zeros((3, max(agent.table.obs_dims))), TASKS, search=search).shape == (3, 2)


def test_loading_imports_no_trainer_no_records_and_no_simulator() -> None:
    heavy = ("lightning", "hydra", "torchrl", "tensordict", "mujoco", "dm_control", "gymnasium", "torch._dynamo")
    code = (
        "import sys, numpy, ezm_lightning; "
        "agent = ezm_lightning.load('walker'); agent.act(numpy.zeros(24)); agent.act(numpy.zeros(24), search=False); "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/")
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stderr


def test_the_package_itself_imports_nothing() -> None:
    code = "import sys, ezm_lightning; print([name for name in ('torch', 'numpy', 'omegaconf') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


@pytest.mark.parametrize("search", [True, False])
@pytest.mark.parametrize("task", TASKS)
def test_one_and_many_numpy_and_torch_are_the_same_actions(agent, task, search) -> None:
    obs = obs_of(agent, task, 3)
    agent.reset(5)
    many = agent.act(obs, task, search=search)
    width = agent.table.action_dims[agent.table.index_of(task)]
    assert many.shape == (3, width) and many.dtype == np.float32 and np.abs(many).max() <= 1
    agent.reset(5)
    in_torch = agent.act(torch.from_numpy(obs), task, search=search)
    assert isinstance(in_torch, torch.Tensor)
    np.testing.assert_array_equal(in_torch.numpy(), many)
    agent.reset(5)
    assert agent.act(obs[0], task, search=search).shape == (width,)
    np.testing.assert_array_equal(obs, obs_of(agent, task, 3))  # what was given stays as it was


def test_it_acts_as_the_agent_of_the_commands(agent, checkpoint) -> None:
    """Against ``agent.load``, which builds the LightningModule: the same bits, search and policy."""
    module = trained.load(checkpoint).module
    obs = np.zeros((len(TASKS), max(agent.table.obs_dims)), np.float32)
    for i, task in enumerate(TASKS):
        row = obs_of(agent, task, 1)[0]
        obs[i, : len(row)] = row
    index = torch.arange(len(TASKS))
    for search, actor in ((True, module.make_actor()), (False, module.other_actors()["policy mean"])):
        agent.reset(3)
        expected = actor.act(torch.from_numpy(obs), index, torch.Generator().manual_seed(3), explore=False)["action"]
        np.testing.assert_array_equal(agent.act(obs, TASKS, search=search), expected.numpy())


def test_the_budget_changes_the_plan_and_the_seed_its_noise(agent) -> None:
    obs, task = obs_of(agent, TASKS[0], 64), TASKS[0]

    def act(seed: int, simulations: int | None) -> np.ndarray:
        agent.reset(seed)
        return agent.act(obs, task, simulations=simulations)

    trained_with = act(0, None)
    np.testing.assert_array_equal(act(0, None), trained_with)
    np.testing.assert_array_equal(act(0, 8), trained_with)  # experiment=debug plans 8
    assert (act(0, 1) != trained_with).any() and (act(1, None) != trained_with).any()
    np.testing.assert_array_equal(act(0, None), trained_with)


def test_an_embedding_has_norm_at_most_one_and_is_the_tasks_own(agent) -> None:
    embeddings = np.stack([agent.embedding(task) for task in agent.tasks])
    assert agent.tasks == TASKS and embeddings.ndim == 2
    assert (np.linalg.norm(embeddings, axis=1) <= 1 + 1e-5).all()
    assert (embeddings[0] != embeddings[1]).any()


def test_an_agent_file_acts_as_its_checkpoint(agent, checkpoint, tmp_path) -> None:
    content = read_checkpoint(checkpoint)
    record = player.record_of(content, resolved_config(content, checkpoint), checkpoint)
    assert not any(name.startswith(("projection", "prediction")) for name in record.weights)
    record.write(tmp_path / "x.agent")
    assert [file.name for file in tmp_path.iterdir()] == ["x.agent"]
    again = ezm_lightning.load(tmp_path / "x.agent")
    assert (again.table, again.action_repeat) == (agent.table, agent.action_repeat)
    for search in (True, False):
        obs = obs_of(agent, TASKS[1], 4)
        agent.reset()
        again.reset()
        np.testing.assert_array_equal(again.act(obs, TASKS[1], search=search), agent.act(obs, TASKS[1], search=search))
    with pytest.raises(ValueError, match="exists already: remove it"):
        record.write(tmp_path / "x.agent")


def test_an_agent_without_a_planner_acts_too(checkpoint, tmp_path) -> None:
    brc = ezm_lightning.load(write_checkpoint(tmp_path / "brc.ckpt", "brc_cpu"))
    obs = obs_of(brc, TASKS[0], 2)
    action = brc.act(obs, TASKS[0])
    np.testing.assert_array_equal(brc.act(obs, TASKS[0], search=False), action)
    assert action.shape == (2, brc.table.action_dims[0]) and brc.embedding(TASKS[0]).ndim == 1
    with pytest.raises(ValueError, match="simulations=4: BRC has no planner to give it to"):
        brc.act(obs, TASKS[0], simulations=4)


class OwnLearner(EZM):
    """A learner of one's own, as docs/extend.md has them."""


def test_a_learner_of_ones_own_takes_a_budget_too(checkpoint, agent, tmp_path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    content["hyper_parameters"]["module"]["_target_"] = f"{__name__}.OwnLearner"
    torch.save(content, tmp_path / "own.ckpt")
    own = ezm_lightning.load(tmp_path / "own.ckpt", trust=True)
    obs = obs_of(agent, TASKS[0], 3)
    for budget in ({}, {"simulations": 4}):
        np.testing.assert_array_equal(own.act(obs, TASKS[0], **budget), agent.act(obs, TASKS[0], **budget))


@pytest.mark.parametrize(
    ("obs", "arguments", "said"),
    [
        (np.zeros(4), {"task": "short/poin"}, "no task 'short/poin'; nearest: short/point"),
        (np.zeros(99), {"task": TASKS[0]}, r"obs has shape \[99\], expected"),
        (np.zeros((2, 2, 2)), {"task": TASKS[0]}, "obs has shape"),
        ("nan", {"task": TASKS[0]}, "obs is not finite: nan in column 1 of row 0"),
        (np.zeros(4), {}, "which task"),
        ("zero", {"task": TASKS[0], "simulations": 0}, "simulations=0 must be at least 1; nearest: 1"),
        ("zero", {"task": TASKS[0], "simulations": 1.5}, "simulations=1.5 must be a whole number"),
    ],
)
def test_mistakes_in_a_call_are_one_line(agent, obs, arguments, said) -> None:
    if isinstance(obs, str):
        values = np.zeros(agent.table.obs_dims[0])
        values[1] = np.nan if obs == "nan" else 0
        obs = values
    with pytest.raises(ValueError, match=said) as error:
        agent.act(obs, **arguments)
    assert "\n" not in str(error.value)


def test_what_cannot_be_loaded_is_one_line(checkpoint, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    content = read_checkpoint(checkpoint)
    record = player.record_of(content, resolved_config(content, checkpoint), checkpoint)
    record.write(tmp_path / "good.agent")
    good = (tmp_path / "good.agent").read_bytes()
    (tmp_path / "cut.agent").write_bytes(good[: len(good) // 2])
    raw = tensor_file.read(tmp_path / "good.agent")
    part = {key: value for key, value in raw.items() if key != "weights"}
    foreign = {**raw, "config": {**raw["config"], "model": {"_target_": "os.system", "command": "true"}}}
    lacking = {**raw, "weights": dict(list(raw["weights"].items())[1:])}
    for name, changed in (("new", {**raw, "ezm_agent": 2}), ("part", part), ("foreign", foreign), ("less", lacking)):
        tensor_file.write(changed, tmp_path / f"{name}.agent")
    (tmp_path / "empty").mkdir()
    for path, said in {
        "walkr": "nearest: walker",
        "godo.agent": "nearest: good.agent",
        "cut.agent": "is damaged|cannot be read",
        "new.agent": "is an agent file of format 2, this version reads format 1",
        "part.agent": "is not a whole agent file: it has no weights",
        "foreign.agent": "names code that is not part of ezm_lightning",
        "less.agent": "1 absent",
        "empty": "without an intact checkpoint",
    }.items():
        with pytest.raises(ValueError, match=said) as error:
            ezm_lightning.load(path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", player.shipped())
def test_a_shipped_agent_is_small_has_a_card_and_plays(name) -> None:
    file = player.SHIPPED / f"{name}.agent"
    card = file.with_suffix(".md").read_text()
    assert file.stat().st_size < 3_000_000
    for word in ("return", "Trained by", "Commit", "Licence: Apache-2.0", f"ezm play {name}"):
        assert word in card
    agent = ezm_lightning.load(name)
    assert all(task in card for task in agent.tasks)


def test_the_shipped_walker_walks() -> None:
    """150 decisions of one episode; standing still and random actions get a tenth of it."""
    agent = ezm_lightning.load("walker")
    env = ezm_lightning.make_env(WALKER, action_repeat=agent.action_repeat)
    obs, _ = env.reset(seed=1)
    total = 0.0
    for _ in range(150):
        obs, reward, *_ = env.step(agent.act(obs, WALKER, search=False))
        total += reward
    assert total > 0.7 * 150 * agent.action_repeat


def test_an_agent_that_was_trained_compiled_acts_without_a_compiler(checkpoint, monkeypatch):
    content = read_checkpoint(checkpoint)
    cfg = resolved_config(content, checkpoint)
    cfg.module.reanalyzer.planner.compile = {}
    record = player.record_of(content, cfg, checkpoint)
    monkeypatch.setattr(torch, "compile", lambda *_, **__: pytest.fail("a plan was compiled"))
    plain = player.player_of(player.record_of(content, resolved_config(content, checkpoint), checkpoint), checkpoint)
    obs = obs_of(plain, TASKS[0], 2)
    assert np.array_equal(player.player_of(record, checkpoint).act(obs, TASKS[0]), plain.act(obs, TASKS[0]))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_named(checkpoint):
    with pytest.raises(ValueError, match="device=cuda: torch finds no GPU here; nearest: cpu"):
        ezm_lightning.load(checkpoint, device="cuda")
