"""``ezm export``: a checkpoint alone gives a folder that acts as the agent does; every mistake gives one line."""

import json
import shlex
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from ezm_lightning.acting import ZeroActor
from ezm_lightning.agent import load
from ezm_lightning.build import make_env, make_module
from ezm_lightning.commands import agent_card, export
from ezm_lightning.config.compose import compose_checked, hydra_resolvers, without_hydra
from ezm_lightning.config.folder import config_dir
from ezm_lightning.envs import sources
from ezm_lightning.evaluation.episodes import chooser, run_episodes
from ezm_lightning.export.runtime import ExportedAgent
from tests.commands.test_eval import TASKS, Edge, Pair, Point
from tests.export.agents import awake

pytest.importorskip("onnxruntime", reason="pip install 'ezm-lightning[onnx]'")
pytest.importorskip("onnxscript", reason="pip install 'ezm-lightning[onnx]'")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint in its run's folder, of an agent that was not trained; three tasks of different widths."""
    sources.register_source("short", {"point": Point, "edge": Edge, "pair": Pair})
    file = tmp_path_factory.mktemp("runs") / "debug" / "seed1_then" / "checkpoints" / "step=00000001.ckpt"
    file.parent.mkdir(parents=True)
    composed = compose_checked(
        "train", ["experiment=debug", "tasks=custom", f"tasks.names=[{','.join(TASKS)}]", "run_dir=x"], config_dir()
    )
    with hydra_resolvers(composed):
        cfg = OmegaConf.create(OmegaConf.to_container(without_hydra(composed), resolve=True))
    module = make_module(cfg)
    awake(module.target.model)
    content = {"state_dict": module.state_dict(), "hyper_parameters": OmegaConf.to_container(cfg), "global_step": 1}
    torch.save(content, file)
    try:
        yield file
    finally:
        del sources.SOURCES["short"]


@pytest.fixture(scope="module")
def folder(checkpoint, tmp_path_factory):
    """What ``ezm export`` writes by default."""
    run = checkpoint.parents[1]
    assert export.main([f"ckpt_path={run / 'checkpoints' / checkpoint.name}", "roots=32"]) == 0
    return run / "export"


@pytest.fixture
def refused(capsys, tmp_path, monkeypatch):
    """Runs ``ezm export`` in an empty folder; returns its one line of error after checking that it wrote nothing."""
    monkeypatch.chdir(tmp_path)

    def call(*argv):
        before = sorted(tmp_path.rglob("*"))
        assert export.main(list(argv)) == 2
        line = capsys.readouterr().err.strip()
        assert line.startswith("error: ") and "\n" not in line
        assert sorted(tmp_path.rglob("*")) == before
        return line

    return call


def test_the_folder_lies_in_the_run_and_holds_both_graphs(folder) -> None:
    files = ["agent.json", "policy.onnx", "runtime.py", "search.onnx"]
    assert sorted(file.name for file in folder.iterdir()) == files
    assert sorted(file.name for file in folder.parent.iterdir()) == ["checkpoints", "export"]
    about = json.loads((folder / "agent.json").read_text())
    assert (about["checkpoint"], about["action_repeat"]) == ("step=00000001.ckpt", 2)
    assert about["planner"]["num_simulations"] == 8
    assert [task["name"] for task in about["tasks"]] == TASKS


def test_the_policy_plays_the_episodes_that_it_plays_in_torch(folder, checkpoint) -> None:
    agent, exported = load(checkpoint), ExportedAgent(folder, graph="policy")
    env = make_env(agent.cfg, envs_per_task=2, ignore_termination=True)

    def act(td):
        return torch.from_numpy(exported.act(td["obs"].numpy(), [TASKS[i] for i in td["task"]]))

    env.set_seed(4)
    expected = run_episodes(env, chooser(agent.other_actors(TASKS)["policy mean"], torch.Generator())).ignored
    env.set_seed(4)
    np.testing.assert_allclose(run_episodes(env, act).ignored, expected, rtol=1e-4)
    env.close()


def test_torch_is_a_format_too(checkpoint, tmp_path, capsys) -> None:
    wanted = ["format=torch", "what=policy", "roots=32", "eval_episodes=0", f"out={tmp_path / 'robot'}"]
    assert export.main([f"ckpt_path={checkpoint}", *wanted]) == 0
    assert "robot/policy.pt2" in capsys.readouterr().out
    assert ExportedAgent(tmp_path / "robot").act(np.zeros(3), TASKS[0]).ndim == 1


def test_it_prints_what_was_compared_and_how_fast_it_decides(checkpoint, tmp_path, capsys) -> None:
    overrides = ["what=policy", "roots=20", f"out={tmp_path / 'new' / 'robot'}"]
    assert export.main([f"ckpt_path={checkpoint}", *overrides]) == 0
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["robot"]
    out = capsys.readouterr().out
    assert "policy.onnx" in out and "20 of 20 actions as in torch" in out and "p50" in out and "Hz" in out


@pytest.mark.parametrize(("shipped", "named"), [(False, "my robot.agent"), (True, "my robot")])
def test_the_card_says_what_plays_the_agent(checkpoint, tmp_path, monkeypatch, shipped, named) -> None:
    """Its file; only an agent that comes with the package has a name without a suffix."""
    if shipped:
        monkeypatch.setattr(agent_card, "SHIPPED", tmp_path)
    line = ["format=agent", "eval_episodes=0", f"out='{tmp_path / 'my robot'}'"]
    assert export.main([f"ckpt_path={checkpoint}", *line]) == 0
    (shown,) = [text for text in (tmp_path / "my robot.md").read_text().splitlines() if "See it act" in text]
    assert shlex.split(shown.split("`")[1]) == ["ezm", "play", named]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("what=polcy", "what=polcy; nearest: policy"),
        ("batch=0", "batch=0"),
        ("roots=0", "roots=0"),
        ("bach=2", "unknown key 'bach'; nearest: batch"),
        ("planner.num_candidates=1", "num_policy_candidates"),
        ("ckpt_path=missing.ckpt", "does not exist"),
        ("out=file/robot", "file/robot cannot be written"),
        ("out=file", "file exists already"),
    ],
)
def test_mistakes_are_one_line(checkpoint, refused, tmp_path, override, said) -> None:
    (tmp_path / "file").touch()
    assert said in refused(f"ckpt_path={checkpoint}", "out=robot", override)


def test_a_checkpoint_of_another_agent_is_refused(refused, tmp_path) -> None:
    torch.save({"state_dict": {}, "hyper_parameters": {"tasks": {"names": TASKS}}}, tmp_path / "other.ckpt")
    assert "is not a checkpoint of this version of ezm train" in refused("ckpt_path=other.ckpt", "out=robot")


def test_an_agent_of_other_parts_is_refused(checkpoint, refused, monkeypatch) -> None:
    class Other:
        tasks = TASKS
        cfg = OmegaConf.create({"tasks": {"action_repeat": 1}, "planner": dict.fromkeys(export.SETTINGS, 1)})
        module = SimpleNamespace(make_actor=lambda: ZeroActor(1))

    monkeypatch.setattr(export, "load", lambda *_, **__: Other)
    line = refused(f"ckpt_path={checkpoint}", "out=robot")
    assert "holds a SimpleNamespace; ezm export writes agents that plan, EZM" in line


def test_without_the_extra_it_says_what_to_type(checkpoint, refused, monkeypatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "onnx" else find(name, *rest))
    assert "pip install 'ezm-lightning[onnx]'" in refused(f"ckpt_path={checkpoint}", "out=robot")


@pytest.mark.parametrize("what", ["policy", "search"])
def test_a_graph_that_acts_otherwise_gets_no_name(checkpoint, refused, monkeypatch, what) -> None:
    from ezm_lightning.export import folder as export_folder

    def other(module, file, metadata):
        weights = [tensor.clone() for tensor in module.buffers()]
        for tensor in module.buffers():
            tensor.mul_(1.5)
        write(module, file, metadata)
        for tensor, before in zip(module.buffers(), weights, strict=True):
            tensor.copy_(before)

    write = export_folder.write_graph
    monkeypatch.setattr(export_folder, "write_graph", other)
    line = refused(f"ckpt_path={checkpoint}", "out=robot", f"what={what}", "roots=20")
    assert f"{what}.onnx acts otherwise than its module in torch at" in line
